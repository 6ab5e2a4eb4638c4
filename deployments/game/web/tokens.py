"""Tokens of operators and annotators: given once in a form, then a cookie that does not hold them.

The cookie has the time of its issue, signed, and the server lets it in for as long as the settings say, whatever the
browser keeps. Signing out deletes it from the browser; a copy taken before ends with its time, or with the token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from fastapi import Request, Response
from itsdangerous import TimestampSigner
from pydantic import BaseModel, ConfigDict, StringConstraints


class Login(BaseModel):
    """A token, typed in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


def same(given: str | None, known: str) -> bool:
    """Compare two tokens in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), known.encode())


def held(request: Request, cookie: str, tokens: Iterable[str]) -> str | None:
    """Which of the tokens a request carries, in `Authorization: Bearer` or by its cookie; None for neither."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else None
    # Ages are in whole seconds, rounded either way.
    kept, oldest = request.cookies.get(cookie, ""), int(request.app.state.settings.signed_in) - 1
    found = [token for token in tokens if same(given, token) or _signer(token, cookie).validate(kept, oldest)]
    return found[0] if found else None


def remember(request: Request, response: Response, cookie: str, token: str) -> None:
    """Set the cookie, for as long as the settings say."""
    settings = request.app.state.settings
    value = _signer(token, cookie).sign(cookie).decode()
    response.set_cookie(
        cookie, value, max_age=int(settings.signed_in), httponly=True, samesite="strict", secure=settings.secure
    )


def _signer(token: str, cookie: str) -> TimestampSigner:
    return TimestampSigner(token, salt=cookie, key_derivation="hmac", digest_method=hashlib.sha256)
