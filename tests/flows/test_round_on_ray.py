"""On a Ray cluster of two nodes, of which one is lost on the way, a round and a training give what one machine gives.

The nodes are of one machine, each with scratch of its own: they share the store alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from paths import REPOSITORY
from samples import contents
from small import smallest
from trainings import training

from flows import parameters as parameters_module
from flows.dispatch import stages
from flows.parameters import RoundParameters
from flows.round import round as round_flow
from respect_core.feedback.shards import SHARDS
from respect_core.model.base import adapter_hash
from respect_core.store.base import Store, StoreError
from respect_core.variants import Variant
from tasks.compute import process
from tasks.compute.places import Place
from tasks.registry import registry
from tasks.round.decode import decode_feedback
from tasks.support.workspace import Workspace, workspace

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3000)]
pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'")

VARIANTS = [Variant.B_FFT, Variant.B_KTO]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small profile, and shards of a few turns; one thread everywhere, since rounding depends on it."""
    monkeypatch.setattr(parameters_module, "named_profile", smallest)
    monkeypatch.setattr(stages, "decode_feedback", lambda *a, **k: decode_feedback(*a, turns_per_shard=12, **k))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Node:
    """A node that may be lost."""

    raylet: psutil.Process
    root: Path

    def works(self) -> bool:
        """Whether a job has its worker here."""
        return any("tasks.compute.worker" in each.cmdline() for each in self.raylet.children(recursive=True))

    def lose(self) -> None:
        """SIGKILL of everything at once."""
        for each in [self.raylet, *self.raylet.children(recursive=True)]:
            each.kill()


class Cluster:
    """A head that carries no work, and nodes of one core."""

    def __init__(self, folder: Path) -> None:
        import ray.cluster_utils

        # A busy machine may hold a process for minutes. The connection of one that was killed ends at once.
        patience = {"health_check_timeout_ms": 600_000, "health_check_period_ms": 1000}
        self._folder, self._nodes = folder, 0
        # Its hooks at exit could be set by the main thread alone.
        self.cluster = ray.cluster_utils.Cluster(shutdown_at_exit=False)
        self.cluster.add_node(num_cpus=0, include_dashboard=False, _system_config=patience)

    def add(self) -> Node:
        from ray._private import ray_constants

        self._nodes += 1
        root = self._folder / f"node-{self._nodes}"
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"RESPECT_ROOT": str(root), "PYTHONPATH": path}
        node = self.cluster.add_node(env_vars=variables, num_cpus=1, include_dashboard=False)
        (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
        return Node(psutil.Process(raylet.process.pid), root)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(tmp_path / "nodes")
    monkeypatch.setenv("RAY_ADDRESS", made.cluster.address)
    try:
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()


@pytest.fixture
def one_machine(tmp_path: Path, prefect_server: None) -> tuple[Workspace, dict[str, Any]]:
    place = _with_games(tmp_path / "here")
    return place, round_flow(place, RoundParameters(round=0, variants=VARIANTS))


def _with_games(root: Path) -> Workspace:
    sys.path.insert(0, str(REPOSITORY / "tests" / "stack"))
    try:
        import made_up_games
    finally:
        sys.path.pop(0)
    place = workspace(root)
    made_up_games.people(place.open())
    made_up_games.play(place.open(), 0, games=24)
    return place


def test_a_node_lost_in_decode_changes_nothing_of_a_round(
    one_machine: tuple[Workspace, dict[str, Any]], nodes: Cluster, tmp_path: Path
) -> None:
    place = _with_games(tmp_path / "on-ray")
    store = place.open()
    nodes.add()
    second = nodes.add()
    with _lost(nodes, second, lambda: bool(store.keys(SHARDS)) and second.works()):
        summary = round_flow(place, RoundParameters(round=0, variants=VARIANTS), on=Place.RAY)

    here, expected = one_machine
    assert contents(store, "feedback/") == contents(here.open(), "feedback/") and not store.keys(SHARDS)
    assert _figures(summary) == _figures(expected)
    assert _adapters(place) == _adapters(here)


def test_a_training_goes_on_on_another_node(people: Path, nodes: Cluster, tmp_path: Path) -> None:
    from tasks.compute import on_ray

    spec = training(people, tmp_path / "driver", steps=30, checkpoint_every=6)
    first = nodes.add()
    with _lost(nodes, first, lambda: _has_sent_a_point(first, spec.workspace.open())):
        on_ray.run(spec, spec.directory, lambda done, total, note: None, spread=True)
    here = spec.moved(spec.workspace, tmp_path / "here", None)
    process.run(here, here.directory, lambda done, total, note: None)
    assert (spec.directory / "history.jsonl").read_text() == (here.directory / "history.jsonl").read_text()
    name = "step-000030"
    assert adapter_hash(spec.directory / name) == adapter_hash(here.directory / name)


@contextmanager
def _lost(nodes: Cluster, node: Node, ready: Callable[[], bool]) -> Iterator[None]:
    """Lose a node as soon as `ready`, while another takes its place."""
    stop, lost = threading.Event(), threading.Event()

    def lose() -> None:
        while not stop.is_set() and not lost.is_set():
            with suppress(psutil.Error, OSError, StoreError):  # processes and files that went in between
                if ready():
                    node.lose()
                    lost.set()
                    nodes.add()
            time.sleep(0.02)

    killer = threading.Thread(target=lose)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()
    assert lost.is_set()


def _has_sent_a_point(node: Node, store: Store) -> bool:
    """Whether the node is in the middle of a training whose resume point has reached the store."""
    if not node.works():
        return False
    here = {path.read_bytes() for path in (node.root / "work").glob("job-*/job/resume.pt")}
    return any(store.read(key) in here for key in store.keys("jobs/train/") if key.endswith("/resume.pt"))


def _figures(summary: Mapping[str, Any]) -> Any:
    """All but clocks, and MLflow's names for runs."""
    decoder = {kind: {**figures, "turns_per_second": None} for kind, figures in summary["decoder"].items()}
    variants = {name: {**figures, "seconds": None, "run_id": None} for name, figures in summary["variants"].items()}
    return decoder, variants


def _adapters(place: Workspace) -> dict[str, str]:
    found = {name: registry.latest(place, name) for name in ["seed", *VARIANTS]}
    return {name: version.tags["adapter_hash"] for name, version in found.items() if version is not None}
