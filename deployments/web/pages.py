"""Serve pages: HTML over one layout, a style sheet and JavaScript modules, from `pages/` here and of each server.

Nothing is fetched from elsewhere, and the HTML contains no script or style, so that the strictest
Content-Security-Policy holds. A page `x.html` has its script in `x.js`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import Response
from jinja2 import Environment, FileSystemLoader

from deployments.web.refusals import problem

_SHARED = Path(__file__).parent / "pages"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FRESH = {"Cache-Control": "no-cache"}  # checked at each load: a new release shows at once


class Pages:
    """The pages in a folder, and what all servers' pages share.

    Args:
        root: of their paths, if they are below another application's.
        shown: values by name, for the pages.
    """

    def __init__(self, folder: Path, root: str = "", **shown: str) -> None:
        folders = [folder, _SHARED]
        self._static = {path.name: path.read_bytes() for each in folders for path in each.iterdir()}
        self._templates = Environment(loader=FileSystemLoader(folders), autoescape=True)
        self._shown = {"root": root} | shown

    def page(self, name: str) -> Callable[[], Awaitable[Response]]:
        """Return the endpoint of a page."""
        html = self._templates.get_template(f"{name}.html").render(script=name, **self._shown)

        async def page() -> Response:
            return Response(html, media_type="text/html", headers=_FRESH)

        return page

    async def static(self, name: str) -> Response:
        """Return a file that the pages use."""
        kind = _TYPES.get(Path(name).suffix)
        if kind is None or name not in self._static:
            return problem(404, "there is no such file")
        return Response(self._static[name], media_type=kind, headers=_FRESH)
