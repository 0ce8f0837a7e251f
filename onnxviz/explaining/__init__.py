"""Building explainers: one ONNX graph from a picture to a class and a heat map. Never imports a runtime."""
