"""Tokens of operators and annotators: given once in a form, then a cookie that does not hold them.

The cookie has the time of its issue, signed, and the server lets it in for as long as the settings say, whatever the
browser keeps. Signing out deletes it from the browser; a copy taken before ends with its time, or with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints


class Login(BaseModel):
    """A token, typed in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


def same(given: str | None, known: str) -> bool:
    """Compare two tokens in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), known.encode())


def session(token: str, cookie: str, issued: float) -> str:
    """The cookie's content for a token: it opens the page, and the token cannot be read from it."""
    at = str(int(issued))
    return f"{at}.{_signed(token, cookie, at)}"


def held(request: Request, cookie: str, tokens: Iterable[str]) -> str | None:
    """Which of the tokens a request carries, in `Authorization: Bearer` or by its cookie; None for neither."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else None
    kept, lasts = request.cookies.get(cookie), request.app.state.settings.signed_in
    found = [token for token in tokens if same(given, token) or _holds(kept, token, cookie, lasts)]
    return found[0] if found else None


def remember(request: Request, response: Response, cookie: str, token: str) -> None:
    """Set the cookie, for as long as the settings say."""
    settings = request.app.state.settings
    value = session(token, cookie, time.time())
    response.set_cookie(
        cookie, value, max_age=int(settings.signed_in), httponly=True, samesite="strict", secure=settings.secure
    )


def _holds(kept: str | None, token: str, cookie: str, lasts: float) -> bool:
    at, _, signature = (kept or "").partition(".")
    # Setting a clock back does not prolong a session.
    return same(signature, _signed(token, cookie, at)) and abs(time.time() - int(at)) < lasts


def _signed(token: str, cookie: str, at: str) -> str:
    return hmac.new(token.encode(), f"{cookie} {at}".encode(), hashlib.sha256).hexdigest()
