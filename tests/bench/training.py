"""Training, turns with a loss per second: FFT, RL and KTO against trainers on one example per turn.

Ours is a whole call of `training.train`: encoding, adapter, steps, and the saved checkpoint; for KTO the reference
pass too, spread over as many epochs as a round of the profile `tiny` makes. The peer is a whole `trainer.train()`.
Both adapt what the profile `tiny` adapts, words' embeddings too; with 135 million parameters, what the paper does.
Vision features are cached before the clock starts: they are computed once per picture for all rounds, variants and
seeds. Entropy term and label smoothing are off on both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from respect_core import variants
from respect_core.learning import batch_loss
from respect_core.learning import trainer as training
from respect_core.learning.gradients import passes
from respect_core.model.base import Base, attach_lora, save_adapter
from respect_core.model.chat import chat
from respect_core.model.packing import Encoded, collate, score
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import Objective, TrainingConfig
from tests.bench import games, models, peers
from tests.bench.flops import Shape
from tests.bench.record import Record, case, compare

KTO_EPOCHS = 3
CONFIGS = {"fft": variants.fft(), "rl": variants.rl(), "kto": replace(variants.kto(), kto_reference="initial")}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setting:
    """How much of a model size is measured: a peer with 100 million parameters takes seconds for a turn."""

    size: str
    games: int  # ours
    peer_games: int
    batches: tuple[int, ...]  # that the peer may choose from
    repeats: int


TINY = Setting("tiny", games=24, peer_games=8, batches=(8, 32), repeats=3)
QUICK = Setting("tiny", games=16, peer_games=2, batches=(8,), repeats=1)
LARGE = Setting("135m", games=2, peer_games=1, batches=(1, 3), repeats=1)


@case("fft")
def fft(quick: bool) -> Iterator[Record]:
    return _all("fft", "sft", "trl.SFTTrainer", 5.0, quick)


@case("rl")
def rl(quick: bool) -> Iterator[Record]:
    return _all("rl", "plain", "transformers.Trainer", 5.0, quick)


@case("kto")
def kto(quick: bool) -> Iterator[Record]:
    return _all("kto", "kto", "trl.KTOTrainer", 12.0, quick)


@case("authors")
def authors(quick: bool) -> Iterator[Record]:
    """The authors' settings: batches of 2 turns, 32 of them a step. Reported only."""
    if not quick:
        for turns in games.LENGTHS:
            yield _measure("authors", "plain", "authors' way", None, TINY, turns, 2)
        yield _measure("authors", "plain", "authors' way", None, LARGE, games.LENGTHS[1], 2)


def _all(name: str, kind: str, peer: str, bar: float, quick: bool) -> Iterator[Record]:
    for setting in (QUICK,) if quick else (TINY, LARGE):
        batch = _best_batch(kind, setting, game_config(name)) if not quick else setting.batches[0]
        for turns in (6,) if quick else games.LENGTHS:
            yield _measure(name, kind, peer, bar, setting, turns, batch)


def game_config(name: str) -> TrainingConfig:
    """Table 1's, for one step over all games an epoch. SFTTrainer takes the mean over tokens."""
    plain: dict[str, Any] = {
        "entropy_weight": 0.0,
        "label_smoothing": 0.0,
        "length_normalised": name in ("rl", "authors"),
    }
    config = CONFIGS.get(name, CONFIGS["fft"])
    return replace(config, **plain, batch_turns=64, warmup_steps=0, epochs=KTO_EPOCHS if name == "kto" else 1)


@lru_cache(maxsize=16)
def _best_batch(kind: str, setting: Setting, config: TrainingConfig) -> int:
    """The batch size at which the peer is fastest, tried on games of the shortest length, warmed up."""
    data = _games(setting.peer_games, games.LENGTHS[0], config)
    seconds: dict[int, float] = {}
    for batch in setting.batches:
        if kind == "kto":  # which refuses batches of one: a turn needs another one's action
            batch = max(batch, 2)
        trainer = peers.trainer(kind, models.base(setting.size), data, config, models.lora(setting.size), batch)
        trainer.train()
        started = time.perf_counter()
        trainer.train()
        seconds[batch] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def _games(count: int, turns: int, config: TrainingConfig) -> tuple[Example, ...]:
    return games.examples(count, turns, positives=config.objective is Objective.FFT)


