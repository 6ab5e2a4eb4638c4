"""Implement the method, RESPECT: learn from the feedback that users give without being asked."""

__version__ = "0.1.0"
