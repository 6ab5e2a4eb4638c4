"""The gateway's engine for vLLM, against a server that speaks vLLM's protocol with the engine of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from gateways import Running, chat_profile, serving
from policy_servers import MODEL, SEED, promote, registered, until

from respect_core.acting.policy import Policy
from respect_core.acting.reply import Piece, Sampling
from respect_core.acting.streaming import Streams
from respect_core.log import served_chats
from respect_core.model.base import Base, load_base
from respect_core.model.packing import Encoded
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(600)
KEY = "a-key-of-the-server"


class Twin:
    """A server with the part of vLLM's protocol that the engine uses; it draws as the engine of this process does."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.root, self.processed, self.key = base.name, True, ""
        self.adapters: dict[str, Policy] = {}
        self.breaks = False
        self.streams: Streams[Policy] = Streams(lambda policy: policy.writer)
        self.app = FastAPI()
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/completions")(self.complete)
        self.app.middleware("http")(self.admit)

    def _policy(self, files: Path | None) -> Policy:
        return Policy(self.base, files, VisionFeatures(self.base, {}), cache_bytes=0)

    async def admit(self, request: Request, proceed: Any) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        answer: Response = await proceed(request)
        return answer

    def models(self) -> dict[str, Any]:
        base = {"id": "base", "root": self.root, "parent": None, "max_model_len": 512}
        return {"data": [base, *({"id": name, "root": "", "parent": "base"} for name in self.adapters)]}

    def load(self, body: dict[str, Any]) -> Response:
        if body["lora_name"] in self.adapters:
            message = f"The lora adapter '{body['lora_name']}' has already been loaded."
            return JSONResponse({"error": {"message": message}}, 400)
        if not Path(body["lora_path"]).is_dir():
            return JSONResponse({"error": {"message": "No adapter found"}}, 404)
        self.adapters[body["lora_name"]] = self._policy(Path(body["lora_path"]))
        return Response("Success")

    async def complete(self, body: dict[str, Any]) -> Response:
        if not body.get("stream"):
            value = 0.0 if self.processed else -0.5
            return JSONResponse({"choices": [{"logprobs": {"token_logprobs": [value]}}]})
        policy = self.adapters.get(body["model"])
        if policy is None:
            return JSONResponse({"error": {"message": "The model does not exist."}}, 404)
        assert body["ignore_eos"] and body["stop_token_ids"] == [policy.writer.chat.end_id]
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        sampling = Sampling(body["temperature"], body["top_p"], body["seed"], body["max_tokens"])

        def emit(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        reply = self.streams.submit(
            policy,
            Encoded("", tuple(body["prompt"]), tuple(range(len(body["prompt"]))), (), ()),
            sampling,
            emit,
        )

        async def events() -> AsyncIterator[str]:
            try:
                while True:
                    piece = await pieces.get()
                    choice = {"token_ids": piece.tokens, "logprobs": {"token_logprobs": piece.token_logp}}
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                    if self.breaks:
                        return
                    if piece.finish:
                        yield "data: [DONE]\n\n"
                        return
            finally:
                reply.cancel()

        return StreamingResponse(events(), media_type="text/event-stream")


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    http = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=http.run)
    thread.start()
    try:
        until(lambda: http.started)
        yield f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
    finally:
        http.should_exit = True
        thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return registered(tmp_path, chat_profile())


@pytest.fixture
def twin() -> Iterator[Twin]:
    profile = chat_profile()
    made = Twin(load_base(profile.base, scenario(profile.scenario)))
    yield made
    made.streams.close()


@pytest.fixture
def url(twin: Twin) -> Iterator[str]:
    with listening(twin.app) as url:
        yield url


def _choices(place: Workspace, answers: list[str]) -> list[Any]:
    """Wait for the records of answers, and return what they say of the replies, without rounding."""
    until(lambda: {chat.id for chat in served_chats.read(place.open())} >= set(answers))
    records = {chat.id: chat for chat in served_chats.read(place.open())}
    found = [(records[each].request, records[each].response["choices"][0]) for each in answers]
    for _, choice in found:
        for token in choice.get("logprobs", {}).get("content", []):
            token["logprob"] = round(token["logprob"], 3)
    return found


