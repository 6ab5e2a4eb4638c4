"""Let policies play with simulated speakers, for the log of a round, in a study, or on a fixed set of games."""

from __future__ import annotations

from itertools import pairwise

from prefect import task

from respect_core.log.log import append_logs
from respect_core.log.records import PolicyIdentity
from respect_core.measuring.world import world
from respect_core.profiles import Profile
from respect_core.variants import HH
from tasks.compute import process
from tasks.compute.specs import PlayResult, PlaySpec
from tasks.registry import registry
from tasks.registry.deployed import deployed
from tasks.registry.register import reference
from tasks.support import progress
from tasks.support.references import PlayedRef, RegisteredRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_FIXED_SET = 20_000
"""Seed of the contexts that every policy replays; no round plays on it."""
_WORTH_A_WORKER = 30
"""Games that take a worker longer than its start."""


def shares(games: int) -> list[tuple[int, int]]:
    """Divide games among the machine's workers, as (games, games to skip): few are not worth starting another."""
    count = max(1, min(process.parallel_workers(), games // _WORTH_A_WORKER))
    ends = [games * number // count for number in range(count + 1)]
    return [(stop - start, start) for start, stop in pairwise(ends)]


@task(name="play", task_run_name="play round {round} {policy.variant}", **PATIENT)
def play_games(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int, seed: int, skip: int = 0
) -> PlayedRef:
    """Deploy a policy for a round: its games are appended to the interaction log.

    Args:
        skip: how many of the seed's contexts are left to others.
    """
    return _play(workspace, profile, policy, round, games, contexts_seed=seed, seed=seed, skip=skip, log=True)


@task(name="deploy", task_run_name="play round {round} {policy.variant}", **PATIENT)
def play_in_study(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int, study_seed: int
) -> PlayedRef:
    """Deploy a policy for a round of a study, under the name `policy.variant`.

    All policies of the round play the same contexts with the same speakers, each in an order of its own (section 5).
    """
    contexts, own = f"study-{study_seed}-{round}", f"{study_seed}-{policy.variant}"
    return _play(workspace, profile, policy, round, games, contexts_seed=contexts, seed=own, log=True)


@task(name="measure", task_run_name="measure round {round} {policy.variant}", **PATIENT)
def measure_in_study(
    workspace: Workspace,
    profile: Profile,
    policy: RegisteredRef,
    round: int,
    games: int,
    study_seed: int,
    *,
    contexts_of: int,
    skip: int = 0,
) -> PlayedRef | None:
    """Let a policy play more games in a round of a study, outside the log: nobody learns from them.

    Args:
        games: how many; if 0, None is returned.
        contexts_of: the round whose contexts and speakers are used.
        skip: how many of its first contexts are left out.
    """
    if games == 0:
        return None
    contexts, own = f"study-{study_seed}-{contexts_of}", f"{study_seed}-{policy.variant}"
    return _play(workspace, profile, policy, round, games, contexts_seed=contexts, seed=own, skip=skip, log=False)


@task(name="simulate", task_run_name="simulate round {round} {variant}", **PATIENT)
def play_deployed(workspace: Workspace, profile: Profile, variant: str, round: int, games: int) -> PlayedRef:
    """Let simulated users play with a variant's deployed version. All variants of a round play the same contexts.

    Another number of games, or another version, plays other games; the same ones are found in the log.
    """
    policy = reference(variant, deployed(workspace, variant))
    contexts, own = f"simulated-{round}-{games}", f"{games}-{policy.adapter_hash[:12]}"
    return _play(workspace, profile, policy, round, games, contexts_seed=contexts, seed=own, log=True)


@task(name="people play", task_run_name="play round {round} hh", **PATIENT)
def play_people(workspace: Workspace, profile: Profile, round: int, games: int, study_seed: int) -> None:
    """Append human-human games (HH) to the log, on the contexts that the policies of the round play."""
    store, contexts_seed = workspace.open(), f"study-{study_seed}-{round}"
    logs = world(profile.scenario).people(store, games, contexts_seed, seed=f"{study_seed}-{HH}", round=round)
    append_logs(store, logs, f"people-{study_seed}-{games}")


@task(name="replay", task_run_name="replay {policy.variant}", **PATIENT)
def replay_fixed_games(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int
) -> PlayedRef | None:
    """Let a policy play the fixed set of games, outside the log; return None if there are none to play.

    Every policy has the same contexts and speakers, so that figures before and after can be compared.
    """
    if games == 0:
        return None
    return _play(workspace, profile, policy, round, games, contexts_seed=_FIXED_SET, seed=round, log=False)


def require_simulated_people(profile: Profile) -> None:
    """Raise ValueError if only real users can play with a policy."""
    if not profile.simulated_people:
        raise ValueError(
            f"profile {profile.name} has no simulated speakers: its users are real, and play by themselves"
        )


def _play(
    workspace: Workspace,
    profile: Profile,
    policy: RegisteredRef,
    round: int,
    games: int,
    *,
    contexts_seed: int | str,
    seed: int | str,
    log: bool,
    skip: int = 0,
) -> PlayedRef:
    require_simulated_people(profile)
    version = registry.by_adapter_hash(workspace, policy.model, policy.adapter_hash)
    assert version is not None, f"{policy.model}/{policy.version} vanished from the registry"
    spec = PlaySpec.of(
        workspace,
        profile,
        adapter=registry.download(workspace, version),
        policy=PolicyIdentity(name=policy.model, version=policy.version, adapter_hash=policy.adapter_hash),
        round=round,
        variant=policy.variant,
        games=games,
        contexts_seed=contexts_seed,
        skip=skip,
        seed=seed,
        log=log,
    )
    name = "play" if log else "replay"
    directory = workspace.scratch / f"round={round}" / policy.variant / (f"{name}-{skip}" if skip else name)
    with progress.bar(f"{name} {policy.variant}", games) as bar:
        result = PlayResult.model_validate_json(process.run(spec, directory, bar.update).read_text())
    return PlayedRef(variant=policy.variant, counts=result.counts, seconds=result.seconds)


def seconds_played(*played: PlayedRef | None) -> float:
    """Seconds of play in total; 0 if nothing was played."""
    return sum(each.seconds for each in played if each is not None)
