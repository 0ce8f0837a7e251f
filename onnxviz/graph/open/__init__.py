"""What a model must keep before it is opened: structure, operators, tensors, sizes."""
