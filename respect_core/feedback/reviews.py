"""Read what people who reviewed follow-ups say they mean: their label stands where a decoder's would.

Only answers to questions of the review queue count (source `review`): who draws it asks for labels to learn from.
Answers of human evaluations (appendix A.2) are for measuring alone. Of several people the majority decides; where none
of the labels has one, the decoded label stays. `feedback` keeps the decoded labels, by which decoders are measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from respect_core.interaction import TurnKey
from respect_core.store.base import Store
from respect_core.store.manifests import Input, Partition, read_manifest, table_input
from respect_core.store.tables import iter_batches

REVIEW = "review"
_TABLE = "annotations"
_LABELS = {"yes": 1, "partial": 0, "incorrect": 0, "neutral": 0, "no": -1}


def people_labels(store: Store, partitions: Iterable[Partition]) -> dict[TurnKey, int]:
    """Return the labels that people gave turns of these partitions: +1, 0 or -1."""
    given: dict[TurnKey, dict[str, int]] = defaultdict(dict)
    columns = ["interaction_id", "turn", "annotator", "satisfaction", "source"]
    for part in partitions:
        if read_manifest(store, _TABLE, *part) is None:
            continue
        for batch in iter_batches(store, _TABLE, [part.round], [part.variant], columns):
            for row in batch.to_pylist():
                if row["source"] == REVIEW and row["satisfaction"] is not None:
                    given[row["interaction_id"], row["turn"]][row["annotator"]] = _LABELS[row["satisfaction"]]
    found = {key: majority(labels) for key, labels in given.items()}
    return {key: label for key, label in found.items() if label is not None}


def majority(labels: Mapping[str, int]) -> int | None:
    """Return the label that most annotators gave; None if two share that."""
    (label, most), *others = Counter(labels.values()).most_common()
    return None if others and others[0][1] == most else label


def review_inputs(store: Store, partitions: Iterable[Partition]) -> list[Input]:
    """Return the tables that `people_labels` reads, as inputs of a training set."""
    return [table_input(store, _TABLE, *part) for part in partitions if read_manifest(store, _TABLE, *part)]
