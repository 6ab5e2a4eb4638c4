"""Define the refusal of a request."""

from __future__ import annotations

from respect_core.errors import ExpectedError


class RequestDeniedError(ExpectedError):
    """A refused request. `status` is the status code of HTTP."""

    def __init__(self, status: int, field: str, reason: str, game: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.field, self.reason, self.game = status, field, reason, game
