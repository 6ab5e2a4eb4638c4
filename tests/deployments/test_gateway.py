"""The gateway, with the official client of OpenAI's API, real adapters and a real MLflow."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from gateways import Running, chat_profile, probabilities, serving
from policy_servers import MODEL, PATIENCE, SEED, promote, registered, until

from deployments.serving import versions
from respect_core.acting.policy import Policy
from respect_core.log import served_chats
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.served_chats import ServedChat
from tasks.round.collect import collect
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(600)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return registered(tmp_path_factory.mktemp("gateway"), chat_profile())


@pytest.fixture(scope="module")
def running(place: Workspace) -> Iterator[Running]:
    """In double precision, in which no draw turns on how many are drawn at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "load_base", partial(versions.load_base, dtype=torch.float64))
        with serving(place) as server:
            yield server


def _records(place: Workspace, answer: str) -> list[ServedChat]:
    """Wait for the record of an answer in the store."""
    found: list[ServedChat] = []

    def stored() -> bool:
        found[:] = [chat for chat in served_chats.read(place.open()) if chat.id == answer]
        return bool(found)

    until(stored)
    return found


def test_an_answer_is_whole_and_logged(place: Workspace, running: Running) -> None:
    answer = running.say("hello", user="ann", seed=3, logprobs=True)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens == len(choice.logprobs.content) == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    again = running.say("hello", user="bob", seed=3)
    assert again.choices[0].message.content == choice.message.content and again.id != answer.id
    (chat,) = _records(place, answer.id)
    assert chat.version == SEED == answer.system_fingerprint and chat.user == pseudonym("ann") and not chat.cut
    assert chat.request["messages"] == HELLO and chat.response["choices"][0]["message"]["content"] == (
        choice.message.content
    )
    assert choice.finish_reason == "stop" or "logprobs" not in chat.response["choices"][0], "it has no end token"


def test_a_stream_has_the_same_text_piece_by_piece(place: Workspace, running: Running) -> None:
    whole = running.say("hello", seed=5, max_tokens=30).choices[0].message.content
    stream = running.say(
        "hello", seed=5, max_tokens=30, stream=True, stream_options={"include_usage": True}, logprobs=True
    )
    chunks = list(stream)
    *said, usage = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert text == whole and usage.choices == [] and usage.usage.completion_tokens == 30
    assert said[-1].choices[0].finish_reason == "length" and sum(bool(c.choices[0].delta.content) for c in said) > 10
    assert sum(len(c.choices[0].logprobs.content) for c in said if c.choices[0].logprobs) == 30
    _records(place, chunks[0].id)


def test_a_stream_begins_long_before_it_ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half is written when the client has read of the first."""
    read, waited = threading.Event(), list[bool]()

    def wait(token: int) -> None:
        if token == 30:
            waited.append(read.wait(PATIENCE))

    _linger(monkeypatch, running.gateway.roster.deployed()["b-fft"].policy, wait)
    stream = running.say("hello", seed=1, max_tokens=60, stream=True, stream_options={"include_usage": True})
    for _ in range(3):
        next(stream)
    read.set()
    assert list(stream)[-1].usage.completion_tokens == 60 and waited == [True]


def test_the_logged_probability_is_the_one_that_training_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a request over the log and its collection to the packed pass; a random model is made to end soon."""
    place = registered(tmp_path, chat_profile())
    with serving(place, idle=0.05) as gateway:
        policy: Policy = gateway.gateway.roster.deployed()["b-fft"].policy
        head = policy.model.get_output_embeddings()
        plain = head.forward

        def forward(hidden: Any) -> Any:
            logits = plain(hidden)
            logits[..., policy.writer.chat.end_id] += 9.5
            return logits

        monkeypatch.setattr(head, "forward", forward)
        for number in range(40):
            first = gateway.say("hello", user=f"user-{number}", seed=number, max_tokens=30)
            said = first.choices[0].message.content or "-"
            gateway.say("hello", said, "and then?", user=f"user-{number}", seed=number, max_tokens=30)
    collected = collect(place.open(), now=time.time() + 60)
    known = probabilities(place, policy)
    assert collected.conversations and len(known) > 10
    for logged, computed, _ in known:
        assert logged == pytest.approx(computed, abs=2e-3)


