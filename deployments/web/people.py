"""Identify people by a proxy that signed them in, or by a signed link; nobody types who they are.

A proxy names them in a header, and proves with a shared secret in another that it is the proxy. A link has its token
behind `#`, which browsers send to nobody; the page's script exchanges it for a cookie of a day at most.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from deployments.web.denied import RequestDeniedError
from respect_core.release.approvals import Person
from respect_core.settings import SettingsError, link_key, require_long, settings
from respect_core.signatures import SealError, seal, unseal

PROXY = "X-Respect-Proxy"
"""Header with the proxy's secret."""
COOKIE = "respect_person"
_LINK, _COOKIE = "link of an approver", "cookie of an approver"
_DAY = 24 * 3600
_LONGEST = 100  # characters of a name


class Link(BaseModel):
    """What a link has behind `#`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class People:
    """Who may enter: a dependency, which returns the person whose request it is."""

    link_key: str | None = field(default=None, repr=False)
    proxy_header: str | None = None
    proxy_secret: str | None = field(default=None, repr=False)
    secure: bool = False  # whether cookies travel over TLS only

    def __call__(self, request: Request) -> Person:
        """Return who a request comes from. Raises RequestDeniedError."""
        if self.proxy_header and (names := request.headers.getlist(self.proxy_header)):
            secrets = request.headers.getlist(PROXY)
            proven = len(secrets) == 1 and hmac.compare_digest(secrets[0].encode(), (self.proxy_secret or "").encode())
            if not proven or len(names) != 1 or not names[0].strip() or len(names[0]) > _LONGEST:
                raise RequestDeniedError(403, "proxy", "only the proxy may say who you are")
            return Person(names[0].strip(), "proxy")
        kept = request.cookies.get(COOKIE)
        if self.link_key and kept:
            try:
                return Person(unseal(self.link_key, _COOKIE, kept)["name"], "link")
            except SealError:
                pass
        raise RequestDeniedError(401, "link", "open the link that you were given; `respect link approver` makes one")

    async def enter(self, response: Response, link: Link) -> dict[str, bool]:
        """Sign a browser in by a link, until the link's time or the day is over."""
        if self.link_key is None:
            raise RequestDeniedError(403, "link", "there are no links here: start the server with RESPECT_LINK_KEY set")
        try:
            given = unseal(self.link_key, _LINK, link.token)
        except SealError as error:
            raise RequestDeniedError(401, "link", f"this link does not open the page: {error}") from None
        until = min(int(given["until"]), int(time.time()) + _DAY)
        response.set_cookie(
            COOKIE,
            seal(self.link_key, _COOKIE, {"name": given["name"], "until": until}),
            max_age=max(0, until - int(time.time())),
            httponly=True,
            samesite="strict",
            secure=self.secure,
        )
        return {"signed_in": True}

    async def leave(self, response: Response) -> dict[str, bool]:
        """Sign it out by deleting its cookie."""
        response.delete_cookie(COOKIE)
        return {"signed_in": False}

    def add_to(self, router: APIRouter) -> None:
        """Add /enter and /leave."""
        router.add_api_route("/enter", self.enter, methods=["POST"])
        router.add_api_route("/leave", self.leave, methods=["POST"])


def approver_link(url: str, name: str, days: float, key: str) -> str:
    """Return a link that signs somebody in at an approvals page."""
    return f"{url.rstrip('/')}/#{seal(key, _LINK, {'name': name, 'until': int(time.time() + days * _DAY)})}"


def people_from_environment(secure: bool) -> People:
    """Read how people are identified.

    Raises:
        SettingsError: by nothing, by a header that anybody could send, or a secret is short.
    """
    known = settings()
    secret = known.proxy_secret.get_secret_value() or None
    if known.proxy_header and secret is None:
        raise SettingsError("RESPECT_PROXY_HEADER: set RESPECT_PROXY_SECRET too, or anybody could send that header")
    if secret is not None:
        require_long("RESPECT_PROXY_SECRET", secret)
    key = link_key()
    if key is None:
        raise SettingsError(
            "set RESPECT_LINK_KEY, e.g. to `openssl rand -hex 32`, here and on the workers: it signs the answers"
        )
    return People(key, known.proxy_header, secret, secure)
