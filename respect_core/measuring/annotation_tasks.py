"""Sample games for annotation, and hand out their turns to annotators (appendix A.2): FOR MEASURING ONLY.

A task is one game of one policy, turn by turn, without its targets. Each turn has two phases. First the annotator sees
context, state and utterance, and says which action they would take. Then they see the action taken and the follow-up,
and say whether the speaker was satisfied. Every page that shows a task keeps to that order.

Games are drawn from the turns table, which has no outcomes, by a hash of the seed and their id: the same seed draws
the same games, a larger sample contains a smaller one, and success plays no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from respect_core.log.log import Problem, from_validation
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition, TableError, partitions_with
from respect_core.store.tables import iter_batches

TASKS = "annotation_tasks"
GAMES = 120  # of a policy in a round: about 1,000 turns (appendix A.2)
TRIPLE = 0.05  # share of games that three annotators see (appendix A.2)
_COLUMNS = ["interaction_id", "turn", "context", "state", "utterance", "action", "follow_up"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskTurn(_Record):
    """One turn. `action` and `follow_up` are for the second phase."""

    turn: Annotated[int, Field(ge=0)]
    state: str = Field(description="letters selected before the turn")
    utterance: str
    action: str = Field(description="second phase: the action that was taken")
    follow_up: str | None = Field(description="second phase: the next utterance; None after the last turn")


class AnnotationTask(_Record):
    """One game to annotate. Round and variant name it for its answers; annotators need not see them."""

    kept_in: ClassVar[str] = TASKS  # a folder of the store

    interaction_id: str
    round: Annotated[int, Field(ge=0)]
    variant: str
    annotators: Annotated[int, Field(ge=1)] = Field(description="how many people annotate it: 1 or 3")
    context: list[str] = Field(description="image ids in the listener's order: letters A to J")
    turns: list[TaskTurn]

    @property
    def partition(self) -> Partition:
        """Partition of the tables that the game is in."""
        return Partition(self.round, self.variant)


def sample(
    store: Store, round: int, variant: str, *, games: int = GAMES, triple: float = TRIPLE, seed: int = 0
) -> list[AnnotationTask]:
    """Draw games of a policy in a round for annotation; all of them if there are fewer.

    Args:
        games: number to draw.
        triple: share of them that three annotators see; at least one game if above 0.
        seed: of the draw.

    Memory holds the ids of the partition's games and the turns of the sample.

    Raises:
        TableError: no turns of that round and variant, or an unreadable table.
        ValueError: fewer than one game, or a share outside 0 to 1.
    """
    if games < 1 or not 0 <= triple <= 1:
        raise ValueError(f"games={games}, triple={triple}: draw at least one game, and a share between 0 and 1")
    ids: set[str] = set()
    for batch in iter_batches(store, "turns", [round], [variant], ["interaction_id"]):
        ids.update(batch.column(0).unique().to_pylist())
    if not ids:
        raise TableError(f"{store.uri}: no turns of round {round}, variant {variant!r}; import or export them first")
    selection = sorted(ids, key=lambda each: hashlib.sha256(f"{seed}/{each}".encode()).digest())[:games]
    triples = max(1, int(triple * len(selection) + 0.5)) if triple else 0
    contexts: dict[str, list[str]] = {}
    turns: dict[str, list[TaskTurn]] = {each: [] for each in selection}
    selection_array = pa.array(selection, pa.string())
    for batch in iter_batches(store, "turns", [round], [variant], _COLUMNS):
        for row in batch.filter(pc.is_in(batch.column("interaction_id"), selection_array)).to_pylist():
            interaction_id = row.pop("interaction_id")
            contexts[interaction_id] = row.pop("context")
            turns[interaction_id].append(TaskTurn(**row))
    return [
        AnnotationTask(
            interaction_id=each,
            round=round,
            variant=variant,
            annotators=3 if number < triples else 1,
            context=contexts[each],
            turns=sorted(turns[each], key=lambda turn: turn.turn),
        )
        for number, each in enumerate(selection)
    ]


def to_lines(tasks: Iterable[AnnotationTask]) -> bytes:
    """Return the tasks as JSON lines, in their order."""
    return b"".join(task.model_dump_json().encode() + b"\n" for task in tasks)


Task = TypeVar("Task", bound=AnnotationTask)


def put_tasks(store: Store, tasks: Sequence[AnnotationTask]) -> str:
    """Store the tasks of one round and variant, in place of earlier ones, and return their key.

    Raises ValueError for no tasks, or tasks of several partitions.
    """
    partitions = {task.partition for task in tasks}
    if len(partitions) != 1:
        raise ValueError(f"tasks of {len(partitions)} rounds and variants; keep each round and variant by itself")
    key = f"{partitions.pop().folder(tasks[0].kept_in)}tasks.jsonl"
    store.put(key, to_lines(tasks))
    return key


def read_tasks(store: Store, kind: type[Task] = AnnotationTask) -> list[Task]:  # type: ignore[assignment]  # its bound
    """Read the stored tasks of a kind. Raises TableError at a line that is no task."""
    tasks = []
    for partition in partitions_with(store, kind.kept_in, "tasks.jsonl"):
        key = f"{partition.folder(kind.kept_in)}tasks.jsonl"
        try:
            lines = store.read(key).splitlines()
        except MissingKeyError:
            continue
        for number, line in enumerate(lines, start=1):
            try:
                tasks.append(kind.model_validate_json(line))
            except ValidationError as error:
                wrong = from_validation(error)
                raise TableError(
                    str(Problem(key, f"line {number}", wrong.field, wrong.reason, "sample again"))
                ) from None
    return tasks


AnsweredTurn = tuple[int, str, str, int, str]
"""Round, variant, interaction id, turn, annotator."""


def next_turn(
    tasks: Iterable[Task], answered: Collection[AnsweredTurn], annotator: str
) -> tuple[Task, TaskTurn] | None:
    """Choose an annotator's next turn: of a game they began, else of one that lacks annotators; None if all is done.

    Args:
        answered: the answered turns of all annotators (`human_eval.answered_turns`).
    """
    by_game: dict[tuple[int, str, str], dict[str, set[int]]] = {}
    for round, variant, interaction_id, turn, who in answered:
        by_game.setdefault((round, variant, interaction_id), {}).setdefault(who, set()).add(turn)
    new_game: tuple[Task, TaskTurn] | None = None
    for task in tasks:
        by_annotator = by_game.get((*task.partition, task.interaction_id), {})
        own = by_annotator.get(annotator, set())
        turn_left = next((turn for turn in task.turns if turn.turn not in own), None)
        if turn_left is not None and annotator in by_annotator:
            return task, turn_left
        if turn_left is not None and new_game is None and len(by_annotator) < task.annotators:
            new_game = task, turn_left
    return new_game
