"""Serve policies: deployed versions answer users over HTTP (docs/serving.md)."""
