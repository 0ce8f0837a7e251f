"""The command line: one short function a command; the work stays in the library."""

from onnxviz.cli.parent import main as main
