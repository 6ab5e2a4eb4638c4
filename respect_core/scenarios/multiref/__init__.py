"""Implement MULTIREF, the paper's reference game: rules, prompt, legal actions, simulated speakers."""
