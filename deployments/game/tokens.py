"""Tokens of operators and annotators: given once in a form, then a cookie that does not hold them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

_DAY = 24 * 3600


class Login(BaseModel):
    """A token, typed in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


def same(given: str | None, known: str) -> bool:
    """Compared in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), known.encode())


def session(token: str, cookie: str) -> str:
    """What the cookie of that name holds for a token: it opens the page, and the token cannot be read from it."""
    return hmac.new(token.encode(), cookie.encode(), hashlib.sha256).hexdigest()


def held(request: Request, cookie: str, tokens: Iterable[str]) -> str | None:
    """Which of the tokens a request carries, in `Authorization: Bearer` or by its cookie; None for neither."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else None
    kept = request.cookies.get(cookie)
    found = [token for token in tokens if same(given, token) or same(kept, session(token, cookie))]
    return found[0] if found else None


def remember(response: Response, cookie: str, token: str, *, secure: bool) -> None:
    """Set the cookie, for a day."""
    response.set_cookie(cookie, session(token, cookie), max_age=_DAY, httponly=True, samesite="strict", secure=secure)
