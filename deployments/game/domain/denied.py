"""A request that is refused."""

from __future__ import annotations

from respect_core.errors import ExpectedError


class RequestDeniedError(ExpectedError):
    """No game. `status` is HTTP's."""

    def __init__(self, status: int, field: str, reason: str, game: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.field, self.reason, self.game = status, field, reason, game
