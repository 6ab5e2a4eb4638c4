"""What Prefect, MLflow and the store cost a round, against the same work as plain function calls.

The round is the profile `tiny`'s own: b-fft with its steps and its validation set, after a log of games of three
lengths. Before it the decoder's files are read once and all kept vision features are deleted. It is measured in two
ways: from outside, the flow's time against that of `plain_round`; and from inside, where a stopwatch stands at every
door to Prefect, MLflow and the store, because the few seconds asked for are within the noise of a minute of training.
What is paid once a command, not once a round, is reported beside it.

It all happens in a process of its own (`python -m tests.bench.overhead FOLDER plain|flow`, which goes first), whose
Prefect server ends with it; and once more in the other order, if both fit in four minutes.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from respect_core.profiles import Profile, tiny
from respect_core.variants import SEED, Variant
from tasks.compute import forks
from tests.bench import games
from tests.bench.plain_round import Files, Learned, plain_round
from tests.bench.record import Record, case, versions

if TYPE_CHECKING:  # Prefect reads its settings when it is imported, so it waits until they are made
    from flows.parameters import RoundParameters
    from tasks.support.workspace import Workspace

VARIANT = Variant.B_FFT
GAMES = 30  # of each length
PACKAGES = ("prefect", "mlflow")
SECONDS = 240  # for all of it


# --- stopwatches ------------------------------------------------------------------------------------------------


class Stopwatch:
    """When calls of several kinds ran, whichever thread they ran in."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        @wraps(function)
        def watched(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spans[kind].append((started, time.perf_counter()))

        return watched

    def seconds(self, *kinds: str) -> float:
        """Seconds during which a call of these kinds ran; moments that several share count once."""
        total, end = 0.0, 0.0
        for start, stop in sorted(span for kind in kinds for span in self.spans[kind]):
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total


@contextmanager
def watching() -> Iterator[Stopwatch]:
    """Watches the bodies of all tasks, MLflow's client, the store and the worker processes while inside."""
    from mlflow import MlflowClient
    from prefect import Task

    from flows import round as flow
    from flows import seed
    from flows.dispatch import stages
    from respect_core.store.base import Store
    from tasks.compute import process
    from tasks.registry import registry

    watch = Stopwatch()
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, kind: str) -> None:
        before = getattr(owner, name)
        setattr(owner, name, watch.around(kind, before))
        undo.append((owner, name, before))

    stores = [Store, *Store.__subclasses__()]
    doors = [(each, "store") for each in stores] + [(MlflowClient, "mlflow")]
    for owner, kind in doors:
        for name, value in list(vars(owner).items()):
            if inspect.isfunction(value) and not name.startswith("_") and not inspect.isgeneratorfunction(value):
                put(owner, name, kind)
    put(registry, "download_artifacts", "mlflow")
    put(process, "run", "worker")
    tasks = {
        id(task): task for module in (flow, seed, stages) for task in vars(module).values() if isinstance(task, Task)
    }
    for task in tasks.values():
        put(task, "fn", "report" if task.name == "report" else "task")
    try:
        yield watch
    finally:
        for owner, name, before in reversed(undo):
            setattr(owner, name, before)


# --- the two sides, in a process of their own ---------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Seconds, and whether both sides learned the same."""

    turns: int
    steps: int
    plain: float
    flow: float
    plain_training: float
    flow_training: float
    plain_processor: float  # seconds of processor, of this process and its workers; the Prefect server's are not in
    flow_processor: float
    stages: dict[str, float]  # of the flow, outside of the work
    once: dict[str, float]  # a command
    equality: str


