"""A registry of real adapters over the embedded model, and policy servers on it, for tests."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import models
import torch
import uvicorn
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter

from deployments.serving.api import create_app
from deployments.serving.base import Settings
from deployments.serving.server import PolicyServer
from respect_core.acting.policy import Policy
from respect_core.acting.roster import seeded
from respect_core.model.base import adapter_hash, attach_lora, load_base, save_adapter
from respect_core.profiles import Profile, tiny
from respect_core.release import canary_power, ledger
from respect_core.scenario import scenario
from respect_core.store.images import put_images
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

MODEL = "respect.b-fft"
SEED = "respect.seed/1"
PATIENCE = 240.0
"""Seconds; the machine may be busy with something else."""


_base = cache(lambda name, rules: load_base(name, scenario(rules)))
"""Loaded once; adapters and policies on it leave it as it is."""


def registered(folder: Path, profile: Profile | None = None, *, scale: float = 0.05) -> Workspace:
    """A seed policy and three versions of b-fft, with different weights of this size; images in the store."""
    profile = profile or tiny()
    place = workspace(folder / "runs" / "main")
    put_images(place.open(), models.images())
    base = _base(profile.base, profile.scenario)
    for number, variant in enumerate(("seed", "b-fft", "b-fft", "b-fft")):
        files = folder / f"adapter-{number}"
        model = attach_lora(base, profile.lora, seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if "lora_B.default" in name:
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        save_adapter(model, files)
        (files / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(profile))
        tags = {"round": number, "adapter_hash": adapter_hash(files), "profile": profile.name}
        run_id = registry.start_run(place, f"{variant} {number}")
        registry.register_adapter(place, run_id, variant, files, tags=tags, metrics={}, step=0)
    return place


def promotion(place: Workspace, number: int) -> ledger.Entry:
    """Of a version of b-fft, in the place of what is deployed; to be appended."""
    history = ledger.entries(place.open(), MODEL)
    version = registry.named(place, f"{MODEL}/{number}")
    return ledger.promotion(
        history,
        MODEL,
        from_version=history[-1].to_version if history else SEED,
        to_version=f"{MODEL}/{number}",
        adapter_hash=version.tags["adapter_hash"],
        actor="ann",
    )


def promote(place: Workspace, number: int) -> None:
    """Into the ledger, which decides; the alias is left to whoever looks next."""
    ledger.append(place.open(), promotion(place, number))


def roll_back(place: Workspace) -> None:
    """As `promote`."""
    history = ledger.entries(place.open(), MODEL)
    back = registry.named(place, ledger.to_roll_back(history, MODEL).from_version)
    ledger.append(place.open(), ledger.rollback(history, MODEL, adapter_hash=back.tags["adapter_hash"], actor="bob"))


def begin_canary(place: Workspace, number: int, share: float = 0.5, **changed: Any) -> ledger.Entry:
    """Of a version of b-fft, next to what is deployed."""
    history, version = ledger.entries(place.open(), MODEL), registry.named(place, f"{MODEL}/{number}")
    before = registry.named(place, history[-1].to_version if history else SEED)
    fields = {"candidate": f"{MODEL}/{number}", "adapter_hash": version.tags["adapter_hash"], "seed": "drawn"}
    canary = canary_power.planned(share).model_copy(update=fields | changed)
    deployed = {"to_version": f"{before.name}/{before.version}", "adapter_hash": before.tags["adapter_hash"]}
    entry = ledger.begin_canary(history, MODEL, canary, actor="ann", **deployed)
    ledger.append(place.open(), entry)
    return entry


def end_canary(place: Workspace) -> None:
    """Without a promotion."""
    begun = ledger.in_canary(ledger.entries(place.open(), MODEL))
    assert begun is not None
    ledger.append(place.open(), ledger.end_canary(begun, actor="bob"))


def files_in_registry(version: ModelVersion) -> Path:
    """Where MLflow keeps them."""
    return Path(version.source.removeprefix("file://"))


def until(condition: Callable[[], object]) -> float:
    """Wait until something holds; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Running:
    """A server behind HTTP, and a client of it."""

    server: PolicyServer
    client: httpx.Client

    def act(self, request: dict[str, Any]) -> httpx.Response:
        return self.client.post("/act", json=request)

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/ready").json()
        return found

    def serves(self, version: str) -> bool:
        """Whether new games of b-fft get it."""
        return bool(self.ready()["variants"]["b-fft"]["version"] == version)

    def metric(self, line: str) -> float | None:
        """The value behind a metric's name and labels."""
        for each in self.client.get("/metrics").text.splitlines():
            if each.startswith(f"respect_{line} "):
                return float(each.rpartition(" ")[2])
        return None


