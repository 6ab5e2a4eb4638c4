"""Answer what watches a server, and say what it cannot read, alike on every server."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.serving.schema import Readiness


class Watched(Protocol):
    """A server whose state can be asked for."""

    def readiness(self) -> Readiness: ...
    def prometheus(self) -> bytes: ...


def add_probes(app: FastAPI, server: Watched) -> None:
    """Add /health, /ready and /metrics."""

    @app.get("/health")
    def health() -> dict[str, str]:
        """Answer while the process runs."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Readiness}})
    def ready(response: Response) -> Readiness:
        """Answer 200 if every variant has a version to act, else 503."""
        state = server.readiness()
        response.status_code = 200 if state.ready else 503
        return state

    @app.get("/metrics")
    def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(server.prometheus(), media_type=CONTENT_TYPE_LATEST)


def complaint(error: RequestValidationError) -> tuple[str, str]:
    """Return the field and the reason of the first complaint, without the input."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "", "not JSON"
    path = [part for part in first["loc"] if part not in ("body", "path")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return field, str(first["msg"]).removeprefix("Value error, ")
