"""Games between people: D0 and the validation set. Profiles with a world simulate them; others import them."""

from __future__ import annotations

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
