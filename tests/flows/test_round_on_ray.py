"""A round on a Ray cluster of two nodes, one lost in decode and another in training, gives what one machine gives.

Two nodes of one machine, each with scratch of its own: they share the store alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from samples import contents
from small import cut

from flows import round as round_module
from flows import stages
from flows.round import RoundParameters
from flows.round import round as round_flow
from respect_core.feedback_shards import SHARDS
from respect_core.store import Store
from respect_core.variants import Profile, Variant
from respect_core.variants import profile as named_profile
from tasks import registry
from tasks.decode import decode_feedback
from tasks.places import Place
from tasks.workspace import Workspace, workspace

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3000)]
pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'")

VARIANTS = [Variant.B_FFT, Variant.T_RL, Variant.B_KTO]
ROOT = Path(__file__).parents[2]


def _short(name: str) -> Profile:
    """Long enough to be killed in the middle."""
    return cut(named_profile(name), people=4, max_steps=12, checkpoint_every=4, batch_turns=8)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small profile, and shards of a few turns; one thread everywhere, since rounding depends on it."""
    monkeypatch.setattr(round_module, "named_profile", _short)
    monkeypatch.setattr(stages, "decode_feedback", lambda *a, **k: decode_feedback(*a, turns_per_shard=12, **k))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Node:
    """A node that may be lost."""

    raylet: psutil.Process
    root: Path

    def works(self) -> bool:
        """Whether a job has its worker here."""
        return any("tasks.worker" in each.cmdline() for each in self.raylet.children(recursive=True))

    def lose(self) -> None:
        """SIGKILL of everything at once."""
        for each in [self.raylet, *self.raylet.children(recursive=True)]:
            each.kill()


class TwoNodes:
    """A cluster; a node that was lost is replaced by a new one."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        # A busy machine may hold a process for minutes. The connection of one that was killed ends at once.
        patience = {"health_check_timeout_ms": 600_000, "health_check_period_ms": 1000}
        self._folder, self._nodes = folder, 0
        self._options: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(shutdown_at_exit=False)  # whose hooks only the main thread may set
        self.add(_system_config=patience)

    def add(self, **options: Any) -> Node:
        from ray._private import ray_constants

        self._nodes += 1
        root = self._folder / f"node-{self._nodes}"
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"RESPECT_ROOT": str(root), "PYTHONPATH": path}
        node = self.cluster.add_node(env_vars=variables, **self._options, **options)
        (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
        return Node(psutil.Process(raylet.process.pid), root)


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = TwoNodes(tmp_path / "nodes")
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
    sys.path.insert(0, str(ROOT / "tests" / "stack"))
    try:
        import made_up_games
    finally:
        sys.path.pop(0)
    place = workspace(root)
    made_up_games.people(place.open(), 4)
    made_up_games.play(place.open(), 0, games=24)
    return place


def test_two_nodes_are_lost_and_the_result_is_the_same(
    one_machine: tuple[Workspace, dict[str, Any]], two_nodes: TwoNodes, tmp_path: Path
) -> None:
    place, stop = _with_games(tmp_path / "on-ray"), threading.Event()
    store, lost = place.open(), list[str]()

    def lose() -> None:
        node = two_nodes.add()
        if _until(lambda: bool(store.keys(SHARDS)) and node.works(), stop):
            node.lose()
            lost.append("in decode")
        node = two_nodes.add()
        if _until(lambda: _has_sent_a_point(node, store), stop):
            node.lose()
            lost.append("in training")

    killer = threading.Thread(target=lose)
    killer.start()
    try:
        summary = round_flow(place, RoundParameters(round=0, variants=VARIANTS), on=Place.RAY)
    finally:
        stop.set()
        killer.join()
    assert lost == ["in decode", "in training"]

    here, expected = one_machine
    assert contents(store, "feedback/") == contents(here.open(), "feedback/") and not store.keys(SHARDS)
    assert _figures(summary) == _figures(expected)
    assert _adapters(place) == _adapters(here)


def _until(ready: Callable[[], bool], stop: threading.Event) -> bool:
    while not stop.is_set():
        if ready():
            return True
        time.sleep(0.02)
    return False


def _has_sent_a_point(node: Node, store: Store) -> bool:
    """Whether the node is in the middle of a training whose resume point has reached the store."""
    if not node.works():
        return False
    here = {path.read_bytes() for path in (node.root / "work").glob("job-*/job/resume.pt")}
    return any(store.read(key) in here for key in store.keys("jobs/train/") if key.endswith("/resume.pt"))


def _figures(summary: Mapping[str, Any]) -> Any:
    """All but what depends on clocks."""
    decoder = {kind: {**figures, "turns_per_second": None} for kind, figures in summary["decoder"].items()}
    variants = {name: {**figures, "seconds": None} for name, figures in summary["variants"].items()}
    return decoder, variants


def _adapters(place: Workspace) -> dict[str, str]:
    found = {name: registry.latest(place, name) for name in ["seed", *VARIANTS]}
    return {name: version.tags["adapter_hash"] for name, version in found.items() if version is not None}
