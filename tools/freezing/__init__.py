"""What `tools/freeze.py` is made of: what is run, how it is told in few numbers, and how two tellings differ."""
