"""What can be told of a graph without running it: shapes, receptive fields, parameters, work, module paths."""
