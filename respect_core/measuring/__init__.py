"""Measure deployments, decoders and users. For measuring only: learning imports nothing from here."""
