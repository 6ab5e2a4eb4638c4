"""Provide contexts to play on: those of a study, drawn or from a file, and new ones for everybody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.store.base import Store
from respect_core.store.images import known_images


class ContextRecipe(BaseModel):
    """A number of contexts of the procedural tangrams' main split, drawn from a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    games: int
    seed: str


def of_study(store: Store, source: ContextRecipe | Path) -> list[GameContext]:
    """Return the contexts of a study, with their images in the store.

    Raises:
        ValueError: the file does not hold contexts (a JSON list of objects with id, images, speaker_order, targets), or
            names images that the store lacks.
    """
    if isinstance(source, ContextRecipe):
        from respect_core.scenarios.multiref import world

        contexts = world.play_contexts(source.games, f"people-{source.seed}")
        world.ensure_images(store, contexts)
        return contexts
    try:
        contexts = TypeAdapter(list[GameContext]).validate_json(source.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{source}: {where}: {first['msg']}; write id, images, speaker_order, targets") from None
    stored = known_images(store)
    if missing := sorted({image for context in contexts for image in context.images} - stored):
        raise ValueError(f"{source}: the store has no images {', '.join(missing[:5])}; put them under images/ first")
    return contexts


class FreshContexts:
    """A source of contexts that nobody has played, with their images in the store. Several threads may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored: set[str] = set()  # images that are in the store

    def prepare(self) -> None:
        """Make the tangrams, which takes seconds, before anybody waits for them."""
        self("prepared")

    def __call__(self, name: str) -> GameContext:
        """Return the context of a name. Different names have different contexts."""
        from respect_core.scenarios.multiref import world

        (context,) = world.play_contexts(1, f"people-{name}")
        if not self._stored.issuperset(context.images):
            self._stored |= world.ensure_images(self._store, [context])
        return context


def to_json(context: GameContext) -> dict[str, Any]:
    """Return a context as the journal holds it, which only the server reads."""
    return {
        "id": context.id,
        "images": context.images,
        "speaker_order": context.speaker_order,
        "targets": context.targets,
    }


def from_json(fields: dict[str, Any]) -> GameContext:
    """Read what `to_json` wrote."""
    parts = {name: tuple(fields[name]) for name in ("images", "speaker_order", "targets")}
    return GameContext(fields["id"], **parts)
