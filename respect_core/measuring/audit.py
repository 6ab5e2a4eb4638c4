"""Draw turns of conversations whose follow-ups people label, to see how good the decoder is: FOR MEASURING ONLY.

A task is one conversation. Of each of its drawn turns annotators read everything up to the follow-up, and say whether
the user was satisfied: yes, no, or that the follow-up does not tell. Nobody is asked what they would have replied. The
answers go to the `annotations` table, as those about games do (`human_eval`).

Turns are drawn plainly at random from those with a decoded follow-up, not by decoded label: then shares, precision and
recall of every decoder are those of the log without weights, at its own rate of complaints. Where complaints are rare,
a larger draw makes up for it. The draw is by a hash of the seed and the turn: the same seed draws the same turns, and
a larger draw contains a smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from respect_core.interaction import Interaction, Turn, TurnKey
from respect_core.measuring.annotation_tasks import TRIPLE, AnnotationTask, TaskTurn
from respect_core.scenario import scenario
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, TableError
from respect_core.store.tables import iter_batches

TURNS = 50
_COLUMNS = ["interaction_id", "turn", "scenario", "state", "utterance", "action", "follow_up"]


class AuditTurn(TaskTurn):
    """One turn. `messages` are all up to its follow-up, as (role, text)."""

    messages: list[tuple[str, str]]


class AuditTask(AnnotationTask):
    """One conversation, of which some turns are to be labelled."""

    kept_in: ClassVar[str] = "audit_tasks"

    context: list[str] = Field(default=[], description="none")
    turns: list[AuditTurn]  # type: ignore[assignment]  # narrower, and frozen


def free_text(store: Store, round: int, variant: str) -> bool:
    """Return whether what a policy wrote in a round is free text, and so audited. False without turns."""
    batches = iter_batches(store, "turns", [round], [variant], ["scenario"])
    return any(scenario(each).free_text for batch in batches for each in batch.column(0).unique().to_pylist())


def sample(
    store: Store, round: int, variant: str, *, turns: int = TURNS, triple: float = TRIPLE, seed: int = 0
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
    decoded = {key for key, _ in _rows(store, "feedback", round, variant, ["interaction_id", "turn"])}
    columns = ["interaction_id", "turn", "follow_up"]
    with_follow_up = {
        key for key, row in _rows(store, "turns", round, variant, columns) if row["follow_up"] is not None
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
    for (name, _), row in _rows(store, "turns", round, variant, _COLUMNS, pa.array(rows, pa.string())):
        rows[name].append(row)
    triples = max(1, int(triple * len(rows) + 0.5)) if triple else 0
    return [
        AuditTask(
            interaction_id=name,
            round=round,
            variant=variant,
            annotators=3 if number < triples else 1,
            turns=[_turn(sorted(rows[name], key=lambda row: int(row["turn"])), turn) for turn in sorted(chosen)],
        )
        for number, (name, chosen) in enumerate(by_conversation.items())
    ]


def discard(store: Store, partition: Partition) -> None:
    """Delete the tasks of a partition: they hold what people wrote, which is taken back with their import."""
    for key in store.keys(partition.folder(AuditTask.kept_in)):
        store.delete(key)


def _rows(
    store: Store, table: str, round: int, variant: str, columns: list[str], only: pa.Array | None = None
) -> Iterable[tuple[TurnKey, dict[str, Any]]]:
    for batch in iter_batches(store, table, [round], [variant], columns):
        chosen = batch if only is None else batch.filter(pc.is_in(batch.column("interaction_id"), only))
        for row in chosen.to_pylist():
            yield (row["interaction_id"], row["turn"]), row


def _turn(rows: list[dict[str, Any]], turn: int) -> AuditTurn:
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
