"""Serve the game's pages, from `pages/`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from deployments.game.domain.consent import CONSENT
from deployments.web.pages import Pages

FOLDER = Path(__file__).parent / "pages"
PAGES = {"/": "start"} | {
    f"/{name}": name for name in ("consent", "instructions", "quiz", "play", "operator", "annotate")
}
"""Name by path. The operator's and the annotators' pages hold nothing until a token is given."""
_pages = Pages(FOLDER, consent=CONSENT)
audit_page, static = _pages.page("audit"), _pages.static

router = APIRouter(include_in_schema=False)
for _path, _name in PAGES.items():
    router.add_api_route(_path, _pages.page(_name), methods=["GET"])
router.add_api_route("/static/{name}", static, methods=["GET"])
