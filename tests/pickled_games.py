"""Files of made-up games in the authors' format, with drawings."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

TAN = "".join(f'<polygon id="{n}" points="{n} 0 {n + 1} 0 {n} 1"/>' for n in range(3, 8))
DRAWING = (
    '<svg viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg"><polygon id="1" points="1 0 2 0 2 1 1 1"/>'
    f'<polygon id="2" points="2 0 3 0 4 1 3 1"/>{TAN}</svg>'
)


def games_file(folder: Path, end: int, first: int = 0, *, broken: bool = False) -> Path:
    """Games of two turns, `game-first` up to `game-end`, and their drawings beside them.

    Args:
        broken: another one, that no import takes.
    """
    images = [f"page-{number}.png" for number in range(10)]
    for name in images:
        (folder / name.replace(".png", ".svg")).write_text(DRAWING)
    games: dict[str, dict[str, Any]] = {
        f"game-{number}": {
            "_id": f"game-{number}",
            "created_at": "2024-09-12 20:52:57",
            "speaker": "somebody",
            "context_listener": images,
            "chat": ["the bird", "yes, the boat"],
            "clicks": [images[:1], images[:2]],
            "targets": images[:3],
            "end": "unsuccessful",
            "turnList": [],
        }
        for number in range(first, end)
    }
    if broken:
        games["broken"] = {"_id": "broken"}
    file = folder / f"games-{first}-{end}.pkl"
    file.write_bytes(pickle.dumps(games))
    return file
