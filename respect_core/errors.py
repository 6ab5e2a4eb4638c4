"""The base of failures that explain themselves."""

from __future__ import annotations


class ExpectedError(RuntimeError):
    """A failure whose message says what went wrong, where, and what to do: commands print it without a traceback."""
