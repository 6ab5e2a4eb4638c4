"""Orchestrate stages as Prefect flows, one flow per module; `round.py` is the place to start."""
