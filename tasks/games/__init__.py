"""Bring games into the store: simulated play, imports, games between people, annotations."""
