"""An OpenAI-compatible endpoint that answers, answers nonsense, refuses, is busy, or is not there."""

from __future__ import annotations

from dataclasses import replace
from threading import Barrier

import pytest
from endpoints import Served, endpoint

from respect_core.model.endpoint import Endpoint, EndpointError

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(12)]
SECRET = "sk-very-secret"


def _at(served: Served) -> Endpoint:
    return replace(Endpoint.named(f"openai:org/judge@{served.url}"), pause=0.01)


def test_answers_come_in_order_at_bounded_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    together = Barrier(3, timeout=60)  # passed only where that many are asked at the same time

    def with_others(said: str) -> str:
        together.wait()
        return said.upper()

    with endpoint(with_others) as served:
        answers = _at(served).answers(PROMPTS, tokens=5, concurrency=3)
    assert answers == [f"QUESTION {number}" for number in range(12)]
    assert served.most_at_once == 3 and served.keys == {f"Bearer {SECRET}"}
    assert {(each["model"], each["max_tokens"], each["temperature"]) for each in served.asked} == {("org/judge", 5, 0)}


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint(str) as served:
        _at(served).answers(PROMPTS[:1], tokens=5, concurrency=1)
    assert served.keys == {None}


def test_what_is_no_answer_is_none_and_the_others_count() -> None:
    with endpoint(lambda said: None if said.endswith("1") else 503 if said.endswith("2") else "yes") as served:
        answers = _at(served).answers(PROMPTS[:4], tokens=5, concurrency=2)
    assert answers == ["yes", None, None, "yes"]
    assert sum(each["messages"][0]["content"] == "question 2" for each in served.asked) == 3  # tried again


def test_an_endpoint_that_refuses_or_is_not_there_is_named_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with endpoint(lambda _: 401) as served:
        judge = replace(_at(served), url=served.url.replace("http://", "http://ann:pass@"))
        with pytest.raises(
            EndpointError, match=r"org/judge at http://127.0.0.1:\d+ refuses with status 401"
        ) as refused:
            judge.answers(PROMPTS * 50, tokens=5, concurrency=2)
        assert len(served.asked) < 12 * 50  # it does not ask on and on
    assert SECRET not in str(refused.value) and "pass" not in str(refused.value)
    with pytest.raises(EndpointError, match=r"does not answer \(ConnectError\): start it, or correct the address"):
        _at(served).answers(PROMPTS[:2], tokens=5, concurrency=2)


@pytest.mark.parametrize("name", ["judge", "openai:judge", "openai:@http://x", "openai:judge@ftp://x"])
def test_an_endpoint_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="openai:MODEL@URL"):
        Endpoint.named(name)
