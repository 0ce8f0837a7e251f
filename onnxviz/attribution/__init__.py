"""What a score rests on: targets, and the methods that map it over a picture."""