def test_one_conversation_has_one_version(place: Workspace, running: Running) -> None:
    """A new version gets new conversations; one that began before continues with its own, at another gateway too."""
    first = running.say("hello there", user="carl")
    said = first.choices[0].message.content or "x"
    header = {"extra_headers": {"x-conversation-id": "chat-7"}}
    named = running.say("hi", user="carl", **header)
    promote(place, 1)
    until(lambda: running.http.get("/ready").json()["variants"]["b-fft"]["version"] == f"{MODEL}/1")
    assert running.say("hello there", said, "more", user="carl").system_fingerprint == SEED
    assert running.say("hi again", user="carl", **header).system_fingerprint == SEED
    assert running.say("something new", user="carl").system_fingerprint == f"{MODEL}/1"
    with serving(place) as other:
        until(lambda: other.http.get("/ready").json()["variants"]["b-fft"]["version"] == f"{MODEL}/1")
        assert other.say("hello there", said, "more", user="carl").system_fingerprint == SEED
        metadata = {"conversation_id": "chat-7"}
        assert other.say("x", user="carl", metadata=metadata).system_fingerprint == SEED
        assert other.say("x", user="dora", metadata=metadata).system_fingerprint == f"{MODEL}/1", "another's"
        assert named.system_fingerprint == SEED


def test_many_clients_at_once_are_answered_as_one_is(running: Running) -> None:
    def ask(number: int) -> str:
        answer = running.say(
            f"question {number}", seed=number, max_tokens=20, user=f"user-{number}", model="respect.b-fft"
        )
        return str(answer.choices[0].message.content)

    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, range(64)))
    assert together == [ask(number) for number in range(64)]


