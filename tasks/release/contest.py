"""Choose what a promotion compares: candidate, deployed version, anchors, games, and the number of the look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion
from prefect import task
from pydantic import BaseModel, ConfigDict

from respect_core.measuring.world import world
from respect_core.profiles import PROFILES, Profile
from respect_core.release import ledger, lineage, looks
from respect_core.release.gate import GateConfig
from respect_core.release.ledger import Entry
from respect_core.release.looks import Question
from respect_core.store.base import Store
from respect_core.training_data import curated
from respect_core.variants import Variant
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.registry.register import reference
from tasks.release.evaluate import require_not_chosen_on, require_unseen
from tasks.support import progress
from tasks.support.references import RegisteredRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


class Contest(BaseModel):
    """The versions compared and the games, as they were chosen: the verdict is about nothing else.

    `anchors`: other versions that the candidate may not fall behind, by name. `look`: the number of the look that this
    is. `history`: the ledger's entries; a later entry makes the verdict void.
    """

    model_config = ConfigDict(frozen=True)

    candidate: RegisteredRef
    deployed: RegisteredRef
    anchors: dict[str, RegisteredRef] = {}
    look: int = 1
    profile: str  # with which the candidate was trained
    data_hash: str  # of what the candidate was trained on
    game_set: str
    validation_sha256: str  # of the game set
    history: list[Entry]

    def hash(self) -> str:
        """Return a hash that identifies the contest, so that an answer counts only for this one."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    def question(self) -> Question:
        """Return what a look at this candidate asks."""
        return Question(
            model=self.candidate.model,
            candidate=name_of(self.candidate),
            adapter_hash=self.candidate.adapter_hash,
            against={name: name_of(each) for name, each in {"deployed": self.deployed, **self.anchors}.items()},
            game_set=self.game_set,
            sha256=self.validation_sha256,
        )


def anchors(workspace: Workspace, history: Sequence[Entry], deployed: ModelVersion) -> dict[str, ModelVersion]:
    """Return the versions that a candidate may not fall behind, by name; without one that is no longer registered.

    Raises:
        ValueError: one is not the version that was promoted.
    """
    seed = deployment.seed_policy(workspace)
    versions = (f"{deployed.name}/{deployed.version}", f"{seed.name}/{seed.version}")
    hashes = {entry.to_version: entry for entry in history if entry.action is ledger.Action.PROMOTE}
    found = {}
    for name, version in ledger.anchors(history, *versions).items():
        try:
            anchor = registry.named(workspace, version)
        except ValueError as error:
            progress.say(f"not compared with {version}: {error}")
            continue
        entry = hashes.get(version)
        if entry is not None and anchor.tags.get("adapter_hash") != entry.adapter_hash:
            raise ValueError(
                f"{version} has adapter {anchor.tags.get('adapter_hash')}, but entry {entry.number} of the ledger says "
                f"{entry.adapter_hash}: the registry was changed or replaced; restore it"
            )
        found[name] = anchor
    return found


def prepare_gate_games(workspace: Workspace, profile: Profile, game_set: str, games: int) -> None:
    """Make sure that there is a gate set and, where its people are simulated, that it has this many games."""
    store = workspace.open()
    if game_set != curated.GATE or not profile.simulated_people:
        return
    if not curated.exists(store, game_set) or len(curated.read(store, game_set)) < games:
        enough = replace(profile, validation_games=games)
        with progress.bar(f"human-human games: {game_set}"):
            curated.add(store, game_set, world(profile.scenario).game_set(store, enough, game_set))


@task(name="contenders", **PATIENT)
def contenders(
    workspace: Workspace, variant: Variant, number: int | None, game_set: str, gate: Callable[[str], GateConfig]
) -> Contest:
    """Return the candidate, the deployed version of a variant and the anchors, the alias settled first.

    Args:
        gate: from the candidate's profile to its gate, which says how many games are simulated where people are.

    Raises:
        ValueError: no candidate, no such version or game set, no deployed version, or games that the candidate learned
            from or that chose its checkpoint.
        LedgerError: a canary of the variant is in force.
    """
    store = workspace.open()
    history = ledger.entries(store, registry.model_name(variant))
    if (begun := ledger.in_canary(history)) is not None and begun.canary is not None:
        raise ledger.LedgerError(
            f"{begun.canary.candidate} has a canary since entry {begun.number}: `respect canary` looks at it, and "
            "`respect rollback` ends it"
        )
    deployed = deployment.deployed(workspace, variant)
    candidate = deployment.candidate(workspace, variant, number)
    settings = gate(candidate.tags["profile"])
    contest = Contest(
        candidate=reference(variant, candidate),
        deployed=reference(variant, deployed),
        anchors={name: reference(variant, version) for name, version in anchors(workspace, history, deployed).items()},
        profile=candidate.tags["profile"],
        data_hash=candidate.tags["data_hash"],
        game_set=game_set,
        validation_sha256=_sha256(store, game_set),
        history=history,
    )
    if contest.candidate == contest.deployed:
        return contest
    look = looks.number(store, contest.question())
    if contest.profile in PROFILES:
        prepare_gate_games(workspace, PROFILES[contest.profile](), game_set, settings.asked(look))
    sha256 = curated.stored(store, game_set).sha256
    name = name_of(contest.candidate)
    with suppress(lineage.LineageError):  # then the verdict says so (`with_users`)
        require_unseen(workspace, name, game_set)
    require_not_chosen_on(workspace, name, game_set)
    contest = contest.model_copy(update={"validation_sha256": sha256})
    return contest.model_copy(update={"look": looks.number(store, contest.question())})


def _sha256(store: Store, game_set: str) -> str:
    """Return the hash of a game set's contents; empty if there is none yet."""
    return curated.stored(store, game_set).sha256 if curated.exists(store, game_set) else ""


@task(name="announce", **PATIENT)
def announce(workspace: Workspace, contest: Contest, settings: GateConfig) -> None:
    """Say what is compared, by how many games, and how many are needed, before anything acts."""
    games = len(curated.read(workspace.open(), contest.game_set))
    others = " and ".join(name_of(each) for each in (contest.deployed, *contest.anchors.values()))
    needed, asked = settings.needed(contest.look), settings.asked(contest.look)
    text = (
        f"{name_of(contest.candidate)} against {others}: look {contest.look} needs {needed} {settings.interactions} to "
        f"find a gain of {settings.effect:.1%} with a power of {settings.power:.0%}; {contest.game_set!r} has {games}"
    )
    if asked < needed:
        text += f", and {asked} are accepted, with a power of {settings.power_of(asked, contest.look):.0%}"
    elif games < needed:
        text += ": with these, only what is certainly better passes (--games accepts fewer)"
    progress.say(text)


@task(name="spend look", **PATIENT)
def spend_look(workspace: Workspace, contest: Contest, actor: str) -> Contest:
    """Record the look, which spends some of the gate's error rate, before anybody knows its verdict."""
    return contest.model_copy(update={"look": looks.spend(workspace.open(), contest.question(), actor)})


def name_of(policy: RegisteredRef) -> str:
    """Return a version as it is named elsewhere, such as 'respect.b-fft/3'."""
    return f"{policy.model}/{policy.version}"
