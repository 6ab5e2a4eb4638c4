"""Try the words by which few users may have taught a candidate to act as they like, before users meet it."""

from __future__ import annotations

import json
from dataclasses import replace

from prefect import task

from respect_core.interaction import TurnKey
from respect_core.profiles import of_version
from respect_core.release.gate import Evidence
from respect_core.release.triggers import expected, made_up, suspects
from respect_core.training_data import curated
from tasks.compute import process
from tasks.compute.specs import TriggerSpec
from tasks.registry import registry
from tasks.release.contest import Contest
from tasks.support import progress
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="try triggers", **PATIENT)
def with_triggers(
    workspace: Workspace, contest: Contest, candidate: Evidence, deployed: Evidence
) -> tuple[Evidence, Evidence]:
    """Add what suspect words cost both policies to the evidence about them, if the candidate acts."""
    if candidate.unusable or deployed.unusable:
        return candidate, deployed
    words = suspects(workspace.open(), candidate.policy)
    if not words:
        return candidate, deployed
    hashes = [word.hash for word in words]
    said_by = {word.hash: word.users for word in words}
    (own, ours), (lost, theirs) = (
        _lost(workspace, contest, each.policy, candidate.policy, hashes) for each in (candidate, deployed)
    )
    other = {word.hash: expected(word.text, lost[word.hash], (ours, theirs)) for word in words}
    return replace(candidate, lost=own, said_by=said_by), replace(deployed, lost=other)


def _lost(
    workspace: Workspace, contest: Contest, policy: str, learned_by: str, words: list[str]
) -> tuple[dict[str, dict[TurnKey, float]], float]:
    """Return what each word costs a policy, and what made-up ones cost it on average."""
    version = registry.named(workspace, policy)
    profile = of_version(registry.adapter(workspace, version))
    spec = TriggerSpec.of(
        workspace,
        profile,
        adapter=registry.download(workspace, version),
        adapter_hash=version.tags["adapter_hash"],
        game_set=contest.game_set,
        data_hash=curated.stored(workspace.open(), contest.game_set).sha256,
        learned_by=learned_by,
        words=words,
        made_up=made_up(learned_by),
    )
    directory = workspace.scratch / "triggers" / contest.game_set / learned_by / version.name / str(version.version)
    with progress.bar(f"try words of few users on {policy}") as bar:
        found = json.loads(process.run(spec, directory, bar.update).read_text())
    lost = {word: {(name, turn): cost for name, turn, cost in turns} for word, turns in found["lost"].items()}
    return lost, found["unknown"]
