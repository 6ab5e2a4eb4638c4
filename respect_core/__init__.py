"""RESPECT, the method: learning from the feedback that users give without being asked."""

__version__ = "0.1.0"
