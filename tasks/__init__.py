"""Wrap the method in thin Prefect tasks, grouped by what they serve."""
