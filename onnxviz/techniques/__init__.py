"""One technique a file: a plain function of a network and arrays."""
