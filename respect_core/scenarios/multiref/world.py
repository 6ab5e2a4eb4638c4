"""Simulate the people of the profile `tiny`: the world's tangrams, D0, the validation set, and contexts to play.

Seeds of contexts differ by purpose, so that no game is in two of these sets.
"""

from __future__ import annotations

from functools import cache

from respect_core.log.records import InteractionLog
from respect_core.profiles import Profile
from respect_core.scenarios.multiref import contexts, speakers, tangrams
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.store.base import Store
from respect_core.store.images import known_images, put_images
from respect_core.training_data import curated


@cache
def speaker_factory() -> speakers.SpeakerFactory:
    """Make a factory of speakers of the users' dialect for every tangram of the pool."""
    return speakers.speaker_factory(speakers.values_of(tangrams.procedural_pool().tangrams))


def play_contexts(games: int, seed: int | str, *, stratified: bool = False) -> list[GameContext]:
    """Draw contexts of main-split tangrams, which the seed policy has never seen (section 5).

    Args:
        stratified: balance the number of targets (`contexts.sample`).
    """
    return contexts.sample(tangrams.procedural_pool().main, games, f"play-{seed}", stratified=stratified)


def simulated_contexts(games: int, seed: int | str, skip: int = 0) -> list[GameContext]:
    """Draw contexts for simulated users, stratified by number of targets.

    Args:
        games: number of contexts after the first `skip`.
    """
    return play_contexts(skip + games, seed, stratified=True)[skip:]


def speakers_of(contexts_seed: int | str) -> speakers.MakeSpeaker:
    """Make speakers that depend only on the context and its seed, so that policies can be compared in pairs."""
    return lambda context, _: speaker_factory()(context, contexts_seed)


def ensure_images(store: Store, games: list[GameContext]) -> set[str]:
    """Draw those tangrams of these contexts that the store lacks, and return the ids of all."""
    pool = tangrams.procedural_pool().tangrams
    images = {image for context in games for image in context.images}
    put_images(store, {image: tangrams.render(pool[image]) for image in images - known_images(store)})
    return images


def human_games(store: Store, games: int, contexts_seed: str, *, seed: str, round: int) -> list[InteractionLog]:
    """Play games between people on the contexts of that seed (HH), with their images in the store."""
    contexts = simulated_contexts(games, contexts_seed)
    ensure_images(store, contexts)
    return speakers.human_games(contexts, speakers_of(contexts_seed), seed=seed, round=round)


def make_d0(store: Store, profile: Profile) -> None:
    """Make D0: human-human games on the development split (appendix B.2)."""
    _make(store, curated.D0, contexts.sample(tangrams.procedural_pool().development, profile.seed_games, "d0"))


def make_validation(store: Store, profile: Profile) -> None:
    """Make D_val^HH: human-human games on the main split (appendix B.2)."""
    games = contexts.sample(tangrams.procedural_pool().main, profile.validation_games, "validation")
    _make(store, curated.VALIDATION, games)


def _make(store: Store, name: str, games: list[GameContext]) -> None:
    ensure_images(store, games)
    curated.write(store, name, speakers.human_games(games, speaker_factory(), seed=name))
