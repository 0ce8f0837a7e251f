"""Where graphs are run."""
