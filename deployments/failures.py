"""Describe failures for the log: what failed and where, without the message, which may contain what a user wrote."""

from __future__ import annotations

import traceback


def place_of(error: BaseException) -> str:
    """Return an error's type, and its traceback without the message."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