def measure(root: Path, first: str) -> Measured:
    """Both sides on the same games, "plain" or "flow" first."""
    from flows.support import environment

    environment.prepare(root)
    started = time.perf_counter()
    from flows.parameters import RoundParameters
    from tasks.support.workspace import workspace

    once = {"imports": time.perf_counter() - started, "Prefect server": _server_start()}
    place, parameters = workspace(root), RoundParameters(round=0, profile="tiny", variants=[VARIANT])
    turns = _prepare(place, parameters)
    profile = parameters.resolved_profile()

    watches: list[Stopwatch] = []

    def run_plain() -> Learned:
        return plain_round(_files(place), profile, VARIANT, root / "plain")

    def run_flow() -> dict[str, Any]:
        with watching() as watch:
            watches.append(watch)
            return _round(place, parameters)

    if first == "plain":
        learned, plain, plain_processor = _timed(run_plain)
    summary, flow, flow_processor = _timed(run_flow)
    if first != "plain":
        learned, plain, plain_processor = _timed(run_plain)
    (watch,) = watches
    return Measured(
        turns=turns,
        steps=profile.training[VARIANT.objective].max_steps or 0,
        plain=plain,
        flow=flow,
        plain_training=learned.seconds_of_training,
        flow_training=summary["seconds"]["train"],
        plain_processor=plain_processor,
        flow_processor=flow_processor,
        stages=_stages(watch, flow, summary["seconds"]["train"]),
        once=once,
        equality=_same(place, summary, learned),
    )


def _timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, its seconds, and its seconds of processor."""
    started, used = time.perf_counter(), _processor()
    result = run()
    seconds = time.perf_counter() - started
    forks.stop()  # only then are its workers' seconds of processor known
    return result, seconds, _processor() - used


def _processor() -> float:
    """Seconds of processor so far, of this process and of children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _server_start() -> float:
    """Seconds until the server of the process answers: the first flow's, less the second's."""
    from prefect import flow

    @flow
    def nothing() -> None:
        pass

    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        nothing()
        seconds.append(time.perf_counter() - started)
    return seconds[0] - seconds[1]


def _prepare(place: Workspace, parameters: RoundParameters) -> int:
    """Game sets, a seed policy of one step (the round finds it registered), and the log; returns its turns.

    Afterwards the decoder's files are in memory, and no vision features are kept: both sides make their own.
    """
    from flows import parameters as parameters_module
    from flows.seed import seed_policy
    from respect_core.feedback import decoder as feedback
    from respect_core.log.log import append_logs
    from respect_core.log.records import InteractionLog, LoggedTurn, PolicyIdentity, turn_rows
    from respect_core.store.images import put_images
    from tests.bench.models import pictures

    patch.object(parameters_module, "named_profile", _profile).start()  # to the end of this process
    profile, store = parameters.resolved_profile(), place.open()
    seed_policy(place, profile, parameters.validation)
    played = [each.interaction for turns in games.LENGTHS for each in games.examples(GAMES, turns)]
    drawings = pictures()
    put_images(store, {image: drawings[image] for game in played for image in game.context})
    logs = [
        InteractionLog(
            interaction_id=f"{len(game.turns)}-{game.interaction_id}",
            round=0,
            variant=SEED,
            policy=PolicyIdentity(name="bench", version="unknown"),
            user="0123456789abcdef",
            started_at="2026-01-02T03:04:05",
            context=list(game.context),
            turns=[
                LoggedTurn(utterance=turn.utterance, action=str(turn.action), probability=turn.probability)
                for turn in game.turns
            ],
        )
        for game in played
    ]
    append_logs(store, logs, "games")
    shutil.rmtree(place.scratch / "vision", ignore_errors=True)
    decoder = feedback.FeedbackDecoder(getattr(feedback, profile.feedback_decoder)())
    decoder.decode([row for log in logs[:3] for row in turn_rows(log)])
    return sum(len(log.turns) for log in logs)


def _profile(_: str) -> Profile:
    """`tiny` as it is, but for the seed policy, which is not part of the round."""
    profile = tiny()
    return replace(profile, seed_training=replace(profile.seed_training, max_steps=1, checkpoint_every=1))


def _files(place: Workspace) -> Files:
    from tasks.registry import registry

    store, seed = Path(place.store_uri), registry.latest(place, SEED)
    assert seed is not None
    return Files(
        logs=store / "interactions/round=0/variant=seed/games.jsonl",
        d0=store / "game_sets/d0.jsonl",
        validation=store / "game_sets/validation.jsonl",
        images=store / "images",
        adapter=registry.download(place, seed),
    )


def _round(place: Workspace, parameters: RoundParameters) -> dict[str, Any]:
    from flows.round import round as flow

    summary: dict[str, Any] = flow(place, parameters)
    return summary


