"""What a network makes of pictures as it runs: activations, patches, features, neighbours, maps; and its file."""
