"""The loop in miniature: the seed policy meets simulated speakers, and one round learns from what they said."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow

from flows.parameters import DemoParameters
from flows.round import round
from flows.seed import seed_policy
from flows.support.locks import in_turn
from flows.support.threads import threads
from tasks.games.play import play_games, shares
from tasks.support.workspace import Workspace


@flow(name="demo", flow_run_name="demo {parameters.profile}", task_runner=threads())
def demo(workspace: Workspace, parameters: DemoParameters) -> dict[str, Any]:
    """Deploy the seed policy in round 0, then run the round on its log. Returns the round's summary."""
    first = parameters.first_round()
    settings = first.resolved_profile()
    with in_turn(workspace):
        seed = seed_policy(workspace, settings, first.validation)
        started = time.monotonic()
        playing = [
            play_games.submit(workspace, settings, seed, 0, games, parameters.study_seed, skip)
            for games, skip in shares(parameters.games)
        ]
        for each in playing:
            each.result()
        return round(workspace, first, seconds_of_play=time.monotonic() - started)
