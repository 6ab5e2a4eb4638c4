"""The loop in miniature: the seed policy meets simulated speakers, and one round learns from what they said."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import DemoParameters
from flows.round import round
from flows.seed import seed_policy
from flows.support.locks import in_turn
from tasks.games.play import play_games
from tasks.support.workspace import Workspace


@flow(name="demo", flow_run_name="demo {parameters.profile}")
def demo(workspace: Workspace, parameters: DemoParameters) -> dict[str, Any]:
    """Deploy the seed policy in round 0, then run the round on its log. Returns the round's summary."""
    first = parameters.first_round()
    settings = first.resolved_profile()
    with in_turn(workspace):
        seed = seed_policy(workspace, settings, first.validation)
        played = play_games(workspace, settings, seed, 0, parameters.games, parameters.study_seed)
        return round(workspace, first, seconds_of_play=played.seconds)
