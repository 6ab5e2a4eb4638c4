"""A small OpenAI-compatible server, for tests of what asks one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass
class Served:
    """The server's address, and what it was asked."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    most_at_once: int = 0
    at_once: int = 0


@contextmanager
def endpoint(answer: Callable[[str], str | int | dict[str, Any] | None]) -> Iterator[Served]:
    """Serve answers to the last message of each request: a text, a status, or JSON; None is JSON without an answer."""
    served, lock = Served(), Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.at_once += 1
                served.most_at_once = max(served.most_at_once, served.at_once)
                served.asked.append(body)
                served.keys.add(self.headers["Authorization"])
            said = answer(body["messages"][-1]["content"]) if self.path == "/v1/chat/completions" else 404
            status = said if isinstance(said, int) else 200
            reply = {"choices": [{"message": {"role": "assistant", "content": said}}]} if isinstance(said, str) else {}
            if isinstance(said, dict):
                reply = said
            with lock:
                served.at_once -= 1
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
