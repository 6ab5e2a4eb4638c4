"""What strangers may try on a port of this machine: its other users, and other sites' pages in its user's browser."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from deployments.local import seaweedfs

_FORM = {"file": ("000002.json", b"forged")}
"""A multipart form: a page may send one anywhere without asking first."""

_PATHS = {
    "GET": [
        *("/", "/status", "/metrics", "/debug/pprof/", "/version", "/graphql"),
        *("/api/health", "/api/admin/version", "/api/admin/settings", "/api/openapi.json"),  # Prefect
        *("/api/2.0/mlflow/experiments/search?max_results=9", "/api/2.0/mlflow-artifacts/artifacts"),  # MLflow
        *("/ajax-api/2.0/mlflow/experiments/search?max_results=9", "/health"),
        *("/BUCKET?list-type=2", "/buckets/BUCKET/store/ready"),  # SeaweedFS: S3, and the parts behind it
        *(
            "/dir/assign",
            "/dir/status",
            "/col/delete?collection=BUCKET",
            "/vol/status",
            "/1,01637037d6",
            "/api/config",
        ),
    ],
    "POST": [
        *(f"/api/{path}" for path in ("flows/", "flows/filter", "deployments/", "variables/", "events", "logs/")),
        *("/api/2.0/mlflow/experiments/create", "/ajax-api/2.0/mlflow/experiments/create"),
        *("/ajax-api/3.0/mlflow/assistant/message", "/v1/traces", "/buckets/BUCKET/store/promotions/"),
    ],
    "PUT": ["/BUCKET/store/forged", "/api/2.0/mlflow-artifacts/artifacts/forged"],
    "DELETE": ["/BUCKET/store/ready", "/buckets/BUCKET/store?recursive=true"],
}


def listening(process: psutil.Process) -> set[int]:
    """Ports on which a process or one of those that it started listens."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found |= {at.laddr.port for at in each.net_connections("tcp") if at.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:  # it has ended since
            continue
    return found


def let_in(port: int, folder: Path, bucket: str = "respect") -> list[str]:
    """What was answered that is neither a refusal nor a page without contents: nothing, if the port is closed to them.

    Args:
        folder: for a certificate of theirs.
        bucket: in SeaweedFS.
    """
    seaweedfs.prepare(folder)
    theirs = ssl.create_default_context()
    theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
    theirs.load_cert_chain(folder / seaweedfs.CERTIFICATE, folder / seaweedfs.KEY)
    found = [*_by_socket(port)]
    with httpx.Client(timeout=5) as plain, httpx.Client(verify=theirs, timeout=5) as tls:
        for client, scheme in ((plain, "http"), (tls, "https")):
            for headers in _disguises(port):
                found += _by_http(client, f"{scheme}://127.0.0.1:{port}", headers, bucket)
    return found


def _by_http(client: httpx.Client, server: str, headers: dict[str, str], bucket: str) -> Iterator[str]:
    for method, paths in _PATHS.items():
        for path in (path.replace("BUCKET", bucket) for path in paths):
            request = client.build_request(method, server + path, headers=headers)
            if method == "POST" and "/buckets" in path:
                request = client.build_request(method, server + path, headers=headers, files=_FORM)
            elif method in ("POST", "PUT"):  # without a content type, which Prefect fills in: that needs no preflight
                request = client.build_request(method, server + path, headers=headers, content=b'{"name": "forged"}')
            try:
                answer = client.send(request)
            except httpx.TransportError:
                if path == "/":
                    return  # it does not speak this at all
                continue
            if answer.status_code < 400 and not _says_nothing(answer.content, headers):
                yield f"{method} {server}{path} {headers}: {answer.status_code} {answer.text[:200]}"


def _disguises(port: int) -> Iterator[dict[str, str]]:
    """A process of another user; pages of other sites; a name that points here since the page was loaded."""
    yield {}
    yield {"Authorization": "Basic cmVzcGVjdDpndWVzc2Vk", "X-Forwarded-For": "127.0.0.1"}
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"http://127.0.0.1.evil.example:{port}"):
        yield {"Origin": origin}
    for host in ("evil.example", "10.evil.example", "127.0.0.1.evil.example", "localhost.evil.example"):
        yield {"Host": f"{host}:{port}"}
        yield {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}


def _says_nothing(body: bytes, headers: dict[str, str]) -> bool:
    """That it is alive; and pages without contents, the same for everybody, which ask who is there."""
    alive = body in (b"", b"true", b'{"status":"ok"}') or b"<title>Approvals" in body
    return alive or (b"<title>Prefect Server</title>" in body and not {"Host", "Origin"} & set(headers))


def _by_socket(port: int) -> Iterator[str]:
    """WebSockets ask nobody's leave to be opened from another site's page."""
    for path in ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"):
        for headers in _disguises(port):
            if "Host" in headers:
                continue  # the client sends its own
            url = f"ws://127.0.0.1:{port}/api/{path}"
            try:
                with connect(
                    url, subprotocols=[Subprotocol("prefect")], open_timeout=5, additional_headers=headers
                ) as to:
                    to.send('{"type": "auth", "token": "respect:guessed"}')
                    yield f"{url} {headers}: {to.recv(timeout=5)!r}"
            except (OSError, WebSocketException, TimeoutError, EOFError):
                continue
