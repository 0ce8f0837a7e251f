"""`python -m onnxviz` is the command line."""

from onnxviz.cli.parent import main

main()
