"""Simulated users meet what is deployed, so that there is a next round where no person plays yet."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.round import RoundParameters
from flows.seed import seed_policy
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.variants import SEED, SYSTEMS, Variant
from tasks.games.play import play_deployed, require_simulated_people
from tasks.registry import registry
from tasks.round.next_round import round_of_play
from tasks.support.references import PlayedRef
from tasks.support.workspace import Workspace


class SimulateParameters(BaseModel):
    """What the command line and the Prefect form set."""

    model_config = ConfigDict(frozen=True)

    variants: Sequence[Variant] = Field(list(SYSTEMS), description="Variants whose deployed versions act.")
    games: int = Field(100, ge=1, description="Games of each.")
    number: int | None = Field(None, ge=0, description="Round of the log; empty for the one after the newest learned.")
    profile: str = Field("tiny", description="Named configuration; needs simulated speakers, as tiny has.")


@flow(name="simulate", flow_run_name="simulate {parameters.games} games", task_runner=threads())
def simulate(workspace: Workspace, parameters: SimulateParameters) -> tuple[int, list[PlayedRef]]:
    """Games of a round between simulated users and the deployed version of each variant; the seed policy before any.

    The same games again, after an interruption, are found in the log.

    Returns:
        The round, and what each variant achieved.

    Raises:
        ValueError: a profile without simulated speakers.
    """
    number = round_of_play(workspace, parameters.variants) if parameters.number is None else parameters.number
    first = RoundParameters(round=number, profile=parameters.profile)
    profile = first.resolved_profile()
    require_simulated_people(profile)
    if registry.latest(workspace, SEED) is None:
        seed_policy(workspace, profile, first.validation)
    label_run(f"round:{number}")
    plays = [play_deployed.submit(workspace, profile, each, number, parameters.games) for each in parameters.variants]
    return number, [play.result() for play in plays]
