"""A pilot study for the game's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from game_servers import Player

from deployments.game.domain import contexts
from deployments.game.domain.contexts import ContextRecipe
from deployments.game.domain.study import Payment, Study, StudyFile
from tasks.support.workspace import workspace


def study_of(folder: Path, policies: dict[str, int], games: int = 4, **fields: Any) -> Study:
    """A pilot on so many contexts."""
    file = StudyFile(
        name="pilot",
        round=3,
        policies=policies,
        contexts=ContextRecipe(games=games, seed="pilot"),
        payment=Payment(bonus=0.25),
        **fields,
    )
    return Study(file, contexts.of_study(workspace(folder).open(), ContextRecipe(games=games, seed="pilot")))


async def participant(port: int, number: int) -> Player:
    player = Player(port)
    await player.arrive(study="pilot", participant=f"p{number}")
    await player.qualify()
    return await player.connect()
