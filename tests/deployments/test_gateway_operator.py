"""Live evidence of a real gateway over HTTP: as metrics, and on the operator's page behind its sign-in."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gateways import Running, chat_profile, serving
from policy_servers import MODEL, SEED, promote, registered, until
from prometheus_client.parser import text_string_to_metric_families

from deployments.serving.gateway import operator
from deployments.web import sign_in
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(900)
TOKEN, KEY = "an-operator-with-a-long-token", "a-client-with-a-long-key"
WROTE = "what-a-user-wrote"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = registered(tmp_path_factory.mktemp("operator"), chat_profile())
    promote(made, 2)
    return made


@pytest.fixture(scope="module")
def gateway(place: Workspace) -> Iterator[Running]:
    """Ten conversations of two turns each, which chance gave to two versions."""
    settings = operator.Settings(TOKEN)
    with serving(place, keys={KEY: "ui"}, operators=settings, variants=("b-fft", "control")) as running:
        until(lambda: running.http.get("/ready").json()["variants"]["b-fft"]["version"] == f"{MODEL}/2")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: _talk(running, number), range(10)))
        yield running


def _talk(running: Running, number: int) -> None:
    said = [f"{WROTE} {number}"]
    for _ in range(2):
        answer = running.say(*said, user=f"user-{number}", extra_headers={"x-conversation-id": f"chat-{number}"})
        said += [answer.choices[0].message.content or "-", f"{WROTE} then"]


def _post(running: Running, path: str, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.post(f"{running.url}/operator/api/{path}", json=body or {}, headers=headers, timeout=60)


def _live(running: Running, **headers: str) -> httpx.Response:
    return httpx.get(f"{running.url}/operator/api/live", headers=headers, timeout=60)


def _cookie(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def test_evidence_is_on_the_page_and_in_the_metrics_without_a_word_of_users(gateway: Running) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    def versions() -> list[dict[str, Any]]:
        evidence = _live(gateway, **bearer).json()["evidence"]
        return evidence["versions"] if evidence else []

    until(lambda: sum(each["replies"] for each in versions()) == 20)
    answer = _live(gateway, **bearer)
    found = {each["version"]: each for each in versions()}
    assert found.keys() == {f"{MODEL}/2", SEED} and all(each["on_offer"] for each in found.values())
    assert sum(each["conversations"] for each in found.values()) == 10
    assert [each["waiting"] for each in found.values()] == [each["follow_ups"] for each in found.values()]
    assert all(each["said"] is None and each["failed"] == 0 for each in found.values()), "no round decoded any"
    assert sum(each["follow_ups"] for each in found.values()) == 10
    text = gateway.http.get("/metrics").text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    conversations = {
        each.labels["version"]: each.value for each in samples if each.name == "respect_live_conversations"
    }
    assert conversations == {version: each["conversations"] for version, each in found.items()}
    assert [each.value < 60 for each in samples if each.name == "respect_live_evidence_age_seconds"] == [True]
    for place in (answer.text, text):
        assert WROTE not in place and "user-1" not in place and "chat-1" not in place


def test_the_page_holds_nothing_before_the_sign_in_and_a_client_key_is_none(gateway: Running) -> None:
    page = httpx.get(f"{gateway.url}/operator", follow_redirects=True, timeout=60)
    assert page.status_code == 200 and "respect.b-fft" not in page.text and "<script>" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    for name in ("live.js", "sign_in.js", "api.js", "dom.js", "intervals.js", "style.css", "icon.svg"):
        assert httpx.get(f"{gateway.url}/operator/static/{name}", timeout=60).status_code == 200, name
    for name in ("layout.html", "..%2f..%2foperator.py", "%2e%2e/live.html"):
        assert httpx.get(f"{gateway.url}/operator/static/{name}", timeout=60).status_code == 404, name
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Basic {TOKEN}"}):
        assert _live(gateway, **headers).status_code == 401
    refused = gateway.http.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused.status_code == 401, "nor is the operator's token a key"


@pytest.mark.parametrize("token", [KEY, TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\u00e9" * 16, " "])
def test_a_wrong_token_signs_nobody_in(gateway: Running, token: str) -> None:
    answer = _post(gateway, "login", {"token": token})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    assert token.strip() == "" or token not in answer.text


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": ["x"]}, {"token": TOKEN, "more": 1}, [], {"token": 9}])
def test_a_strange_body_signs_nobody_in(gateway: Running, body: Any) -> None:
    answer = httpx.post(f"{gateway.url}/operator/api/login", json=body, timeout=60)
    assert answer.status_code == 422 and TOKEN not in answer.text and "set-cookie" not in answer.headers


def test_tokens_are_compared_in_constant_time(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(given)
        return hmac.compare_digest(given, known)

    monkeypatch.setattr(sign_in.hmac, "compare_digest", compare)
    _post(gateway, "login", {"token": "wrong-but-as-long-as-the-token"})
    assert b"wrong-but-as-long-as-the-token" in compared


def test_a_cookie_opens_the_page_to_no_script_and_to_no_other_site(gateway: Running) -> None:
    answer = _post(gateway, "login", {"token": TOKEN})
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes and TOKEN not in answer.headers["set-cookie"]
    assert "max-age=86400" in attributes and "secure" not in attributes
    cookie = _cookie(answer)
    assert _live(gateway, Cookie=cookie).status_code == 200
    allowed = _live(gateway, Cookie=cookie, Origin="https://evil.example").headers
    assert not [name for name in allowed if name.startswith("access-control-")], "whoever asks cannot read it"
    forged = cookie[:-4] + "aaaa"
    assert _live(gateway, Cookie=forged).status_code == 401
    out = _post(gateway, "logout", Cookie=cookie)
    assert out.status_code == 200 and 'respect_operator=""' in out.headers["set-cookie"]


@pytest.mark.parametrize("path", ["login", "logout"])
def test_another_site_can_neither_sign_in_nor_out(gateway: Running, path: str) -> None:
    body = {"token": TOKEN} if path == "login" else {}
    for origin in ("https://evil.example", "null", f"{gateway.url}.evil.example", gateway.url[:-1] + "x"):
        assert _post(gateway, path, body, Origin=origin).status_code == 403, origin
    form = httpx.post(f"{gateway.url}/operator/api/{path}", data={"token": TOKEN}, timeout=60)
    assert form.status_code == 415 and "set-cookie" not in form.headers
    assert _post(gateway, path, body, Origin=gateway.url).status_code == 200


def test_guesses_are_slowed_down(gateway: Running) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        codes = [client.post("/operator/api/login", json={"token": "x" * 16}).status_code for _ in range(200)]
    assert set(codes) == {401, 429}


def test_a_reply_that_fails_is_counted_for_its_version(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(WROTE)

    monkeypatch.setattr(gateway.gateway, "record", fail)
    with pytest.raises(Exception, match="internal error"):
        gateway.say("hello", model="respect.b-fft")
    failures = gateway.gateway.metrics.failures()
    assert failures.pop(("b-fft", f"{MODEL}/2")) == 1 and not any(failures.values())


def test_over_tls_the_cookie_travels_over_nothing_else_and_without_a_token_there_is_no_page(
    place: Workspace,
) -> None:
    with serving(place, operators=operator.Settings(TOKEN, secure=True)) as running:
        assert "; Secure" in _post(running, "login", {"token": TOKEN}).headers["set-cookie"]
    with serving(place) as running:
        for path in ("/operator", "/operator/", "/operator/api/live", "/operator/static/live.js"):
            assert running.http.get(path).status_code == 404
        assert "respect_live_evidence_age_seconds" in running.http.get("/metrics").text
