"""Evaluate and promote registered versions."""
