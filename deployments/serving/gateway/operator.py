"""Show the operator live evidence, on a page with a sign-in of its own; it holds nothing that a user wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI

from deployments.serving.gateway.live import Live
from deployments.web.limits import Buckets, Guard
from deployments.web.pages import Pages
from deployments.web.refusals import HANDLERS, PROBLEMS
from deployments.web.sign_in import OPERATOR

PATH = "/operator"
_REQUESTS = (5.0, 60.0)
"""From an address: a second, and saved up."""


@dataclass(frozen=True)
class Settings:
    """Who may see the page, for how many seconds, and whether over TLS only."""

    operator_token: str = field(repr=False)
    signed_in: float = 24 * 3600.0
    secure: bool = False


def create_operator_app(
    settings: Settings, live: Live, failures: Callable[[], Mapping[tuple[str, str], int]]
) -> FastAPI:
    """Build the application, to be mounted at PATH.

    Args:
        failures: replies of this server that ended with an error, by variant and version.
    """
    app = FastAPI(title="RESPECT operator", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.settings = settings
    app.add_middleware(Guard, requests=Buckets(*_REQUESTS, 10_000, time.monotonic), origins=())
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    pages = Pages(Path(__file__).parent / "pages", PATH)
    app.add_api_route("/", pages.page("live"), methods=["GET"])
    app.add_api_route("/static/{name}", pages.static, methods=["GET"])
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    OPERATOR.add_to(router)

    @router.get("/live")
    async def evidence(_: Annotated[str, Depends(OPERATOR)]) -> dict[str, Any]:
        """Return the evidence as it was last computed; null before the first time."""
        known, failed = live.evidence, failures()
        if known is None:
            return {"evidence": None}
        counts = [
            {
                "decoded": each.decoded,
                "waiting": each.waiting,
                "failed": failed.get((each.variant, each.version), 0),
            }
            for each in known.versions
        ]
        shown = asdict(known)
        shown["versions"] = [each | more for each, more in zip(shown["versions"], counts, strict=True)]
        return {"evidence": shown | {"age": time.time() - known.at}, "every": live.every}

    app.include_router(router)
    return app
