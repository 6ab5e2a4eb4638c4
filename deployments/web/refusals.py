"""Answer refusals and complaints, alike on every page's API."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deployments.web.denied import Problem, RequestDeniedError, complaint

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)
}


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a refusal as an answer."""
    return JSONResponse(Problem(reason=reason).model_dump(), status, headers)


async def _denied(_request: Request, error: Any) -> JSONResponse:
    body = Problem(field=error.field, reason=error.reason, game=error.game)
    headers = {"Retry-After": "2"} if error.status in (429, 503) else None
    return JSONResponse(body.model_dump(), error.status, headers)


async def _invalid(_request: Request, error: Any) -> JSONResponse:
    field, reason = complaint(error)
    return JSONResponse(Problem(field=field, reason=reason).model_dump(), 422)


async def _refused(_request: Request, error: Any) -> JSONResponse:
    return problem(error.status_code, str(error.detail), error.headers)


HANDLERS: dict[Any, Any] = {RequestDeniedError: _denied, RequestValidationError: _invalid, HTTPException: _refused}
