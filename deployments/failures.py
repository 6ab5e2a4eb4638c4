"""Failures for the log: what failed and where, without a message, which may hold what a user wrote."""

from __future__ import annotations

import traceback


def place_of(error: BaseException) -> str:
    """Give an error's type, and its traceback without the message."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
