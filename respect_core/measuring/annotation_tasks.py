"""Sample games for annotation, and hand out their turns to annotators (appendix A.2): FOR MEASURING ONLY.

A task is one game of one policy, turn by turn, without its targets. Each turn has two phases. First the annotator sees
context, state and utterance, and says which action they would take. Then they see the action taken and the follow-up,
and say whether the speaker was satisfied. Every page that shows a task keeps to that order.

Games are drawn from the turns table, which has no outcomes, by a hash of the seed and their id: the same seed draws
the same games, a larger sample contains a smaller one, and success plays no part.

Of free text there is an audit of the decoder instead. Annotators read a conversation up to a follow-up, and say whether
the user was satisfied: yes, no, or that it does not tell. Nobody is asked what they would have replied. Follow-ups are
drawn plainly at random from the decoded ones, in the same way, and not by decoded label: then shares, precision and
recall of every decoder are those of the log without weights, at its own rate of complaints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from respect_core.interaction import Interaction, Turn, TurnKey
from respect_core.log.log import Problem, from_validation
from respect_core.scenario import scenario
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition, TableError, partitions_with
from respect_core.store.tables import iter_batches

TASKS = "annotation_tasks"
QUEUE = "queue.jsonl"
"""File of the tasks of `review.queue`, beside those that were drawn for an evaluation, `tasks.jsonl`."""
GAMES = 120  # of a policy in a round: about 1,000 turns (appendix A.2)
TRIPLE = 0.05  # share of games that three annotators see (appendix A.2)
FOLLOW_UPS = 50
_COLUMNS = ["interaction_id", "turn", "context", "state", "utterance", "action", "follow_up"]
_OF_TEXT = ["interaction_id", "turn", "scenario", "state", "utterance", "action", "follow_up"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskTurn(_Record):
    """One turn. `action` and `follow_up` are for the second phase."""

    turn: Annotated[int, Field(ge=0)]
    state: str = Field(description="letters selected before the turn")
    utterance: str
    action: str = Field(description="second phase: the action that was taken")
    follow_up: str | None = Field(description="second phase: the next utterance; None after the last turn")


class Asked(_Record):
    """Why a follow-up is to be reviewed."""

    chance: float = Field(gt=0, le=1, description="to be asked about, when the queue was drawn")
    audit: bool = Field(description="whether it was drawn with the same chance as any other")
    rank: int | None = Field(description="place in the queue, over all policies of the round; null: not in it")
    of: int = Field(description="decoded follow-ups of the policy in the round")


class AnnotationTask(_Record):
    """One game to annotate. Round and variant name it for its answers; annotators need not see them."""

    kept_in: ClassVar[str] = TASKS  # a folder of the store

    interaction_id: str
    round: Annotated[int, Field(ge=0)]
    variant: str
    annotators: Annotated[int, Field(ge=1)] = Field(description="how many people annotate it: 1 or 3")
    context: list[str] = Field(description="image ids in the listener's order: letters A to J")
    turns: list[TaskTurn]
    user: str | None = Field(default=None, description="pseudonym of who wrote, if they are not to be asked")
    asked: dict[int, Asked] | None = Field(default=None, description="of a review: the turns to ask about; null: all")

    @property
    def reviewed(self) -> bool:
        """Whether it is of the review queue, whose answers are learned from."""
        return self.asked is not None

    @property
    def turns_asked(self) -> list[TaskTurn]:
        """The turns that an annotator is asked about."""
        return [turn for turn in self.turns if self.asked is None or turn.turn in self.asked]

    @property
    def partition(self) -> Partition:
        """Partition of the tables that the game is in."""
        return Partition(self.round, self.variant)


class AuditTurn(TaskTurn):
    """One turn. `messages` are all up to its follow-up, as (role, text)."""

    messages: list[tuple[str, str]]


class AuditTask(AnnotationTask):
    """One conversation, of which some turns are to be labelled."""

    kept_in: ClassVar[str] = "audit_tasks"

    context: list[str] = Field(default=[], description="none")
    turns: list[AuditTurn]  # type: ignore[assignment]  # narrower, and frozen


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
    triples = _triples(triple, len(selection))
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


def _triples(share: float, count: int) -> int:
    """Return how many of `count` drawn interactions three annotators see: at least one if the share is above 0."""
    return max(1, int(share * count + 0.5)) if share else 0


def to_lines(tasks: Iterable[AnnotationTask]) -> bytes:
    """Return the tasks as JSON lines, in their order."""
    return b"".join(
        task.model_dump_json(exclude=None if task.reviewed else {"user", "asked"}).encode() + b"\n" for task in tasks
    )


def free_text(store: Store, round: int, variant: str) -> bool:
    """Return whether what a policy wrote in a round is free text, and so audited. False without turns."""
    batches = iter_batches(store, "turns", [round], [variant], ["scenario"])
    return any(scenario(each).free_text for batch in batches for each in batch.column(0).unique().to_pylist())


def sample_follow_ups(
    store: Store, round: int, variant: str, *, turns: int = FOLLOW_UPS, triple: float = TRIPLE, seed: int = 0
) -> list[AuditTask]:
    """Draw turns with a decoded follow-up from what a policy wrote in a round; all of them if there are fewer.

    Args:
        turns: number to draw.
        triple: share of the drawn conversations that three annotators see; at least one if above 0.
        seed: of the draw.

    Raises:
        TableError: no decoded follow-ups of that round and variant, or an unreadable table.
        ValueError: fewer than one turn, or a share outside 0 to 1.
    """
    if turns < 1 or not 0 <= triple <= 1:
        raise ValueError(f"turns={turns}, triple={triple}: draw at least one turn, and a share between 0 and 1")
    decoded = {key for key, _ in rows_of(store, "feedback", round, variant, ["interaction_id", "turn"])}
    columns = ["interaction_id", "turn", "follow_up"]
    with_follow_up = {
        key for key, row in rows_of(store, "turns", round, variant, columns) if row["follow_up"] is not None
    }
    drawn = sorted(
        decoded & with_follow_up, key=lambda key: hashlib.sha256(f"{seed}/{key[0]}/{key[1]}".encode()).digest()
    )
    if not drawn:
        raise TableError(
            f"{store.uri}: no decoded follow-ups of round {round}, variant {variant!r}; decode them first "
            "(`respect round`)"
        )
    by_conversation: dict[str, list[int]] = {}
    for name, turn in drawn[:turns]:
        by_conversation.setdefault(name, []).append(turn)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in by_conversation}
    for (name, _), row in rows_of(store, "turns", round, variant, _OF_TEXT, pa.array(rows, pa.string())):
        rows[name].append(row)
    triples = _triples(triple, len(rows))
    return [
        AuditTask(
            interaction_id=name,
            round=round,
            variant=variant,
            annotators=3 if number < triples else 1,
            turns=[text_turn(sorted(rows[name], key=lambda row: int(row["turn"])), turn) for turn in sorted(chosen)],
        )
        for number, (name, chosen) in enumerate(by_conversation.items())
    ]


def discard(store: Store, partition: Partition) -> None:
    """Delete the tasks of a partition: they hold what people wrote, which is taken back with their import."""
    for key in [*store.keys(partition.folder(AuditTask.kept_in)), *store.keys(f"{partition.folder(TASKS)}{QUEUE}")]:
        store.delete(key)


def rows_of(
    store: Store, table: str, round: int, variant: str, columns: list[str], only: pa.Array | None = None
) -> Iterable[tuple[TurnKey, dict[str, Any]]]:
    """Yield the rows of a partition by turn, of the interactions in `only` if it is given."""
    for batch in iter_batches(store, table, [round], [variant], columns):
        chosen = batch if only is None else batch.filter(pc.is_in(batch.column("interaction_id"), only))
        for row in chosen.to_pylist():
            yield (row["interaction_id"], row["turn"]), row


def text_turn(rows: list[dict[str, Any]], turn: int) -> AuditTurn:
    """Make a turn of a task out of its conversation's rows, in order."""
    before = [row for row in rows if row["turn"] <= turn]
    seen = Interaction("", (), tuple(Turn(row["state"], row["utterance"], row["action"]) for row in before))
    asked = before[-1]
    return AuditTurn(
        **{name: asked[name] for name in ("turn", "state", "utterance", "action", "follow_up")},
        messages=[
            (message["role"], "\n".join(part["text"] for part in message["content"] if part["type"] == "text"))
            for message in scenario(asked["scenario"]).messages(seen)
        ],
    )


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
    files = ("tasks.jsonl", QUEUE)
    keys = [
        f"{each.folder(kind.kept_in)}{file}" for file in files for each in partitions_with(store, kind.kept_in, file)
    ]
    for key in keys:
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
HELD = -1
"""As a turn: the annotator is at the game."""


