"""The command line: one short function a command; the work stays in the library."""

from onnxviz.cli.main import main as main
