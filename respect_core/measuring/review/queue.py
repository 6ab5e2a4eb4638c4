"""Choose follow-ups for people to review: those whose label matters most, and a uniform sample: FOR MEASURING ONLY.

The queue has the turns on whose feedback the two decoders disagree, or of which one is unsure. Disagreement about the
sign comes first, then about neutral; among equals, the smallest margin. Turns that nobody learns from (`marked`) have
no place in it. The audit is drawn from all decoded follow-ups, with the same chance for each, by a hash of the seed
and the turn: the same seed draws the same turns, and a larger audit has those of a smaller one.

Every turn is asked about once, as a task of its own, and keeps its chance to be asked about: 1 in the queue. Queue and
audit take turns in proportion, each in its order, so that whenever people stop, both were begun.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from respect_core.interaction import TurnKey
from respect_core.measuring.annotation_tasks import (
    QUEUE,
    AnnotationTask,
    Asked,
    AuditTask,
    TaskTurn,
    free_text,
    rows_of,
    text_turn,
    to_lines,
)
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, TableError, partitions
from respect_core.variants import DecoderKind

MOST, AUDIT = 200, 50
_SCORES = ["interaction_id", "turn", "decoder", "label", "score", "low_margin", "marked", "thresholds"]
_SHOWN = ["interaction_id", "turn", "scenario", "user", "context", "state", "utterance", "action", "follow_up"]


@dataclass
class _Labels:
    """What both decoders say of a turn."""

    labels: dict[str, int] = field(default_factory=dict)
    margin: float = float("inf")  # the smallest
    unsure: bool = False
    marked: bool = False

    @property
    def matters(self) -> tuple[int, float] | None:
        """How much a label would matter, the smaller the more; None for a turn without a place in the queue."""
        apart = max(self.labels.values()) - min(self.labels.values())
        if self.marked or not (apart or self.unsure):
            return None
        return -apart, self.margin


@dataclass(frozen=True)
class Drawn:
    """What was drawn of a round."""

    queued: int
    audited: int  # of these, some are in the queue too
    decoded: int  # turns from which they were drawn
    unsure: int  # turns that could be in the queue


def draw(
    store: Store, round: int | None, *, most: int = MOST, audit: int = AUDIT, annotators: int = 1, seed: int = 0
) -> Drawn:
    """Choose turns of a round, the newest decoded one by default, and store them as tasks of its partitions.

    Args:
        most: turns of the queue, over all policies of the round.
        audit: turns of the uniform sample.
        annotators: how many people see each.

    Raises:
        TableError: nothing of that round is decoded.
    """
    decoded = [part for part in partitions(store, "feedback") if round in (None, part.round)]
    newest = max((part.round for part in decoded), default=None)
    found = {part: labels for part in decoded if part.round == newest and (labels := _labels(store, part))}
    if not found:
        which = "" if round is None else f" of round {round}"
        raise TableError(f"{store.uri}: no decoded follow-ups{which}; decode them first (`respect round`)")
    every = [(part, key) for part, labels in found.items() for key in labels]
    ranked = [(value, part, key) for part, key in every if (value := found[part][key].matters) is not None]
    ranked.sort(key=lambda each: (each[0], _hash(seed, each[2])))
    queue = {(part, key): rank for rank, (_, part, key) in enumerate(ranked[:most])}
    drawn = sorted(every, key=lambda each: _hash(seed, each[1]))[:audit]
    chance, audited = len(drawn) / len(every), set(drawn)
    asked = {
        place: Asked(
            rank=queue.get(place),
            audit=place in audited,
            chance=1.0 if place in queue else chance,
            of=len(found[place[0]]),
        )
        for place in _interleaved([place for place in queue if place not in audited], drawn)
    }
    for part in found:
        chosen = {key: each for (where, key), each in asked.items() if where == part}
        tasks = _tasks(store, part, chosen, annotators) if chosen else []
        store.put(f"{part.folder(_kind(store, part).kept_in)}{QUEUE}", to_lines(tasks))
    return Drawn(len(queue), len(drawn), len(every), len(ranked))


def _labels(store: Store, part: Partition) -> dict[TurnKey, _Labels]:
    """Return what decoders say of the turns of a partition that have a follow-up."""
    with_follow_up = {
        key
        for key, row in rows_of(store, "turns", *part, ["interaction_id", "turn", "follow_up"])
        if row["follow_up"] is not None
    }
    found: dict[TurnKey, _Labels] = {}
    for key, row in rows_of(store, "feedback", *part, _SCORES):
        if key in with_follow_up and row["decoder"] in set(DecoderKind):
            known = found.setdefault(key, _Labels())
            known.labels[row["decoder"]] = row["label"]
            known.unsure |= row["low_margin"]
            known.marked |= row["marked"] is not None
            known.margin = min(known.margin, _margin(row["score"], row["thresholds"]))
    return found


def _margin(score: float, thresholds: str) -> float:
    """Return how far a score is from the nearest threshold, in nats."""
    known = [each for each in json.loads(thresholds).values() if isinstance(each, int | float)]
    return min((abs(score - each) for each in known), default=abs(score))


def _interleaved(
    queue: Sequence[tuple[Partition, TurnKey]], audit: Sequence[tuple[Partition, TurnKey]]
) -> list[tuple[Partition, TurnKey]]:
    """Merge two lists in proportion, each in its order."""
    places = [((place + 0.5) / len(each), each[place]) for each in (queue, audit) for place in range(len(each))]
    return [each for _, each in sorted(places, key=lambda pair: pair[0])]


def _tasks(store: Store, part: Partition, asked: dict[TurnKey, Asked], annotators: int) -> list[AnnotationTask]:
    """Make a task of each turn, in the order of `asked`."""
    names = pa.array({name for name, _ in asked}, pa.string())
    by_name: dict[str, list[dict[str, Any]]] = {}
    for (name, _), row in rows_of(store, "turns", *part, _SHOWN, names):
        by_name.setdefault(name, []).append(row)
    kind = _kind(store, part)
    tasks: list[AnnotationTask] = []
    for (name, turn), each in asked.items():
        rows = sorted(by_name[name], key=lambda row: int(row["turn"]))
        about: dict[str, Any] = {"interaction_id": name, **part._asdict(), "annotators": annotators}
        shown: dict[str, Any] = {"user": rows[0]["user"], "asked": {turn: each}}
        if kind is AuditTask:
            tasks.append(AuditTask(**about, **shown, turns=[text_turn(rows, turn)]))
        else:
            turns = [TaskTurn(**{name: row[name] for name in TaskTurn.model_fields}) for row in rows[: turn + 1]]
            tasks.append(AnnotationTask(**about, **shown, context=rows[0]["context"], turns=turns))
    return tasks


def _kind(store: Store, part: Partition) -> type[AnnotationTask]:
    return AuditTask if free_text(store, *part) else AnnotationTask


def _hash(seed: int, key: TurnKey) -> bytes:
    return hashlib.sha256(f"{seed}/{key[0]}/{key[1]}".encode()).digest()


def asked_turns(store: Store, chosen: Iterable[Partition]) -> dict[TurnKey, Asked]:
    """Return what was asked about the turns of these partitions, in the order of the tasks."""
    found: dict[TurnKey, Asked] = {}
    for part in chosen:
        for kind in (AnnotationTask, AuditTask):
            key = f"{part.folder(kind.kept_in)}{QUEUE}"
            for line in store.read(key).splitlines() if store.exists(key) else ():
                task = kind.model_validate_json(line)
                found |= {(task.interaction_id, turn): each for turn, each in (task.asked or {}).items()}
    return found
