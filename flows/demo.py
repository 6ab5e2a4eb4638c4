"""The loop in miniature: the seed policy meets simulated speakers, and one round learns from what they said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.round import RoundParameters, round
from flows.seed import seed_policy
from flows.support.locks import in_turn
from respect_core.variants import Variant
from tasks.games.play import play_games
from tasks.support.workspace import Workspace


@flow(name="demo", flow_run_name="demo {profile}")
def demo(workspace: Workspace, profile: str, games: int, replay: int, variants: Sequence[Variant]) -> dict[str, Any]:
    """Deploy the seed policy in round 0, then run the round on its log. Returns the round's summary."""
    parameters = RoundParameters(round=0, profile=profile, variants=list(variants), replay=replay)
    settings = parameters.resolved_profile()
    with in_turn(workspace):
        seed = seed_policy(workspace, settings, parameters.validation)
        played = play_games(workspace, settings, seed, 0, games)
        return round(workspace, parameters, seconds_of_play=played.seconds)
