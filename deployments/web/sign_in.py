"""Sign operators and annotators in: a token, given once in a form, then a cookie that does not hold it.

The cookie has the time of its issue, signed, and the server lets it in for as long as the settings say, whatever the
browser keeps. Signing out deletes it from the browser; a copy taken before ends with its time, or with the token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from itsdangerous import TimestampSigner
from pydantic import BaseModel, ConfigDict, StringConstraints

from deployments.web.denied import RequestDeniedError


class Login(BaseModel):
    """A token, typed in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=256)]


@dataclass(frozen=True)
class SignIn:
    """Who may enter: a dependency, which returns the name that a request's token or cookie stands for.

    The settings in `app.state.settings` say for how many seconds (`signed_in`), and whether over TLS only (`secure`).

    Args:
        who: has such a token, for messages and for the cookie's name.
        variable: of the environment, which opens the page.
        names: of the settings, by token; none where the page is closed.
    """

    who: str
    variable: str
    names: Callable[[Any], Mapping[str, str]]

    def __call__(self, request: Request) -> str:
        """Return who a request comes from. Raises RequestDeniedError."""
        names = self._names(request)
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else None
        # Ages are in whole seconds, rounded either way.
        kept, oldest = request.cookies.get(self.cookie, ""), int(request.app.state.settings.signed_in) - 1
        tokens = [each for each in names if _same(given, each) or self._signer(each).validate(kept, oldest)]
        if not tokens:
            raise RequestDeniedError(401, "token", f"sign in with the token of an {self.who}")
        return names[tokens[0]]

    async def login(self, request: Request, response: Response, credentials: Login) -> dict[str, bool]:
        """Sign a browser in, for a day."""
        tokens = [each for each in self._names(request) if _same(credentials.token, each)]
        if not tokens:
            raise RequestDeniedError(401, "token", f"this is no {self.who}'s token")
        settings, value = request.app.state.settings, self._signer(tokens[0]).sign(self.cookie).decode()
        response.set_cookie(
            self.cookie,
            value,
            max_age=int(settings.signed_in),
            httponly=True,
            samesite="strict",
            secure=settings.secure,
        )
        return {"signed_in": True}

    async def logout(self, response: Response) -> dict[str, bool]:
        """Sign it out by deleting its cookie. A copy of the cookie opens the page until its day is over."""
        response.delete_cookie(self.cookie)
        return {"signed_in": False}

    def add_to(self, router: APIRouter) -> None:
        """Add /login and /logout."""
        router.add_api_route("/login", self.login, methods=["POST"])
        router.add_api_route("/logout", self.logout, methods=["POST"])

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"respect_{self.who}"

    def _names(self, request: Request) -> Mapping[str, str]:
        names = self.names(request.app.state.settings)
        if not names:
            raise RequestDeniedError(403, "token", f"this page is closed: start the server with {self.variable} set")
        return names

    def _signer(self, token: str) -> TimestampSigner:
        return TimestampSigner(token, salt=self.cookie, key_derivation="hmac", digest_method=hashlib.sha256)


def _same(given: str | None, known: str) -> bool:
    """Compare two tokens in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), known.encode())


OPERATOR = SignIn(
    "operator",
    "RESPECT_OPERATOR_TOKEN",
    lambda settings: {settings.operator_token: "operator"} if settings.operator_token else {},
)
