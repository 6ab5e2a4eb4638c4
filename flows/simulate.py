"""Simulated users meet what is deployed, so that there is a next round where no person plays yet."""

from __future__ import annotations

from prefect import flow

from flows.parameters import RoundParameters, SimulateParameters
from flows.seed import seed_policy
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.variants import SEED
from tasks.games.play import play_deployed, require_simulated_people
from tasks.registry import registry
from tasks.round.next_round import round_of_play
from tasks.support.references import PlayedRef
from tasks.support.workspace import Workspace


@flow(name="simulate", flow_run_name="simulate {parameters.games} games", task_runner=threads())
def simulate(workspace: Workspace, parameters: SimulateParameters) -> tuple[int, list[PlayedRef]]:
    """Games of a round between simulated users and the deployed version of each variant; the seed policy before any.

    The same games again, after an interruption, are found in the log.

    Returns:
        The round, and what each variant achieved.

    Raises:
        ValueError: a profile without simulated speakers.
    """
    number = round_of_play(workspace, parameters.variants) if parameters.round is None else parameters.round
    first = RoundParameters(round=number, profile=parameters.profile)
    profile = first.resolved_profile()
    require_simulated_people(profile)
    if registry.latest(workspace, SEED) is None:
        seed_policy(workspace, profile, first.validation)
    label_run(f"round:{number}")
    plays = [play_deployed.submit(workspace, profile, each, number, parameters.games) for each in parameters.variants]
    return number, [play.result() for play in plays]
