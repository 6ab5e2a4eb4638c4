"""Play: a policy meets simulated speakers, for the log of a round, in a study, or on a fixed set of games."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from respect_core.interaction import PolicyIdentity
from respect_core.interaction_log import append_logs
from respect_core.variants import HH, Profile
from respect_core.versions import base_sha256, code_version
from tasks import process, progress, registry
from tasks.references import PlayedRef, RegisteredRef
from tasks.retries import PATIENT
from tasks.specs import PlayResult, PlaySpec
from tasks.workspace import Workspace

_FIXED_SET = 20_000
"""Seed of the contexts that every policy replays; no round plays on it."""


@task(name="play", task_run_name="play round {round} {policy.variant}", **PATIENT, cache_policy=NO_CACHE)
def play_games(workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int) -> PlayedRef:
    """Deploy a policy for a round: its games are appended to the interaction log."""
    return _play(workspace, profile, policy, round, games, contexts_seed=round, seed=round, log=True)


@task(name="deploy", task_run_name="play round {round} {policy.variant}", **PATIENT, cache_policy=NO_CACHE)
def play_in_study(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int, study_seed: int
) -> PlayedRef:
    """Deploy a policy for a round of a study, under the name `policy.variant`.

    All policies of the round play the same contexts, each in an order and with speakers of its own (section 5).
    """
    contexts, own = f"study-{study_seed}-{round}", f"{study_seed}-{policy.variant}"
    return _play(workspace, profile, policy, round, games, contexts_seed=contexts, seed=own, log=True)


@task(name="people play", task_run_name="play round {round} hh", **PATIENT, cache_policy=NO_CACHE)
def play_people(workspace: Workspace, round: int, games: int, study_seed: int) -> None:
    """Human-human games (HH) on the contexts that the policies of the round play: appended to the log."""
    from tasks import simulation

    store, contexts_seed = workspace.open(), f"study-{study_seed}-{round}"
    logs = simulation.human_games(store, games, contexts_seed, seed=f"{study_seed}-{HH}", round=round)
    append_logs(store, logs, f"people-{study_seed}-{games}")


@task(name="replay", task_run_name="replay {policy.variant}", **PATIENT, cache_policy=NO_CACHE)
def replay_fixed_games(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int
) -> PlayedRef | None:
    """Let a policy play the fixed set of games, outside the log; None where there are none to play.

    Same contexts and same speakers for every policy, so that figures before and after compare.
    """
    if games == 0:
        return None
    return _play(workspace, profile, policy, round, games, contexts_seed=_FIXED_SET, seed=round, log=False)


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
) -> PlayedRef:
    if not profile.simulated_people:
        raise ValueError(
            f"profile {profile.name} has no simulated speakers: its users are real, and play by themselves"
        )
    version = registry.by_adapter_hash(workspace, policy.model, policy.adapter_hash)
    assert version is not None, f"{policy.model}/{policy.version} vanished from the registry"
    spec = PlaySpec(
        workspace=workspace,
        profile=profile,
        code_version=code_version(),
        base_sha256=base_sha256(profile.base),
        adapter=registry.download(workspace, version),
        policy=PolicyIdentity(name=policy.model, version=policy.version, adapter_hash=policy.adapter_hash),
        round=round,
        variant=policy.variant,
        games=games,
        contexts_seed=contexts_seed,
        seed=seed,
        log=log,
    )
    directory = workspace.scratch / f"round={round}" / policy.variant / ("play" if log else "replay")
    with progress.bar(f"{'play' if log else 'replay'} {policy.variant}", games) as bar:
        result = PlayResult.model_validate_json(process.run(spec, directory, bar.update).read_text())
    return PlayedRef(
        variant=policy.variant,
        games=result.games,
        success=result.success,
        turns_per_game=result.turns_per_game,
        seconds=result.seconds,
    )


def seconds_played(*played: PlayedRef | None) -> float:
    """Seconds of play in all; 0 where nothing was played."""
    return sum(each.seconds for each in played if each is not None)
