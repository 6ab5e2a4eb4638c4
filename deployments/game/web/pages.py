"""Serve the pages: HTML over one layout, a style sheet and JavaScript modules, from `pages/`.

Nothing is fetched from elsewhere, and the HTML contains no script or style, so that the strictest
Content-Security-Policy holds. A page `x.html` has its script in `x.js`.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from jinja2 import Environment, FileSystemLoader

from deployments.game.domain.protocol import Problem

FOLDER = Path(__file__).parent / "pages"
PAGES = {"/": "start"} | {
    f"/{name}": name for name in ("consent", "instructions", "quiz", "play", "operator", "annotate")
}
"""Name by path. The operator's and the annotators' pages hold nothing until a token is given."""
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FRESH = {"Cache-Control": "no-cache"}  # checked at each load: a new release shows at once
_STATIC = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}
_TEMPLATES = Environment(loader=FileSystemLoader(FOLDER), autoescape=True)
_HTML = {path: _TEMPLATES.get_template(f"{name}.html").render(script=name) for path, name in PAGES.items()}
_AUDIT = _TEMPLATES.get_template("audit.html").render(script="audit")

router = APIRouter(include_in_schema=False)


async def page(request: Request) -> Response:
    """Return the page at the requested path, one of `PAGES`."""
    return Response(_HTML[request.scope["path"]], media_type="text/html", headers=_FRESH)


async def audit_page() -> Response:
    """Return the page on which conversations are annotated."""
    return Response(_AUDIT, media_type="text/html", headers=_FRESH)


for _path in PAGES:
    router.add_api_route(_path, page, methods=["GET"])


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Return a file that the pages use."""
    if name not in _STATIC:
        return JSONResponse(Problem(field="name", reason="there is no such file").model_dump(), 404)
    return Response(_STATIC[name], media_type=_TYPES[Path(name).suffix], headers=_FRESH)
