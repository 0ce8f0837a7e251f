"""Pictures that are made: ascent, dreams, inversions, textures, styles, fooling."""
