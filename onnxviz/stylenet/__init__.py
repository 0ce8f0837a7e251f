"""Feed-forward style networks: their training in torch and their form in ONNX. Needs the extra `torch`."""
