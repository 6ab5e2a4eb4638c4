"""Serve pages: what those of the game and of the gateway share, from sign-in and limits to their style."""
