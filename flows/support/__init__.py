"""Share what flows need: local servers and their guard, locks, run tags, terminal output."""
