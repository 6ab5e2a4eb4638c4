"""Let simulated users play with the deployed versions, so that there is a next round before any person plays."""

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
    """Play a round's games between simulated users and each variant's deployed version (at first the seed policy).

    After an interruption, games that are already in the log are not played again.

    Returns:
        The round, and what each variant achieved.

    Raises:
        ValueError: the profile has no simulated speakers.
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
