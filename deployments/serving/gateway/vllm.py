"""Let a vLLM server write the replies: prompts go to it as tokens, and drawn tokens come back with log-probabilities.

Text, stops and ends are made of the tokens here, as for the engine of this process, so that the same tokens give the
same record. An adapter is loaded under a name with its version and hash, which never comes back for another: vLLM keeps
keys and values by name.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoConfig

from deployments.serving.base import Settings
from deployments.serving.gateway.engine import Engine
from deployments.serving.versions import EngineError, Loader, ServedVersion, VersionRejectedError
from respect_core.acting.batcher import OverloadedError
from respect_core.acting.reply import Emit, Reply, Sampling
from respect_core.model import local, precision
from respect_core.model.base import default_device, load_processor
from respect_core.model.chat import chat
from respect_core.model.packing import Encoded
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.settings import settings as environment
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)
PATIENCE = httpx.Timeout(300.0, connect=5.0)
"""In seconds: between two tokens, and for a connection."""


def command(profile: Profile, port: int, python: str) -> list[str]:
    """Return the command that starts a vLLM server for a profile's adapters, in the precision of training here.

    Args:
        python: of the environment that has vLLM.
    """
    source = local.locate(profile.base)
    dtype = str(precision.of_base(default_device(), AutoConfig.from_pretrained(source))).removeprefix("torch.")
    return [
        *(
            "env",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            "VLLM_NO_USAGE_STATS=1",
            python,
            "-m",
            "vllm.entrypoints.openai.api_server",
        ),
        *("--model", source, "--dtype", dtype, "--enable-lora", "--max-lora-rank", str(profile.lora.rank)),
        # Those of the distribution that tokens are drawn from, as the engine of this process gives them.
        *("--logprobs-mode", "processed_logprobs", "--host", "127.0.0.1", "--port", str(port)),
    ]


@dataclass(frozen=True, eq=False)
class Adapter(ServedVersion):
    """A version whose adapter a vLLM server has loaded."""

    files: Path

    @property
    def model(self) -> str:
        """The adapter's name at the server."""
        return f"{self.name}@{self.adapter_hash}"


class VllmLoader(Loader[Adapter]):
    """Loads adapters into a vLLM server, which must see their files under the same path."""

    def __init__(self, workspace: Workspace, url: str) -> None:
        super().__init__(workspace)
        self.url = url
        self._client = httpx.Client(base_url=url, headers=_headers(), timeout=PATIENCE)

    def reload(self, adapter: Adapter) -> None:
        """Load an adapter, unless the server has it. Raises EngineError."""
        answer = self._post("/v1/load_lora_adapter", lora_name=adapter.model, lora_path=str(adapter.files.resolve()))
        if answer.is_error and "already been loaded" not in answer.text:
            raise EngineError(
                f"vLLM at {self.url} does not load {adapter.name} ({_reason(answer)}); start it as `respect vllm` "
                f"says, where it can read {adapter.files.resolve()}"
            )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ready(self, name: str, adapter_hash: str, files: Path, profile: Profile) -> Adapter:
        longest = self._require(profile, name)
        processor = _processor(profile.base, longest)
        adapter = Adapter(name, adapter_hash, profile.base, processor, scenario(profile.scenario), files)
        self.reload(adapter)
        return adapter

    def _require(self, profile: Profile, name: str) -> int:
        """Return the most tokens that the server takes.

        Raises:
            EngineError: it does not answer, or gives log-probabilities of another distribution.
            VersionRejectedError: it serves another base model.
        """
        try:
            models = self._answer("GET", "/v1/models").json()["data"]
            base = next(each for each in models if each["parent"] is None)
        except (ValueError, KeyError, TypeError, StopIteration):
            raise EngineError(f"what answers at {self.url} is no vLLM server; `respect vllm` starts one") from None
        source = local.locate(profile.base)
        if base["root"] != source:
            raise VersionRejectedError(
                f"{name} is over {profile.base}, and vLLM at {self.url} serves {base['root']}: start it with {source}"
            )
        tokens = chat(load_processor(profile.base)).tokens([], generate=True)[0]
        # All but the most probable token are cut off, which leaves it a log-probability of 0.
        drawn = self._post("/v1/completions", model=base["id"], prompt=tokens, max_tokens=1, logprobs=0, top_p=1e-6)
        if drawn.is_error or drawn.json()["choices"][0]["logprobs"]["token_logprobs"] != [0.0]:
            raise EngineError(
                f"vLLM at {self.url} gives log-probabilities that training does not compute: start it with "
                "--logprobs-mode processed_logprobs, as `respect vllm` says"
            )
        return int(base["max_model_len"])

    def _post(self, path: str, **body: Any) -> httpx.Response:
        return self._answer("POST", path, json=body)

    def _answer(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **given)
        except httpx.HTTPError as error:
            raise EngineError(
                f"vLLM at {self.url} does not answer ({type(error).__name__}); `respect vllm` says how to start it"
            ) from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise EngineError(f"vLLM at {self.url} asks for another key: set VLLM_API_KEY to its --api-key")
        return answer


