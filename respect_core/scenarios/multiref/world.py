"""Simulate the people of the profile `tiny`: the world's tangrams, D0, the validation set, and contexts to play.

Seeds of contexts differ by purpose, so that no game is in two of these sets.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from respect_core.log.records import InteractionLog
from respect_core.measuring.world import Deployment, World
from respect_core.profiles import Profile
from respect_core.scenarios.multiref import contexts, speakers, tangrams
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.play import SimulatedGame, simulated_games
from respect_core.store.base import Store
from respect_core.store.images import known_images, put_images
from respect_core.training_data.curated import D0


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
    images = {image for context in games for image in context.images}
    put_missing(store, images)
    return images


def put_missing(store: Store, images: Collection[str]) -> None:
    """Draw those tangrams that the store lacks."""
    pool = tangrams.procedural_pool().tangrams
    put_images(store, {image: tangrams.render(pool[image]) for image in set(images) - known_images(store)})


def human_games(
    store: Store, games: int, contexts_seed: int | str, *, seed: int | str, round: int
) -> list[InteractionLog]:
    """Play games between people on the contexts of that seed (HH), with their images in the store."""
    contexts = simulated_contexts(games, contexts_seed)
    ensure_images(store, contexts)
    return speakers.human_games(contexts, speakers_of(contexts_seed), seed=seed, round=round)


class MultirefWorld(World):
    """The simulated speakers of the profile `tiny`."""

    def interactions(
        self, games: int, contexts_seed: int | str, deployment: Deployment, *, skip: int = 0
    ) -> list[SimulatedGame]:
        return simulated_games(simulated_contexts(games, contexts_seed, skip), speakers_of(contexts_seed), deployment)

    def people(
        self, store: Store, games: int, contexts_seed: int | str, *, seed: int | str, round: int
    ) -> list[InteractionLog]:
        return human_games(store, games, contexts_seed, seed=seed, round=round)

    def game_set(self, store: Store, profile: Profile, name: str) -> list[InteractionLog]:
        """Make human-human games: D0 on the development split, the validation set on the main split (appendix B.2)."""
        pool = tangrams.procedural_pool()
        split, count = (pool.development, profile.seed_games) if name == D0 else (pool.main, profile.validation_games)
        games = contexts.sample(split, count, name)
        ensure_images(store, games)
        return speakers.human_games(games, speaker_factory(), seed=name)

    def ensure_images(self, store: Store, images: Collection[str]) -> None:
        put_missing(store, images)


WORLD = MultirefWorld()