@contextlib.contextmanager
def serving(place: Workspace, *, ready: bool = True, began_with: Any = None, **settings: Any) -> Iterator[Running]:
    """A server of b-fft that looks often at what is deployed."""
    given = Settings(**{"variants": ("b-fft",), "every": 0.2, "flush": 0.5} | settings)
    server = PolicyServer(place, given, began_with)
    http = uvicorn.Server(uvicorn.Config(create_app(server), port=0, log_level="warning"))
    thread = threading.Thread(target=http.run)
    thread.start()
    try:
        until(lambda: http.started)
        port = http.servers[0].sockets[0].getsockname()[1]
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, limits=limits) as client:
            running = Running(server, client)
            if ready:
                until(lambda: running.ready()["ready"])
            yield running
    finally:
        http.should_exit = True
        thread.join()


@dataclass
class PlayedGame:
    """A game as its caller sees it: each turn is what was said, and the reply."""

    name: str
    said: random.Random = field(init=False)
    context: list[str] = field(init=False)
    requests: list[dict[str, Any]] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.said = random.Random(self.name)
        self.context = self.said.sample(sorted(models.images()), 10)

    def request(self, **fields: Any) -> dict[str, Any]:
        """The next turn's."""
        turns = [
            {"utterance": request["utterance"], "action": reply["action"]}
            for request, reply in zip(self.requests, self.replies, strict=True)
        ]
        words = " ".join(self.said.choices(models.WORDS, k=self.said.randint(1, 8)))
        made = {"variant": "b-fft", "game": self.name, "context": self.context, "turns": turns, "utterance": words}
        return made | fields

    def play(self, running: Running, turns: int = 1, **fields: Any) -> PlayedGame:
        """So many turns more."""
        for _ in range(turns):
            request = self.request(**fields)
            answer = running.act(request)
            self.codes.append(answer.status_code)
            assert answer.status_code == 200, answer.text
            self.requests.append(request)
            self.replies.append(answer.json())
        return self

    @property
    def versions(self) -> set[tuple[str, str]]:
        """Who acted, by name and hash."""
        return {(reply["version"], reply["adapter_hash"]) for reply in self.replies}


def by_hand(place: Workspace, version: str, games: Sequence[PlayedGame]) -> list[list[tuple[str, float]]]:
    """What a version does in each turn of games, one at a time, without a server and without kept keys and values."""
    from deployments.serving.schema import ActRequest
    from deployments.serving.versions import StoredImages
    from respect_core.model.vision import VisionFeatures

    images, base = StoredImages(place.open()), _base("tiny", "multiref")
    images.require(image for game in games for image in game.context)
    files = registry.download(place, registry.named(place, version))
    policy = Policy(base, files, VisionFeatures(base, images), cache_bytes=0)
    result = []
    for game in games:
        acts = []
        for request, reply in zip(game.requests, game.replies, strict=True):
            asked = ActRequest(**request)
            (act,) = policy.act([seeded(asked.game, reply["seed"], asked.context, asked.to_turns())])
            acts.append((act.action, act.probability))
        result.append(acts)
    return result
