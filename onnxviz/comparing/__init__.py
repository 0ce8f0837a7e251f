"""`compare`: what changed between two files of one network, which layer did it, why, and what to do."""
