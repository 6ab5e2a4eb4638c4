"""The smart home's users meet a policy in a worker: what they say is in the log, and nobody plays twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from text_bases import small_llama

from respect_core.log.log import find_logs, read_logs
from respect_core.log.records import PolicyIdentity
from respect_core.profiles import home
from respect_core.store.manifests import Partition
from tasks.compute import worker
from tasks.compute.specs import PlaySpec, worker_code
from tasks.support.workspace import workspace as workspace_at


def test_a_policy_plays_with_simulated_users_once(tmp_path: Path) -> None:
    profile = replace(home(), base=small_llama())
    workspace = workspace_at(tmp_path)
    spec = PlaySpec(
        workspace=workspace,
        profile=profile,
        code_version=worker_code(profile),
        base_sha256=None,
        adapter=None,
        policy=PolicyIdentity(name="respect.seed", version="1"),
        round=0,
        variant="seed",
        games=3,
        contexts_seed="users",
        seed=1,
        log=True,
    )
    counts = worker.play(spec)["counts"]
    assert sorted(counts) == [f"home-users-{number:04d}" for number in range(3)]
    store, partition = workspace.open(), Partition(0, "seed")
    logged = find_logs(store, partition, spec.batch)
    assert logged is not None
    logs = list(read_logs(store, logged))
    assert all(log.scenario == "home" and log.closing for log in logs)  # a random policy is given up on
    assert all(turn.logp is not None and turn.probability is None for log in logs for turn in log.turns)
    assert worker.play(spec)["counts"] == counts and len(list(store.keys("interactions/"))) == 1
