"""A game server with a policy that needs no model, as a program: `python -m chaos.game FOLDER PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

from game_servers import rooms, server

if __name__ == "__main__":
    server(rooms(Path(sys.argv[1]), tick=0.2), int(sys.argv[2])).run()
