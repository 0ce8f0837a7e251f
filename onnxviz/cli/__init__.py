"""The command line: one short function a command; the work stays in the library."""
