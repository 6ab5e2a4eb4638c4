"""Define the base of all exceptions of the project."""

from __future__ import annotations


class ExpectedError(RuntimeError):
    """A failure whose message says what went wrong, where, and what to do: commands print it without a traceback.

    A subclass for a bad value or a missing thing is a ValueError or LookupError as well.
    """
