"""Serve the game over HTTP and sockets: pages, API, limits, operator and annotator views."""
