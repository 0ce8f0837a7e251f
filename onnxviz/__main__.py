"""`python -m onnxviz` is the command line."""

from onnxviz.cli import main

main()
