"""Take games, or turns of conversations, to annotate out of the store (appendix A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from respect_core.log import forgetting
from respect_core.measuring import annotation_tasks
from respect_core.measuring.annotation_tasks import AnnotationTask
from tasks.support.files import write_whole
from tasks.support.workspace import Workspace


def sample(
    workspace: Workspace,
    round: int,
    variant: str,
    *,
    games: int,
    turns: int,
    triple: float,
    seed: int,
    out: Path | None = None,
) -> Sequence[AnnotationTask]:
    """Draw games, or turns of free text, keep them in the store as tasks, and also write them to `out` if it is given.

    Raises TableError and ValueError as `sample` and `sample_follow_ups` do.
    """
    store = workspace.open()

    def draw() -> Sequence[AnnotationTask]:
        tasks: Sequence[AnnotationTask]
        if annotation_tasks.free_text(store, round, variant):
            tasks = annotation_tasks.sample_follow_ups(store, round, variant, turns=turns, triple=triple, seed=seed)
        else:
            tasks = annotation_tasks.sample(store, round, variant, games=games, triple=triple, seed=seed)
        annotation_tasks.put_tasks(store, tasks)
        if out is not None:
            write_whole(out, annotation_tasks.to_lines(tasks).decode())
        return tasks

    return forgetting.settled(store, draw)
