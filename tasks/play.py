"""Play: a policy meets simulated speakers, for the log of a round or on a fixed set of games."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from respect_core.interaction import PolicyIdentity
from respect_core.variants import Profile
from respect_core.versions import code_version
from tasks import process, progress, registry
from tasks.references import PlayedRef, RegisteredRef
from tasks.worker import PlayResult, PlaySpec
from tasks.workspace import Workspace

_FIXED_SET = 20_000
"""Seed of the contexts that every policy replays; no round plays on it."""


@task(name="play", task_run_name="play round {round} {policy.variant}", cache_policy=NO_CACHE)
def play_games(workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int) -> PlayedRef:
    """Deploy a policy for a round: its games are appended to the interaction log."""
    return _play(workspace, profile, policy, round, games, contexts_seed=round, log=True)


@task(name="replay", task_run_name="replay {policy.variant}", cache_policy=NO_CACHE)
def replay_fixed_games(
    workspace: Workspace, profile: Profile, policy: RegisteredRef, round: int, games: int
) -> PlayedRef | None:
    """Let a policy play the fixed set of games, outside the log; None where there are none to play.

    Same contexts and same speakers for every policy, so that figures before and after compare.
    """
    if games == 0:
        return None
    return _play(workspace, profile, policy, round, games, contexts_seed=_FIXED_SET, log=False)


def _play(
    workspace: Workspace,
    profile: Profile,
    policy: RegisteredRef,
    round: int,
    games: int,
    *,
    contexts_seed: int,
    log: bool,
) -> PlayedRef:
    if not profile.simulated_people:
        raise ValueError(f"profile {profile.name} has no simulated speakers: its users are real; leave out --replay")
    version = registry.by_adapter_hash(workspace, policy.model, policy.adapter_hash)
    assert version is not None, f"{policy.model}/{policy.version} vanished from the registry"
    spec = PlaySpec(
        workspace=workspace,
        profile=profile,
        code_version=code_version(),
        adapter=registry.download(workspace, version),
        policy=PolicyIdentity(name=policy.model, version=policy.version, adapter_hash=policy.adapter_hash),
        round=round,
        variant=policy.variant,
        games=games,
        contexts_seed=contexts_seed,
        seed=round,
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
        illegal_actions=result.illegal_actions,
        seconds=result.seconds,
    )


def seconds_played(*played: PlayedRef | None) -> float:
    """Seconds of play in all; 0 where nothing was played."""
    return sum(each.seconds for each in played if each is not None)