def test_a_client_that_goes_away_is_logged_as_cut(
    place: Workspace, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    _linger(monkeypatch, running.gateway.roster.deployed()["b-fft"].policy, lambda _: time.sleep(0.05))
    stream = running.say("tell me everything", max_tokens=900, stream=True, user="eve", stop=["nevermore"])
    chunks = [next(stream), next(stream), next(stream)]
    stream.close()
    (chat,) = _records(place, chunks[0].id)
    assert chat.cut and chat.response["choices"][0]["cut"] and chat.response["choices"][0]["finish_reason"] is None
    assert "logprobs" not in chat.response["choices"][0]
    until(lambda: running.gateway.engine.streams.writing == 0)
    asked = {"model": "respect", "messages": HELLO, "max_tokens": 900, "user": "too-late", "stop": ["nevermore"]}
    with closing(http.client.HTTPConnection(running.url.removeprefix("http://"))) as impatient:
        headers = {"Content-Type": "application/json"}
        impatient.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
        until(lambda: running.gateway.engine.streams.writing == 1)
    until(lambda: any(c.user == pseudonym("too-late") and c.cut for c in served_chats.read(place.open())))


def test_calls_of_tools_pass_through(place: Workspace, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is made to write a call, token by token."""
    policy = running.gateway.roster.deployed()["b-fft"].policy
    text = 'Let me look.\nCALL {"name": "weather", "arguments": {"place": "Århus"}}'
    ids = policy.base.processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [policy.writer.chat.end_id]
    _dictate(monkeypatch, policy, ids)
    messages: list[Any] = [{"role": "system", "content": "Help."}, {"role": "user", "content": "is it raining?"}]
    whole = running.client.chat.completions.create(
        model="respect", messages=messages, tools=WEATHER, temperature=0.0, user="tina", max_tokens=99
    )
    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"place": "Århus"}
    (chat,) = _records(place, whole.id)
    assert chat.response["choices"][0]["logprobs"]["content"], "the text can be written again from its parts"
    stream = list(
        running.client.chat.completions.create(
            model="respect", messages=messages, tools=WEATHER, temperature=0.0, stream=True, max_tokens=99
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in stream) == "Let me look."
    (made,) = [each for c in stream for each in c.choices[0].delta.tool_calls or []]
    assert made.function and made.function.name == "weather" and stream[-1].choices[0].finish_reason == "tool_calls"
    monkeypatch.undo()
    followed = running.client.chat.completions.create(
        model="respect",
        messages=[
            *messages,
            choice.message.model_dump(exclude_none=True),  # type: ignore[list-item]  # as clients send it back
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ],
        tools=WEATHER,
        user="tina",
        max_tokens=4,
    )
    (then,) = _records(place, followed.id)
    assert then.conversation_id == chat.conversation_id and then.version == chat.version


def _dictate(monkeypatch: pytest.MonkeyPatch, policy: Policy, ids: list[int]) -> None:
    """Let the most probable tokens be these, one after the other, for replies that are written alone."""
    head, place = policy.model.get_output_embeddings(), iter(ids * 2)
    plain = head.forward

    def forward(hidden: Any) -> Any:
        logits = plain(hidden)
        logits[..., next(place)] = 1e4
        return logits

    monkeypatch.setattr(head, "forward", forward)


def _linger(monkeypatch: pytest.MonkeyPatch, policy: Policy, wait: Callable[[int], None]) -> None:
    """Let replies never end of themselves, and wait before each token, which is told its number."""
    head, tokens = policy.model.get_output_embeddings(), itertools.count()
    plain = head.forward

    def forward(hidden: Any) -> Any:
        wait(next(tokens))
        logits = plain(hidden)
        logits[..., policy.writer.chat.end_id] = -1e4
        return logits

    monkeypatch.setattr(head, "forward", forward)


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "hi"}]}, 400, "messages"),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "\u200b"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "messages"),
        ({"n": 2}, 400, "n"),
        ({"temperature": 3}, 400, "temperature"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ],
)
def test_errors_are_as_openai_s(running: Running, given: dict[str, Any], status: int, param: str) -> None:
    options: dict[str, Any] = {"model": "respect", "messages": HELLO, "max_tokens": 4} | given
    with pytest.raises(openai.APIStatusError) as raised:
        running.client.chat.completions.create(**options)
    assert raised.value.status_code == status
    body: Any = raised.value.body
    assert body["param"] == param and body["message"] and "word word" not in body["message"]


def test_what_changes_nothing_is_accepted(running: Running) -> None:
    options: Any = {"n": 1, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "stop": None}
    assert running.say("hello", **options, response_format={"type": "text"}, parallel_tool_calls=True).choices


def test_a_long_prompt_is_refused_by_its_name(running: Running) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        running.say("word " * 2000)
    assert raised.value.code == "context_length_exceeded"


def test_the_client_tries_again_where_too_many_wait(place: Workspace) -> None:
    with serving(place, most=1, queue=1) as server:
        retrying = server.client.with_options(max_retries=30)

        def ask(number: int) -> Any:
            return retrying.chat.completions.create(
                model="respect", messages=HELLO, max_tokens=20, user=f"u{number}"
            ).choices

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(ask, range(6)))


def test_only_keys_that_are_known_may_ask(place: Workspace) -> None:
    keys = {"secret-of-ann-0123456789": "ann"}
    with serving(place, keys=keys) as server:
        assert server.say("hello").choices and server.client.models.list().data
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret-of-ann-0123456789"}):
            asked, nothing = {"model": "respect", "messages": HELLO}, dict[str, str]()
            for method, path, body in (
                ("GET", "/v1/models", nothing),
                ("POST", "/v1/chat/completions", asked),
                ("POST", "/v1/chat/completions", nothing),
            ):
                answer = server.http.request(method, path, headers=headers, json=body)
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_the_log_says_whether_a_client_named_the_user(place: Workspace, running: Running) -> None:
    """Without keys only this machine asks, of whose address nothing is logged."""
    (chat,) = _records(place, running.say("hello", user="ann").id)
    assert (chat.signed_in, chat.address_prefix) == (None, None) and "signed_in" not in chat.model_dump_json()
    with serving(place, keys={"secret-of-ann-0123456789": "ann"}) as server:
        answers = server.say("hello", user="bob").id, server.say("hello").id
    assert [chat.signed_in for each in answers for chat in _records(place, each)] == [True, False]


def test_what_interfaces_ask_behind_the_user_s_back_is_kept_apart(place: Workspace, running: Running) -> None:
    asked = "Generate a concise title for this chat.\n<chat_history>\nUSER: hi\n</chat_history>"
    answer = running.say(asked, user="fred")
    (chat,) = _records(place, answer.id)
    assert chat.background


def test_who_did_not_agree_is_answered_and_not_logged(place: Workspace) -> None:
    """Consent holds for conversations that began with it, as long as requests carry it."""
    with serving(place, consent="v2") as running:

        def say(chat: str, *said: str, headers: dict[str, str] | None = None, **given: Any) -> list[ServedChat]:
            named = {"X-Conversation-Id": chat} | (headers or {})
            answer = running.say(*said, user="cleo", extra_headers=named, **given)
            assert answer.choices[0].finish_reason
            running.gateway._lines.flush()
            return [chat for chat in served_chats.read(place.open()) if chat.id == answer.id]

        assert not say("none", "a hat") and not say("old", "a hat", headers={"X-Consent": "v1"})
        (record,) = say("yes", "a hat", headers={"X-Consent": "v2"})
        (also,) = say("also", "a hat", metadata={"consent": "v2"})
        assert record.consent == also.consent == "v2"
        assert not say("yes", "a hat", "where", "there"), "withdrawn"
        assert not say("none", "a hat", "where", "there", headers={"X-Consent": "v2"}), (
            "what came before was not logged"
        )
        assert say("yes", "a hat", "where", "there", headers={"X-Consent": "v2"})
        assert "respect_unlogged_replies_total 4.0" in running.http.get("/metrics").text
    with serving(place) as running:
        answer = running.say("a hat", user="cleo", extra_headers={"X-Consent": "v2"})
        assert _records(place, answer.id)[0].consent is None, "nobody asks for it"


def test_personal_data_is_masked_in_the_log_alone(place: Workspace, running: Running) -> None:
    answer = running.say("write to ann.smith@example.org", seed=1, user="gina")
    (chat,) = _records(place, answer.id)
    assert "example.org" not in chat.model_dump_json() and "logprobs" not in chat.response["choices"][0]


def test_a_masked_reply_is_not_given_away_by_its_tokens(
    place: Workspace, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = running.gateway.roster.deployed()["b-fft"].policy
    text = "Her address is ann.smith@example.org."
    ids = policy.base.processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [policy.writer.chat.end_id]
    _dictate(monkeypatch, policy, ids)
    messages: list[Any] = [{"role": "user", "content": "who is Ann?", "name": "Ann_Smith"}]
    answer = running.client.chat.completions.create(
        model="respect", messages=messages, temperature=0.0, max_tokens=60, user="hugo"
    )
    assert answer.choices[0].message.content == text
    (chat,) = _records(place, answer.id)
    stored = chat.model_dump_json()
    assert "token_ids" not in stored and "example.org" not in stored and "Ann_Smith" not in stored


def test_models_are_listed(running: Running) -> None:
    assert [each.id for each in running.client.models.list().data] == ["respect", "respect.b-fft"]
    assert running.client.models.retrieve("respect.b-fft").id == "respect.b-fft"
    with pytest.raises(openai.NotFoundError):
        running.client.models.retrieve("gpt-4")


def test_a_full_disk_answers_nothing_that_is_not_logged(
    running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running.gateway._lines, "add", full)
    with pytest.raises(openai.InternalServerError) as raised:
        running.say("hello")
    assert raised.value.status_code == 503
    events = []
    with pytest.raises(openai.APIError):
        events.extend(running.say("hello", stream=True))
    assert all(chunk.choices[0].finish_reason is None for chunk in events), "an end would acknowledge it"


def test_log_probabilities_are_finite(running: Running) -> None:
    answer = running.say("hello", logprobs=True, temperature=0.5, top_p=0.9, max_tokens=16)
    assert all(math.isfinite(each.logprob) and each.logprob <= 0 for each in answer.choices[0].logprobs.content)