@lru_cache(maxsize=8)
def _processor(base: str, longest: int) -> Any:
    """Return a base's processor, with its own limit or the server's."""
    processor = load_processor(base)
    processor.tokenizer.model_max_length = min(processor.tokenizer.model_max_length, longest)
    return processor


class Vllm(Engine[Adapter]):
    """A vLLM server as the engine.

    Args:
        url: its address, without /v1.
        settings: how many replies it may be writing (`most`), and how many more may wait (`queue`).
    """

    def __init__(self, workspace: Workspace, settings: Settings, url: str) -> None:
        self._loader = VllmLoader(workspace, url)
        self._room = settings.most + settings.queue
        self._replies: dict[Reply, asyncio.Task[None]] = {}
        self._client: httpx.AsyncClient | None = None  # of the server's event loop

    @property
    def loader(self) -> VllmLoader:
        """What loads adapters."""
        return self._loader

    @property
    def waiting(self) -> int:
        """Number of replies of which nothing is written yet."""
        return sum(not reply.tokens for reply in list(self._replies))

    def submit(self, version: Adapter, prompt: Encoded, sampling: Sampling, emit: Emit) -> Reply:
        """Ask for a reply. Raises OverloadedError: too many wait."""
        if len(self._replies) >= self._room:
            raise OverloadedError(f"{self._room} replies are being written")
        reply = Reply(prompt, sampling, emit)
        task = self._replies[reply] = asyncio.create_task(self._write(version, reply))
        task.add_done_callback(lambda _: self._replies.pop(reply))
        return reply

    def close(self) -> None:
        """Close the connections."""
        self._loader.close()

    async def _write(self, version: Adapter, reply: Reply) -> None:
        try:
            if not await self._written(version, reply):
                await asyncio.to_thread(self._loader.reload, version)  # the server has restarted
                if not await self._written(version, reply):
                    raise EngineError("the adapter is not there after loading it")
        except Exception as error:
            log.error("a reply of %s fails (%s)", version.name, type(error).__name__)
            reply.fail()

    async def _written(self, version: Adapter, reply: Reply) -> bool:
        """Take tokens until the reply ends or nobody waits for it; return False where the server lacks the adapter."""
        end_id, tokenizer = chat(version.processor).end_id, version.processor.tokenizer
        async with self._connection().stream(
            "POST", "/v1/completions", json=_request(version, reply, end_id)
        ) as answer:
            if answer.status_code == httpx.codes.NOT_FOUND:
                return False
            answer.raise_for_status()
            async with aclosing(_drawn(answer)) as tokens:
                async for token, logp in tokens:
                    if reply.cancelled or not reply.add(token, logp, tokenizer, end_id):
                        return True
        raise EngineError("the stream ended before the reply")

    def _connection(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(
                base_url=self._loader.url, headers=_headers(), timeout=PATIENCE, limits=limits
            )
        return self._client


def _headers() -> dict[str, str]:
    key = environment().vllm_key
    return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}


def _request(version: Adapter, reply: Reply, end_id: int) -> dict[str, Any]:
    sampling = reply.sampling
    return {
        "model": version.model,
        "prompt": list(reply.prompt.input_ids),
        "stream": True,
        "return_token_ids": True,
        "logprobs": 0,  # those of the drawn tokens alone
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": [end_id],
        "ignore_eos": True,  # other end tokens that the model may have are not the assistant's
    }


async def _drawn(answer: httpx.Response) -> AsyncGenerator[tuple[int, float], None]:
    """Yield tokens with their log-probabilities from a stream of events."""
    async for line in answer.aiter_lines():
        kind, _, data = line.partition(": ")
        if kind == "data" and data != "[DONE]":
            for choice in json.loads(data)["choices"]:
                for drawn in zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True):
                    yield drawn


def _reason(answer: httpx.Response) -> str:
    """Return a server's complaint about an adapter, which holds nothing of a user."""
    try:
        return str(answer.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
