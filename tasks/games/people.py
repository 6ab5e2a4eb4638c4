"""Games between people: D0, validation and gate set. Profiles with a world simulate them; others import them."""

from __future__ import annotations

from dataclasses import replace

from prefect import task

from respect_core.measuring.world import world
from respect_core.profiles import Profile
from respect_core.training_data import curated
from tasks.support import progress
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="prepare game sets", **PATIENT)
def prepare_game_sets(workspace: Workspace, profile: Profile, validation: str) -> None:
    """Make sure that D0 and the validation set are in the store.

    Raises:
        ValueError: a set is absent and the profile has no simulated people to make it with.
    """
    store = workspace.open()
    absent = [name for name in (curated.D0, validation) if not curated.exists(store, name)]
    if absent and profile.simulated_people:
        people = world(profile.scenario)
        for name in [name for name in absent if name in (curated.D0, curated.VALIDATION)]:
            with progress.bar(f"human-human games: {name}"):
                curated.write(store, name, people.game_set(store, profile, name))
            absent.remove(name)
    for name in absent:
        curated.read(store, name)  # raises, naming the sets that exist and how to make one


def prepare_gate_games(workspace: Workspace, profile: Profile, game_set: str, games: int) -> None:
    """Make sure that there is a gate set and, where its people are simulated, that it has this many games."""
    store = workspace.open()
    if game_set != curated.GATE or not profile.simulated_people:
        return
    if not curated.exists(store, game_set) or len(curated.read(store, game_set)) < games:
        enough = replace(profile, validation_games=games)
        with progress.bar(f"human-human games: {game_set}"):
            curated.add(store, game_set, world(profile.scenario).game_set(store, enough, game_set))
