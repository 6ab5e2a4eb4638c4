"""Define the base of all exceptions of the project, and the one for packages of extras that are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_OWN = ("respect_core", "tasks", "flows", "deployments")


class ExpectedError(RuntimeError):
    """A failure whose message says what went wrong, where, and what to do: commands print it without a traceback.

    A subclass for a bad value or a missing thing is a ValueError or LookupError as well.
    """


class MissingExtraError(ExpectedError, ImportError):
    """A package that an extra of this project brings is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import what an extra brings. Raises MissingExtraError if a package is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN:
            raise
        raise MissingExtraError(f'{error.name} is not installed: pip install "respect[{name}]"') from error
