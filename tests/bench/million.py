"""Stages of a round as the log grows: peak memory of a process of its own, and turns a second.

The log is that of tests/bench/export.py, in a directory. The stages are those of a round but for the decoder's model:
prompts are made, tokenized, grouped into trees and passes, shards are cut, stored, found again and joined, and scores
come from the prompt's tokens at the cost of a checksum. Prompts do without the worked examples that all of them repeat.
Decoding is interrupted after half of the shards and goes on. Where it is left out, labels are drawn at random.

    python -m tests.bench.million --turns 10000000 --stages export subsample report

measures a log of any size, and prints the figures as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from respect_core.feedback.decoder import FeedbackDecoder, smollm2
from respect_core.feedback.scoring import LabelScorer
from respect_core.feedback.shards import TURNS, Decoded, decode_partition
from respect_core.feedback.trees import Tree
from respect_core.log.export import export
from respect_core.log.records import InteractionLog, Outcome
from respect_core.measuring.evidence import gather
from respect_core.model import local as local_models
from respect_core.profiles import tiny
from respect_core.reporting.report import write
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, read_manifest, table_input
from respect_core.store.tables import iter_batches, write_partition
from respect_core.training_data import curated
from respect_core.variants import Variant
from tasks.round.subsample import subsample_variant
from tasks.support.workspace import Workspace, workspace
from tests.bench.export import ROUND, SIZES, VARIANT, fill
from tests.bench.export import TURNS as TURNS_OF_A_GAME
from tests.bench.record import Record, case, versions
from tests.samples import IMAGES, played

LEARNER = Variant.B_RL
HERE = Partition(ROUND, VARIANT)
TOKENIZER = "tokenizer"


class Found(NamedTuple):
    """What a stage tells: turns that it went through, seconds and those of CPU, MiB when it began and at the peak."""

    turns: int
    seconds: float
    cpu: float
    before: float
    peak: float
    note: str


@case("million")
def million(quick: bool) -> Iterator[Record]:
    """A record for each stage: what the largest log needs over the smallest. The bar is 0.8. None in the quick form."""
    by_stage: dict[str, dict[int, Found]] = {stage: {} for stage in STAGES}
    for turns in () if quick else SIZES:
        for stage, found in _measured(turns, tuple(STAGES)):
            by_stage[stage][turns] = found
    for stage, by_size in by_stage.items():
        if by_size:
            yield _record(stage, by_size)


def _measured(turns: int, stages: Sequence[str]) -> Iterator[tuple[str, Found]]:
    """Run stages one after the other on a log of so many turns, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder))
        fill(workspace(Path(folder)).open(), turns)
        for stage in stages:
            if stage != "export" and "decode plan" not in stages:
                _draw_labels(workspace(Path(folder)).open())
            command = [sys.executable, "-m", "tests.bench.million", "--stages", stage, "--in", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            yield stage, Found(*json.loads(done.stdout.splitlines()[-1]))


def _record(stage: str, by_size: dict[int, Found]) -> Record:
    sizes = list(by_size)
    least, most = by_size[sizes[0]], by_size[sizes[-1]]
    bytes_per_turn = (most.peak - most.before - least.peak + least.before) * 2**20 / (sizes[-1] - sizes[0])
    figures = [
        f"{turns:,} turns: {each.peak:.0f} MiB, {each.peak - each.before:.0f} above the start, "
        f"{each.turns / each.seconds:,.0f} turns/s, {each.turns / each.cpu:,.0f} a second of CPU"
        for turns, each in by_size.items()
    ]
    return Record(
        case="million",
        size=f"{stage}, {sizes[-1] // 1000}k turns",
        turns_per_game=None,
        ours=most.peak,
        peer=least.peak,
        peer_name=f"the same for {sizes[0] // 1000}k turns",
        unit="MiB at the peak",
        ratio=least.peak / most.peak,
        bar=0.8,
        tokens_ours=None,
        tokens_peer=None,
        flops_ours=None,
        flops_peer=None,
        seconds_ours=most.seconds,
        seconds_peer=least.seconds,
        repeats=1,
        spread=None,
        equality=f"{'; '.join(figures)}; {bytes_per_turn:.0f} bytes more a turn; {most.note}",
        versions=versions("pyarrow"),
    )


def _prepare(folder: Path) -> None:
    """A workspace with D0 and a validation set, and a tokenizer that loads without its model."""
    store = workspace(folder).open()
    for name in (curated.D0, curated.VALIDATION):
        curated.write(store, name, [_game(f"{name}-{number}") for number in range(20)])
    local_models.load(smollm2().model, smollm2().gguf_file).tokenizer.save_pretrained(folder / TOKENIZER)


def _draw_labels(store: Store) -> None:
    """Write the feedback table as both decoders would, unless it is there."""
    if read_manifest(store, "feedback", *HERE) is not None:
        return
    random = np.random.default_rng(0)

    def batches() -> Iterator[pa.RecordBatch]:
        columns = ["interaction_id", "round", "variant", "turn", "follow_up"]
        for batch in iter_batches(store, "turns", *([each] for each in HERE), columns):
            turns = batch.filter(pc.is_valid(batch.column("follow_up")))
            for kind, allowed in (("binary", (-1, 1)), ("ternary", (-1, 0, 1))):
                made = {
                    "decoder": pa.repeat(kind, len(turns)),
                    "label": pa.array(random.choice(allowed, len(turns)), pa.int8()),
                    "score": pa.array(random.normal(0, 2, len(turns)), pa.float32()),
                    "low_margin": pa.repeat(False, len(turns)),
                    "marked": pa.nulls(len(turns), pa.string()),
                    "cut": pa.repeat(False, len(turns)),
                    **{name: pa.repeat("0" * 64, len(turns)) for name in ("decoder_revision", "prompt_hash")},
                    "decoder_model": pa.repeat("drawn", len(turns)),
                    "thresholds": pa.repeat('{"positive": 0.0}', len(turns)),
                }
                arrays = [made[name] if name in made else turns.column(name) for name in FEEDBACK_SCHEMA.names]
                yield pa.RecordBatch.from_arrays(arrays, schema=FEEDBACK_SCHEMA)

    write_partition(store, "feedback", *HERE, batches(), inputs=[table_input(store, "turns", *HERE)])


def _game(name: str) -> InteractionLog:
    """Between people, who click all that they want one by one."""
    outcome = Outcome(targets=IMAGES[:3], success=True)
    return played(name, "select A", "select B", "select C", probability=None, variant="hh", outcome=outcome)


# --- stages, in a process of their own ----------------------------------------------------------------------------


class Interrupted(BaseException):
    """Stands for the end of the process."""


class WithoutModel(LabelScorer):
    """Scores by a checksum of the prompt's tokens, after all that is done around the model's passes."""

    prompts_left = 2**63

    def score(self, prompts: Sequence[str], *others: Any, **options: Any) -> Tensor:
        self.prompts_left -= len(prompts)
        if self.prompts_left < 0:
            raise Interrupted
        return super().score(prompts, *others, **options)

    def _score_batch(self, prefix: list[int], prompts: list[list[int]], labels: list[list[int]]) -> tuple[Tensor, int]:
        tree = Tree()
        for prompt in prompts:
            for label in labels:
                tree.add([*prompt, *label[:-1]])
        tree.sees()
        log_odds = [
            zlib.crc32(str(prompt).encode()) % 600 / 100 - 3.91 for prompt in prompts
        ]  # about half are positive
        half = len(labels) // 2
        by_prompt = [[odds] * half + [0.0] * (len(labels) - half) for odds in log_odds]
        by_token = [  # a label's first token has all of its score
            each
            for values in by_prompt
            for value, label in zip(values, labels, strict=True)
            for each in (value, *[0.0] * (len(label) - 1))
        ]
        return torch.tensor(by_token), len(tree)


def export_log(place: Workspace) -> tuple[int, str]:
    """Every record checked, and written as Parquet."""
    found = export(place.open(), ROUND)
    return found.turns, f"{found.turns:,} turns"


def decode_plan(place: Workspace) -> tuple[int, str]:
    """`decode_partition`, interrupted, gone on with, and asked once more."""
    store, config = place.open(), smollm2()
    binary, ternary = (replace(prompt, examples=()) for prompt in (config.binary, config.ternary))
    config = replace(config, binary=binary, ternary=ternary)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tokenizer = AutoTokenizer.from_pretrained(place.root / TOKENIZER)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **shape))
    local = local_models.LocalModel(model, tokenizer, None, "none")
    decoder = FeedbackDecoder(config, local)
    decoder.scorer = scorer = WithoutModel(local, config.token_budget)
    manifest = read_manifest(store, "turns", *HERE)
    assert manifest is not None
    scorer.prompts_left = manifest.rows // 2
    identity = {"decoder_model": "checksum"}
    with suppress(Interrupted):
        decode_partition(store, HERE, decoder, identity)
    scorer.prompts_left = WithoutModel.prompts_left
    second = decode_partition(store, HERE, decoder, identity)
    assert second.turns == manifest.rows * (TURNS_OF_A_GAME - 1) // TURNS_OF_A_GAME
    assert second.found or manifest.rows < 4 * TURNS, "nothing was found that was finished before the interruption"
    assert decode_partition(store, HERE, decoder, identity) == Decoded()
    return manifest.rows, f"{second.found:,} of {second.turns:,} turns with a follow-up found in finished shards"