def _measure(
    name: str, kind: str, peer_name: str, bar: float | None, setting: Setting, turns: int, batch: int
) -> Record:
    config = game_config(name)
    base, features, lora = models.base(setting.size), models.features(setting.size), models.lora(setting.size)
    data, peer_data = (_games(count, turns, config) for count in (setting.games, setting.peer_games))
    features.prepare(image for example in data for image in example.interaction.context)
    equality = check_equal(kind, setting.size, peer_data[:2], config)
    trainer = peers.trainer(kind, base, peer_data, config, lora, batch)
    counting: Any = trainer.data_collator
    work = sum(batch.turns for _, batch in training.plan_steps(data, config, 0))

    def peer() -> None:
        counting.tokens, counting.flops = 0, 0.0
        trainer.train()

    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        save_adapter(attach_lora(base, lora, seed=0), start)

        def ours() -> None:
            adapter = start if config.from_previous_adapter else None
            run = Path(folder) / "run"
            training.train(base, data, None, config, lora, 0, run, features=features, init_adapter=adapter)

        tokens, flops = _passes(base, data, config)
        record = compare(
            name,
            setting.size,
            turns,
            ours=ours,
            peer=peer,
            work=work,
            peer_work=len(trainer.train_dataset),
            unit="turns/s",
            peer_name=f"{peer_name}, batches of {batch}",
            bar=bar,
            equality=equality,
            repeats=setting.repeats,
            warm_up=setting.size == "tiny",  # with the larger model a run takes a minute, and starting is none of it
            packages=("peft", "trl"),
        )
    # Scaled to our number of turns, so that the counts can be compared.
    share = work / len(trainer.train_dataset)
    return replace(
        record,
        tokens_ours=tokens,
        tokens_peer=round(counting.tokens * share),
        flops_ours=flops,
        flops_peer=counting.flops * share,
    )


def _passes(base: Base, data: Sequence[Example], config: TrainingConfig) -> tuple[int, float]:
    """Tokens and FLOPs of a run of ours, with the padding of the passes it makes."""
    shape, tokens, flops = Shape.of(base.model), 0, 0.0
    pad, size = chat(base.processor).pad_id, config.micro_batch_interactions

    def count(rows: Sequence[Encoded], *, backward: bool) -> None:
        nonlocal tokens, flops
        batch = collate(rows, pad)
        lengths = [batch.input_ids.shape[1]] * batch.input_ids.shape[0]
        work = {
            "logits": len(batch.targets),
            "connected": len({image for row in batch.images for image in row}),
        }
        tokens += batch.input_ids.numel()
        flops += (shape.training if backward else shape.forward)(lengths, **work)

    if config.objective is Objective.KTO:
        scored = [batch_loss.encode_game(game, base, config) for game in _unshuffled(data)]
        for rows in passes(scored, size, base.device):
            count(rows, backward=False)
    for _, step in training.plan_steps(data, config, 0):
        encoded = [batch_loss.encode_game(game, base, config) for game in step.games]
        for rows in passes(encoded, size, base.device):
            count(rows, backward=True)
    return tokens, flops


def _unshuffled(data: Sequence[Example]) -> list[Game]:
    order = tuple(range(len(data[0].interaction.context)))
    return [Game(example.interaction, tuple(label or None for label in example.labels), order) for example in data]


def check_equal(kind: str, size: str, data: Sequence[Example], config: TrainingConfig) -> str:
    """Both losses of the same turns without dropout, from adapters far from zero, images in logged order.

    Raises:
        AssertionError: they differ by more than TOLERANCE.
    """
    base, features, lora = models.base(size), models.features(size), models.lora(size)
    played = {game.interaction.interaction_id: game for game in _unshuffled(data)}
    rows = [batch_loss.encode_game(game, base, config) for game in played.values()]
    trainer = peers.trainer(kind, base, data, config, lora, 256)
    model = attach_lora(base, lora, seed=0).eval()
    reference: batch_loss.References = {}
    if config.objective is Objective.KTO:  # the trainer copied its own from the same fresh adapter
        reference = batch_loss.references(model, data, base, features, config)
    for each in (model, trainer.model.eval()):
        models.push(each)
    batch = trainer.data_collator(list(trainer.train_dataset))
    if kind == "kto":
        batch |= _mismatched(trainer)
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, dict(batch)))
        scores = score(model, collate(rows, chat(base.processor).pad_id), features)
        loss_K = batch_loss.turn_losses(scores, played, config, reference).loss
    ours = float(loss_K.sum() / scores.mask.sum() if kind == "sft" else loss_K.mean())
    difference = abs(ours - theirs)
    assert difference < TOLERANCE, f"{kind}: the losses are {ours} and {theirs}"
    return f"losses {ours:.4f}, apart by {difference:.0e}"


def _mismatched(trainer: Any) -> dict[str, Any]:
    """The KL term's inputs with our alternative actions in place of TRL's mismatched pairs."""
    rows = [dict(row) | {"completion": row["alternative"]} for row in trainer.train_dataset]
    batch = trainer.data_collator.collate(rows)
    return {f"KL_{name}": batch[name] for name in ("input_ids", "attention_mask", "completion_mask")}