def test_both_engines_give_the_same_answers_and_records(place: Workspace, url: str) -> None:
    """Sampled, greedy, cut at a stop, ended by themselves, streamed or whole."""
    given: list[dict[str, Any]] = [
        *({"seed": seed, "max_tokens": 40, "user": f"u{seed}"} for seed in range(6)),
        {"temperature": 0.0, "max_tokens": 12},
        {"seed": 3, "temperature": 0.6, "top_p": 0.7, "max_tokens": 12},
        {"seed": 4, "max_tokens": 40, "stop": ["e", "a"]},
    ]
    results = []
    for engine in (None, url):
        with serving(place, vllm=engine) as gateway:
            whole = [gateway.say("hello", **each) for each in given]
            streamed = [
                "".join(c.choices[0].delta.content or "" for c in gateway.say("hello", stream=True, **each))
                for each in given
            ]
        results.append(
            (
                [answer.choices[0].message.content for answer in whole],
                [answer.choices[0].finish_reason for answer in whole],
                [answer.usage for answer in whole],
                streamed,
                _choices(place, [answer.id for answer in whole]),
            )
        )
    assert results[0] == results[1]
    assert results[0][0] == results[0][3] and len(set(results[0][0])) > 5


def test_versions_are_loaded_under_names_of_their_own_and_again_after_a_restart(
    place: Workspace, url: str, twin: Twin
) -> None:
    with serving(place, vllm=url) as gateway:
        seed = gateway.say("hello", seed=1, user="ann")
        promote(place, 1)
        until(lambda: gateway.http.get("/ready").json()["variants"]["b-fft"]["version"] == f"{MODEL}/1")
        first = gateway.say("hello", seed=1, user="bob")
        twin.adapters.clear()
        again = gateway.say("hello", seed=1, user="carl")
        assert (seed.system_fingerprint, first.system_fingerprint) == (SEED, f"{MODEL}/1")
        assert again.choices[0].message.content == first.choices[0].message.content
        assert first.choices[0].message.content != seed.choices[0].message.content
        (name,) = twin.adapters
        version, _, adapter_hash = name.partition("@")
        assert version == f"{MODEL}/1" and adapter_hash == gateway.gateway.roster.deployed()["b-fft"].adapter_hash


def test_a_reply_that_its_client_cuts_is_stopped_there_too(place: Workspace, url: str, twin: Twin) -> None:
    with serving(place, vllm=url) as gateway:
        stream = gateway.say("tell me everything", max_tokens=400, stream=True, seed=1)
        next(stream)
        stream.close()
        until(lambda: not twin.streams.writing and not gateway.gateway.engine.waiting)
        until(lambda: any(chat.cut for chat in served_chats.read(place.open())))


def test_a_server_that_breaks_off_is_an_error_and_no_turn(place: Workspace, url: str, twin: Twin) -> None:
    with serving(place, vllm=url) as gateway:
        twin.breaks = True
        with pytest.raises(openai.InternalServerError, match="could not be written"):
            gateway.say("hello", user="ann", max_tokens=30)
        twin.breaks = False
        assert gateway.say("hello", user="bob").choices[0].message.content
    assert [chat.cut for chat in served_chats.read(place.open())].count(False) == 1


def _complaint(gateway: Running) -> str:
    return str(gateway.http.get("/ready").json()["variants"]["b-fft"]["refused"])


def test_a_server_that_does_not_fit_is_refused_and_tried_again(
    place: Workspace, twin: Twin, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(place, vllm="http://127.0.0.1:9", ready=False) as gateway:
        until(lambda: "does not answer" in _complaint(gateway))
    with listening(FastAPI()) as another, serving(place, vllm=another, ready=False) as gateway:
        until(lambda: "no vLLM server" in _complaint(gateway))
    twin.processed = False
    with serving(place, vllm=url, ready=False) as gateway:
        until(lambda: "processed_logprobs" in _complaint(gateway))
        twin.processed = True
        until(lambda: gateway.http.get("/ready").status_code == 200)
    twin.key, twin.adapters = KEY, {}
    with serving(place, vllm=url, ready=False) as gateway:
        until(lambda: "VLLM_API_KEY" in _complaint(gateway))
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with serving(place, vllm=url) as gateway:
        assert gateway.say("hello").choices[0].message.content
    twin.root = "/another/model"
    with serving(place, vllm=url, ready=False) as gateway:
        until(lambda: "/another/model" in _complaint(gateway))