def _stages(watch: Stopwatch, flow: float, training: float) -> dict[str, float]:
    """Seconds of the flow by who took them; the worker's start is on both sides and does not count as overhead."""
    bodies = ("task", "report")
    mlflow = watch.seconds("mlflow")
    return {
        "Prefect": flow - watch.seconds(*bodies),
        "MLflow": mlflow,
        "store": watch.seconds("store", "mlflow") - mlflow,
        "report": watch.seconds("report", "mlflow", "store") - watch.seconds("mlflow", "store"),
        "worker start": watch.seconds("worker") - training,
    }


def _same(place: Workspace, summary: Mapping[str, Any], learned: Learned) -> str:
    """Both sides chose the same adapter, to the bit; else AssertionError."""
    from respect_core.model.base import WEIGHTS, adapter_hash
    from tasks.registry import registry

    version = registry.latest(place, VARIANT)
    assert version is not None, "nothing was registered"
    weights = adapter_hash(registry.adapter(place, version), like=WEIGHTS)
    assert weights == adapter_hash(learned.adapter, like=WEIGHTS), "adapters differ"
    match = summary["variants"][VARIANT]["val_exact_match"]
    assert match == learned.exact_match, f"exact match {match} and {learned.exact_match}"
    return f"adapters equal to the bit, exact match {match:.3f}"


# --- the case -----------------------------------------------------------------------------------------------------


@case("overhead")
def overhead(quick: bool) -> Iterator[Record]:
    """The bar is 5% of the round, so 0.95 of its time is the plain calls'. There is no quick form: it takes minutes."""
    if quick:
        return
    started = time.monotonic()
    runs = [_in_a_process("plain")]
    if 2 * (time.monotonic() - started) < SECONDS:
        runs.append(_in_a_process("flow"))
        order = "each side first once"
    else:
        order = f"plain calls first; the other order does not fit in {SECONDS} s"
    one = runs[0]
    size = f"tiny, {VARIANT}, {one.steps} steps, {one.turns} turns"
    flows = [run.flow for run in runs]
    trained = (
        f"training itself {mean(run.flow_training for run in runs):.1f} s in the flow, "
        f"{mean(run.plain_training for run in runs):.1f} s plain; seconds of processor "
        f"{mean(run.flow_processor for run in runs):.1f} and {mean(run.plain_processor for run in runs):.1f}; {order}"
    )
    yield _record(size, flows, [run.plain for run in runs], "plain calls", 0.95, f"{one.equality}; {trained}")
    outside = [sum(seconds for stage, seconds in run.stages.items() if stage != "worker start") for run in runs]
    without = [flow - seconds for flow, seconds in zip(flows, outside, strict=True)]
    stages = ", ".join(f"{stage} {mean(run.stages[stage] for run in runs):.2f} s" for stage in one.stages)
    yield _record(f"{size}; inside", flows, without, "less what was counted", 0.95, stages)
    whole = [run.flow + sum(run.once.values()) for run in runs]
    once = ", ".join(f"{name} {mean(run.once[name] for run in runs):.1f} s" for name in one.once)
    yield _record(f"{size}; once a command", whole, flows, "the round alone", None, once)


def _in_a_process(first: str) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.overhead", folder, first]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"DO_NOT_TRACK": "1"})
        return Measured(**json.loads((Path(folder) / "measured.json").read_text()))


def _record(
    size: str, seconds: Sequence[float], of_peer: Sequence[float], peer_name: str, bar: float | None, equality: str
) -> Record:
    """Rounds a minute, so that higher is better, as everywhere; of the mean over the repeats."""
    ours, peer = mean(seconds), mean(of_peer)
    ratios = [other / one for one, other in zip(seconds, of_peer, strict=True)]
    return Record(
        case="overhead",
        size=size,
        turns_per_game=None,
        ours=60 / ours,
        peer=60 / peer,
        peer_name=peer_name,
        unit="rounds/min",
        ratio=peer / ours,
        bar=bar,
        tokens_ours=None,
        tokens_peer=None,
        flops_ours=None,
        flops_peer=None,
        seconds_ours=ours,
        seconds_peer=peer,
        repeats=len(ratios),
        spread=(min(ratios), max(ratios)) if len(ratios) > 1 else None,
        equality=equality,
        versions=versions(*PACKAGES),
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    result = measure(target, sys.argv[2])
    (target / "measured.json").write_text(json.dumps(asdict(result)))
