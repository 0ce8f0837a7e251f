"""`onnxviz demo`: every technique on the bundled network and on photos that come with the dependencies."""

from onnxviz.demo.run import demo as demo