def next_turn(
    tasks: Iterable[Task], answered: Collection[AnsweredTurn], annotator: str
) -> tuple[Task, TaskTurn] | None:
    """Choose an annotator's next turn: of a task they began, else of one that lacks annotators; None if all is done.

    Nobody reviews what they wrote themselves, where it is known by their name.

    Args:
        answered: the answered turns of all annotators (`human_eval.answered_turns`).
    """
    by_game: dict[tuple[int, str, str], dict[str, set[int]]] = {}
    for round, variant, interaction_id, turn, who in answered:
        by_game.setdefault((round, variant, interaction_id), {}).setdefault(who, set()).add(turn)
    new_game: tuple[Task, TaskTurn] | None = None
    for task in tasks:
        asked = {turn.turn for turn in task.turns_asked} | {HELD}
        of_game = by_game.get((*task.partition, task.interaction_id), {})
        by_annotator = {who: mine for who, turns in of_game.items() if (mine := turns & asked)}
        own = by_annotator.get(annotator, set())
        turn_left = next((turn for turn in task.turns_asked if turn.turn not in own), None)
        if task.user == annotator:
            continue
        if turn_left is not None and annotator in by_annotator:
            return task, turn_left
        if turn_left is not None and new_game is None and len(by_annotator) < task.annotators:
            new_game = task, turn_left
    return new_game
