"""Estimate how well decoders read follow-ups from what people said of reviewed ones: FOR MEASURING ONLY.

The audit alone is drawn uniformly, and gives figures of the log without weights. With the queue there are more labels
where decoders err, of turns that were certain to be asked about. Each label then stands for as many turns as the
inverse of its chance says: those of the queue, up to the first that nobody has labelled yet, for themselves, and those
of the audit for all other turns. Strata are scaled to their known sizes, so that it does not matter when people
stopped (Horvitz and Thompson 1952; Holt and Smith 1979). Intervals resample users, as one user's follow-ups are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from respect_core.feedback.reviews import people_labels
from respect_core.interaction import TurnKey
from respect_core.measuring.annotation_tasks import Asked, rows_of
from respect_core.measuring.decoder_metrics import LabelFigures, by_label
from respect_core.measuring.review.queue import asked_turns
from respect_core.store.base import Store
from respect_core.store.manifests import Partition


@dataclass(frozen=True)
class Reviewed:
    """What people's labels say of a decoder: figures by label, -1 and +1."""

    labels: int  # turns that people labelled
    audited: int  # of these, in the uniform sample
    replaced: int  # of these, labelled otherwise than by the decoder
    audit: Mapping[int, LabelFigures]  # by the uniform sample alone
    weighted: Mapping[int, LabelFigures]  # with the queue


def weights(asked: Mapping[TurnKey, Asked], labelled: Iterable[TurnKey]) -> dict[TurnKey, float]:
    """Return how many turns of a policy's round each labelled turn stands for; those left out have no known chance.

    Args:
        asked: the turns of one partition.
    """
    known = {key for key in labelled if key in asked}
    if not known:
        return {}
    queue = sorted((key for key in asked if asked[key].rank is not None), key=lambda key: asked[key].rank or 0)
    open_at = next((at for at, key in enumerate(queue) if key not in known and not asked[key].audit), len(queue))
    certain = set(queue[:open_at])
    rest = [key for key in known if asked[key].audit and key not in certain]
    of = next(iter(asked.values())).of
    found: dict[TurnKey, float] = {}
    for stratum, size in ((sorted(certain & known), len(certain)), (sorted(rest), of - len(certain))):
        found |= {key: size / len(stratum) for key in stratum}
    return found


def measure(store: Store, partitions: Sequence[Partition]) -> dict[str, Reviewed]:
    """Measure each decoder on the reviewed follow-ups of these partitions; empty without any."""
    truth, weight, audit = dict[TurnKey, int](), dict[TurnKey, float](), set[TurnKey]()
    users, said = dict[TurnKey, str](), dict[str, dict[TurnKey, int]]()
    for part in partitions:
        labels = people_labels(store, [part])
        if not labels:
            continue
        asked = asked_turns(store, [part])
        truth |= labels
        weight |= weights(asked, labels)
        audit |= {key for key in labels if key in asked and asked[key].audit}
        users |= {key: row["user"] for key, row in rows_of(store, "turns", *part, _USERS) if key in labels}
        for key, row in rows_of(store, "feedback", *part, _LABELS):
            if key in labels and key in users:
                said.setdefault(row["decoder"], {})[key] = row["label"]

    def figures(decoded: Mapping[TurnKey, int], chosen: Iterable[TurnKey], weighted: bool) -> dict[int, LabelFigures]:
        keys = sorted(key for key in chosen if key in decoded)
        if not keys:
            return {}
        actual, predicted = ([labels[key] for key in keys] for labels in (truth, decoded))
        by_user = [users[key] for key in keys]
        return by_label(actual, predicted, by_user, [weight[key] for key in keys] if weighted else None)

    return {
        decoder: Reviewed(
            labels=len(decoded),
            audited=len(audit & set(decoded)),
            replaced=sum(truth[key] != label for key, label in decoded.items()),
            audit=figures(decoded, audit, weighted=False),
            weighted=figures(decoded, weight, weighted=True),
        )
        for decoder, decoded in sorted(said.items())
    }


_USERS = ["interaction_id", "turn", "user"]
_LABELS = ["interaction_id", "turn", "decoder", "label"]
