"""Feedback of a round: decoded turn by turn by the LLM, written to the `feedback` table, and audited."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from respect_core import decoder_eval, feedback, manifests, tables
from respect_core.feedback import DecoderConfig, FeedbackDecoder
from respect_core.interaction import FEEDBACK_SCHEMA
from respect_core.labels import TurnKey, target_labels
from respect_core.manifests import Partition
from respect_core.store import Store
from respect_core.variants import DecoderKind, Profile
from tasks import progress
from tasks.references import DecoderFigures, FeedbackRef
from tasks.retries import if_transient
from tasks.workspace import Workspace


@task(
    name="decode",
    task_run_name="decode round {round}",
    retries=1,
    retry_delay_seconds=10,
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
)
def decode_feedback(workspace: Workspace, profile: Profile, round: int) -> FeedbackRef:
    """Decode every turn of the rounds up to `round` that has a follow-up and is not decoded yet; audit `round`.

    A partition is decoded anew when its turns or the decoder changed.
    """
    started, store, config = time.monotonic(), workspace.open(), decoder_config(profile)
    turns = [part for part in manifests.partitions(store, "turns") if part.round <= round]
    identity = decoder_identity(config)
    outdated = [part for part in turns if not _is_current(store, part, identity)]
    speed = _decode(store, outdated, config, identity) if outdated else None
    rows = tables.read_table(store, "feedback", [round]).to_pylist()
    actual = target_labels(store, [round])
    figures = {kind.value: audit(rows, kind, actual, speed) for kind in DecoderKind}
    return FeedbackRef(round=round, decoders=figures, seconds=time.monotonic() - started)


def decoder_config(profile: Profile) -> DecoderConfig:
    """The profile's decoder, by the name of its function in respect_core.feedback."""
    config: DecoderConfig = getattr(feedback, profile.feedback_decoder)()
    return config


def decoder_identity(config: DecoderConfig) -> dict[str, str]:
    """What a feedback table depends on besides the turns; kept in its manifest."""
    return {
        "decoder_model": config.name,
        **{f"{kind}_prompt": config.prompt(kind.value).hash() for kind in DecoderKind},
        **{f"{kind}_thresholds": str(config.thresholds(kind.value)) for kind in DecoderKind},
    }


def audit(
    rows: Sequence[Mapping[str, Any]], kind: DecoderKind, actual: Mapping[TurnKey, int], speed: float | None
) -> DecoderFigures:
    """Counts of one decoder's labels, and how they fit the labels derived from targets, where there are targets."""
    mine = [row for row in rows if row["decoder"] == kind]
    counts = Counter(row["label"] for row in mine)
    known = any((row["interaction_id"], row["turn"]) in actual for row in mine)
    found = decoder_eval.evaluate(mine, actual, kind) if known else None
    return DecoderFigures(
        positive=counts[1],
        neutral=counts[0],
        negative=counts[-1],
        low_margin=sum(row["low_margin"] for row in mine),
        confusion=found.confusion if found else None,
        precision=found.at_shipped.precision if found else None,
        recall=found.at_shipped.recall if found else None,
        cross_validated=asdict(found.cross_validated) if found else None,
        auc=found.auc if found else None,
        turns_per_second=speed,
    )


def _is_current(store: Store, partition: Partition, identity: Mapping[str, str]) -> bool:
    """Whether the partition was decoded by this decoder, from the turns as they are now."""
    manifest = manifests.read_manifest(store, "feedback", *partition)
    turns = manifests.table_input(store, "turns", *partition)
    return manifest is not None and all(
        part.inputs == (turns,) and part.metadata["decoder"] == identity for part in manifest.parts
    )


def _decode(store: Store, outdated: Sequence[Partition], config: DecoderConfig, identity: Mapping[str, str]) -> float:
    """Decode partitions and write their tables; returns turns per second, without loading the model."""
    decoder, turns, seconds = FeedbackDecoder(config), 0, 0.0
    for partition in outdated:
        rows = tables.read_table(store, "turns", [partition.round], [partition.variant]).to_pylist()
        with progress.bar(f"decode round {partition.round}, {partition.variant}") as bar:
            started = time.monotonic()
            decoded = decoder.decode(rows, progress=bar.update)
            seconds += time.monotonic() - started
        turns += len(decoded) // len(DecoderKind)  # both kinds of every turn
        tables.write_partition(
            store,
            "feedback",
            *partition,
            pa.Table.from_pylist(decoded, schema=FEEDBACK_SCHEMA),
            inputs=[manifests.table_input(store, "turns", *partition)],
            metadata={"decoder": dict(identity)},
        )
    return turns / seconds
