"""Define the refusal of a request, and say what is wrong with one without what was sent."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from respect_core.errors import ExpectedError

# What a complaint's path begins with, before the field: the part of a request, or the type of a message.
_PREFIXES = {"body", "path", "query", "cookie", "say", "act", "leave", "wait", "ping"}


class RequestDeniedError(ExpectedError):
    """A refused request. `status` is the status code of HTTP."""

    def __init__(self, status: int, field: str, reason: str, game: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.field, self.reason, self.game = status, field, reason, game


class Problem(BaseModel):
    """Why a request was refused; it never repeats what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = ""
    reason: str
    game: str | None = Field(default=None, description="with 409: the game that is running")


def complaint(error: Any) -> tuple[str, str]:
    """Return field and reason of the first complaint, without anything that was sent, be it the name of a field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "", "not JSON"
    if first["type"] == "extra_forbidden":
        return "", "there is a field too many"
    if first["type"].startswith("union_tag"):
        return "type", "there is no such message"
    names = [str(part) for part in first["loc"] if part not in _PREFIXES]
    return names[0] if names else "", str(first["msg"])  # what lies deeper is named by who sent it
