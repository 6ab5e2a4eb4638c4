"""Decode the feedback of a round turn by turn with the LLM, write it to the `feedback` table, and audit it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import pyarrow.compute as pc
from prefect import task

from respect_core import utterances
from respect_core.feedback import decoder, shards
from respect_core.feedback.decoder import DecoderConfig
from respect_core.feedback.shards import is_decoded
from respect_core.interaction import TurnKey
from respect_core.log import forgetting, set_aside
from respect_core.measuring.decoder_metrics import against_thumbs
from respect_core.measuring.labels import target_labels
from respect_core.measuring.review.estimates import measure
from respect_core.profiles import Profile
from respect_core.scenarios.multiref import decoder_eval
from respect_core.store import manifests, tables
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.variants import DecoderKind
from tasks.compute import culprits
from tasks.compute.places import Place, runner
from tasks.compute.specs import DecodeSpec, worker_code
from tasks.support import progress
from tasks.support.references import DecoderFigures, FeedbackRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_AUDITED = ["interaction_id", "turn", "decoder", "label", "score", "low_margin", "marked", "cut", "thresholds"]


@task(name="decode", task_run_name="decode round {round}", **PATIENT)
def decode_feedback(
    workspace: Workspace,
    profile: Profile,
    round: int,
    turns_per_shard: int = shards.TURNS,
    on: Place = Place.HERE,
) -> FeedbackRef:
    """Decode every turn of the rounds up to `round` that has a follow-up and is not decoded yet; audit `round`.

    A partition is decoded again if its turns or the decoder changed. If its worker or this process was killed during
    decoding, it resumes after the last finished shard.

    Raises:
        WorkerFailedError: decoding ended with an error; the message has the end of its log.
    """
    started, store = time.monotonic(), workspace.open()
    forgetting.finish(store)
    turns = [part for part in manifests.partitions(store, "turns") if part.round <= round]
    identity = decoder_identity(decoder_config(profile))
    outdated = [part for part in turns if not is_decoded(store, part, identity)]
    speed = _decode(workspace, profile, round, outdated, identity, turns_per_shard, on) if outdated else None
    batches = tables.iter_batches(store, "feedback", [round], columns=_AUDITED)
    rows = (row for batch in batches for row in batch.to_pylist())
    unreadable = shards.count_unreadable(store, round)
    figures = audit(rows, target_labels(store, [round]), speed, unreadable, _thumbs(store, round))
    reviewed = measure(store, manifests.partitions(store, "feedback", [round]))
    figures |= {
        kind: figures[kind].model_copy(update={"reviewed": asdict(each)})
        for kind, each in reviewed.items()
        if kind in figures
    }
    return FeedbackRef(round=round, decoders=figures, seconds=time.monotonic() - started)


def _thumbs(store: Store, round: int) -> dict[TurnKey, int]:
    """Return the thumbs of a round's users."""
    columns = ["interaction_id", "turn", "explicit"]
    batches = tables.iter_batches(store, "turns", [round], columns=columns)
    rows = (row for batch in batches for row in batch.filter(pc.is_valid(batch.column("explicit"))).to_pylist())
    return {(row["interaction_id"], row["turn"]): row["explicit"] for row in rows}


class _Known(NamedTuple):
    """What is kept of a turn whose label is derived from targets: there may be millions."""

    interaction_id: str
    turn: int
    label: int
    score: float
    thresholds: str


def decoder_config(profile: Profile) -> DecoderConfig:
    return decoder.named(profile.feedback_decoder)


def decoder_identity(config: DecoderConfig) -> dict[str, str]:
    """Return what a feedback table depends on besides the turns, for its manifest."""
    return {
        "decoder_model": config.name,
        "text_rules": utterances.RULES,
        **{f"{kind}_prompt": config.prompt(kind.value).hash() for kind in DecoderKind},
        **{f"{kind}_thresholds": str(config.thresholds(kind.value)) for kind in DecoderKind},
    }


def audit(
    rows: Iterable[Mapping[str, Any]],
    actual: Mapping[TurnKey, int],
    speed: float | None,
    unreadable: int | None = None,
    thumbs: Mapping[TurnKey, int] = {},
) -> dict[str, DecoderFigures]:
    """Count each decoder's labels, and compare them with labels derived from targets and with thumbs, if any."""
    labels, counts = Counter[tuple[str, int]](), Counter[tuple[str, str]]()
    known: dict[str, list[_Known]] = {kind: [] for kind in DecoderKind}
    rated: dict[str, list[tuple[int, int, str]]] = {kind: [] for kind in DecoderKind}  # label, thumb, game
    for row in rows:
        labels[row["decoder"], row["label"]] += 1
        counts.update((row["decoder"], name) for name in ("low_margin", "marked", "cut") if row[name])
        if (thumb := thumbs.get((row["interaction_id"], row["turn"]))) is not None:
            rated[row["decoder"]].append((row["label"], thumb, row["interaction_id"]))
        if (row["interaction_id"], row["turn"]) in actual:
            game, thresholds = sys.intern(row["interaction_id"]), sys.intern(row["thresholds"])
            known[row["decoder"]].append(_Known(game, row["turn"], row["label"], row["score"], thresholds))
    found = {
        kind: decoder_eval.evaluate(({"decoder": kind, **each._asdict()} for each in mine), actual, kind)
        if mine
        else None
        for kind, mine in known.items()
    }
    return {
        kind.value: DecoderFigures(
            positive=labels[kind, 1],
            neutral=labels[kind, 0],
            negative=labels[kind, -1],
            low_margin=counts[kind, "low_margin"],
            marked=counts[kind, "marked"],
            cut=counts[kind, "cut"],
            unreadable=unreadable,
            confusion=fit.confusion if fit else None,
            precision=fit.at_shipped.precision if fit else None,
            recall=fit.at_shipped.recall if fit else None,
            cross_validated=asdict(fit.cross_validated) if fit and fit.cross_validated else None,
            auc=fit.auc if fit else None,
            thumbs=asdict(against_thumbs(*zip(*rated[kind], strict=True))) if rated[kind] else None,
            turns_per_second=speed,
        )
        for kind in DecoderKind
        for fit in [found[kind]]
    }


def _decode(
    workspace: Workspace,
    profile: Profile,
    round: int,
    outdated: Sequence[Partition],
    identity: Mapping[str, str],
    turns_per_shard: int,
    on: Place,
) -> float | None:
    """Decode the remaining partitions in workers; return their turns per second, not counting loading the model."""
    directory = workspace.scratch / f"round={round}" / "decode"
    spec = DecodeSpec(
        directory=directory,
        without=sorted(set_aside.games(workspace.open(), outdated)),
        workspace=workspace,
        profile=profile,
        code_version=worker_code(profile),
        partitions=list(outdated),
        identity=dict(identity),
        turns_per_shard=turns_per_shard,
    )
    with progress.bar(f"decode round {round}") as bar:
        left = culprits.run(runner(on), spec, directory, bar.update, all_cores=True, again=True)
    speed: float | None = json.loads(left.read_text())["turns_per_second"]
    return speed