def subsample(place: Workspace) -> tuple[int, str]:
    """The task of a round, without its run in Prefect."""
    found = subsample_variant.fn(place, tiny(), LEARNER, ROUND, curated.VALIDATION, [])
    store = place.open()
    turns, rows = read_manifest(store, "turns", *HERE), read_manifest(store, "training_sets", ROUND, LEARNER)
    assert turns is not None and rows is not None
    assert 0 < found.negatives_used * 5 <= (found.positives + found.rehearsal_turns) * 4
    labelled = f"{found.positives:,} positive, {found.negatives_used:,} of {found.negatives:,} negative turns"
    return turns.rows, f"{rows.rows:,} rows, {labelled}, {found.rehearsal_turns} of D0"


def report(place: Workspace) -> tuple[int, str]:
    """Evidence, tables, figures and page, as a round writes them."""
    store = place.open()
    evidence = gather(store, place.root.name, run=place.root, systems=[LEARNER])
    write(evidence, place.root / "report", store=store)
    return evidence.turns, f"{evidence.games:,} games"


STAGES: dict[str, Callable[[Workspace], tuple[int, str]]] = {
    "export": export_log,
    "decode plan": decode_plan,
    "subsample": subsample,
    "report": report,
}


def _status(field: str) -> float:
    """MiB of this process alone; ru_maxrss would carry over the peak of the process that started it."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.million", description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=SIZES)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--in", type=Path, dest="folder", help="run one stage here, in a workspace that is prepared")
    options = parser.parse_args()
    if options.folder is not None:
        _run(options.stages[0], workspace(options.folder))
        return
    for turns in options.turns:
        for stage, found in _measured(turns, options.stages):
            print(json.dumps({"stage": stage, **found._asdict()}), flush=True)


def _run(stage: str, place: Workspace) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    before, started, cpu = _status("VmRSS"), time.monotonic(), time.process_time()
    turns, note = STAGES[stage](place)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    print(json.dumps(Found(turns, seconds, cpu, before, _status("VmHWM"), note)))


if __name__ == "__main__":
    main()
