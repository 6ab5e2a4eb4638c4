"""Offer the `respect` command, on top of everything else."""
