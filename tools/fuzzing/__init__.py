"""The parts of tools/fuzz.py: networks to start from, mutations, one trial in a child process, and the minimiser."""
