"""Training, turns with a loss per second: FFT, RL and KTO against trainers on one example per turn.

Ours is a whole call of `training.train`: encoding, adapter, steps, and the saved checkpoint; for KTO the reference
pass too, spread over as many epochs as a round of the profile `tiny` makes. The peer is a whole `trainer.train()` on
the same games, in steps of as many turns, at the batch size that is fastest for it on games of that length. Both adapt
what the profile `tiny` adapts, words' embeddings too; with 135 million parameters, what the paper does.

Vision features are cached before the clock starts: they are computed once per picture for all rounds, variants and
seeds. Rows called "features kept" are against a peer that keeps them too. Entropy term and label smoothing are off on
both sides, but for the rows called "every term", which have those of the profile `tiny`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from respect_core import profiles, variants
from respect_core.learning import batch_loss
from respect_core.learning import trainer as training
from respect_core.learning.gradients import passes
from respect_core.model.base import Base, attach_lora, save_adapter
from respect_core.model.chat import chat
from respect_core.model.packing import Encoded, collate, score
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import Objective, TrainingConfig
from tests.bench import conversations, games, models, peers
from tests.bench.flops import Shape
from tests.bench.record import Record, case, compare

KTO_EPOCHS = 3
CONFIGS = {"fft": variants.fft(), "rl": variants.rl(), "kto": replace(variants.kto(), kto_reference="initial")}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setting:
    """How much of a model size is measured: a peer with 100 million parameters takes seconds for a turn."""

    size: str
    games: int  # of each side
    tried: int  # games on which the peer's batch size is chosen
    batches: tuple[int, ...]  # that the peer may choose from
    repeats: int
    warm_up: bool = True


TINY = Setting("tiny", games=24, tried=8, batches=(8, 16, 32), repeats=3)
QUICK = Setting("tiny", games=4, tried=1, batches=(8,), repeats=1)
LARGE = Setting("135m", games=2, tried=1, batches=(2, 8), repeats=2)
MIDDLE = games.LENGTHS[1]


@dataclass(frozen=True)
class Method:
    """A training case: ours, and what it is measured against."""

    name: str
    kind: str  # of `peers.trainer`
    peer: str
    bar: float | None
    config: TrainingConfig
    grouped: bool = True


def _method(name: str, kind: str, peer: str, bar: float | None, **changes: Any) -> Method:
    """With Table 1's settings, and no further terms. SFTTrainer takes the mean over tokens."""
    plain: dict[str, Any] = {"entropy_weight": 0.0, "label_smoothing": 0.0, "length_normalised": kind == "plain"}
    config = replace(
        CONFIGS.get(name, CONFIGS["fft"]),
        **plain | {"batch_turns": 64, "warmup_steps": 0, "epochs": KTO_EPOCHS if kind == "kto" else 1} | changes,
    )
    return Method(name, kind, peer, bar, config, grouped=name != "authors")


FFT = _method("fft", "sft", "trl.SFTTrainer", 5.0)
RL = _method("rl", "plain", "transformers.Trainer", 5.0)
KTO = _method("kto", "kto", "trl.KTOTrainer", 12.0)
AUTHORS = _method("authors", "plain", "authors' way", None)


def _every_term(objective: Objective, kind: str, peer: str) -> Method:
    """What the profile `tiny` ships, for one step over all games an epoch."""
    shipped = profiles.tiny().training[objective]
    terms = {
        name: getattr(shipped, name)
        for name in ("entropy_weight", "label_smoothing", "length_normalised", "kto_desirable", "kto_undesirable")
    }
    return _method(str(objective), kind, peer, None, **terms)


EVERY_TERM = {
    "fft": _every_term(Objective.FFT, "plain", "transformers.Trainer"),  # SFTTrainer has no entropy term
    "rl": _every_term(Objective.RL, "plain", "transformers.Trainer"),
    "kto": _every_term(Objective.KTO, "kto", "trl.KTOTrainer without the entropy term"),
}


@case("fft")
def fft(quick: bool) -> Iterator[Record]:
    return _all(FFT, quick)


@case("rl")
def rl(quick: bool) -> Iterator[Record]:
    return _all(RL, quick)


@case("kto")
def kto(quick: bool) -> Iterator[Record]:
    return _all(KTO, quick)


@case("authors")
def authors(quick: bool) -> Iterator[Record]:
    """The authors' settings: batches of 2 turns at random, 32 of them a step. Reported only."""
    if not quick:
        for turns in games.LENGTHS:
            yield measure(AUTHORS, replace(TINY, batches=(2,)), turns)
        yield measure(AUTHORS, replace(LARGE, batches=(2,)), MIDDLE)


def _all(method: Method, quick: bool) -> Iterator[Record]:
    if quick:
        yield measure(method, QUICK, MIDDLE)
        return
    for turns in games.LENGTHS:
        yield measure(method, TINY, turns)
        yield measure(method, TINY, turns, keeps=True)
    yield measure(EVERY_TERM[method.name], TINY, MIDDLE, said="every term")
    for turns in games.LENGTHS:
        yield measure(method, LARGE, turns)
    yield measure(method, LARGE, MIDDLE, keeps=True)


def _games(size: str, count: int, turns: int, config: TrainingConfig) -> tuple[Example, ...]:
    make = conversations.examples if size == models.CHAT else games.examples
    return make(count, turns, positives=config.objective is Objective.FFT)


def _best_batch(method: Method, setting: Setting, turns: int, kept: peers.Kept | None) -> int:
    """The batch size at which the peer is fastest on games of this length, warmed up."""
    if len(setting.batches) == 1:
        return setting.batches[0]
    data = _games(setting.size, setting.tried, turns, method.config)
    seconds: dict[int, float] = {}
    for batch in setting.batches:
        trainer = _trainer(method, setting.size, data, batch, kept)
        trainer.train()
        started = time.perf_counter()
        trainer.train()
        seconds[batch] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def _trainer(method: Method, size: str, data: Sequence[Example], batch: int, kept: peers.Kept | None) -> Any:
    base, lora = models.base(size), models.lora(size)
    return peers.trainer(method.kind, base, data, method.config, lora, batch, kept=kept, grouped=method.grouped)


def measure(method: Method, setting: Setting, turns: int, *, keeps: bool = False, said: str = "") -> Record:
    """Games of a length, against a peer that keeps vision features or not."""
    config, said = method.config, said or ("features kept" if keeps else "")
    base, features, lora = models.base(setting.size), models.features(setting.size), models.lora(setting.size)
    data = _games(setting.size, setting.games, turns, config)
    if images := [image for example in data for image in example.interaction.context]:
        features.prepare(images)
    kept = peers.Kept(features) if keeps else None
    equality = check_equal(method, setting.size, data[:2], kept)
    batch = _best_batch(method, setting, turns, kept)
    trainer = _trainer(method, setting.size, data, batch, kept)
    counting: Any = trainer.data_collator
    work = sum(step.turns for _, step in training.plan_steps(data, config, 0))

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
            method.name,
            f"{setting.size}, {said}" if said else setting.size,
            turns,
            ours=ours,
            peer=peer,
            work=work,
            peer_work=len(trainer.train_dataset),
            unit="turns/s",
            peer_name=f"{method.peer}, batches of {batch}",
            bar=None if said else method.bar,
            equality=equality,
            repeats=setting.repeats,
            warm_up=setting.warm_up,
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


def check_equal(method: Method, size: str, data: Sequence[Example], kept: peers.Kept | None) -> str:
    """Both losses of the same turns without dropout, from adapters far from zero, images in logged order.

    Raises:
        AssertionError: they differ by more than TOLERANCE.
    """
    base, features, lora, config = models.base(size), models.features(size), models.lora(size), method.config
    if method.kind == "kto":  # TRL has no such term
        config = replace(config, entropy_weight=0.0)
    played = {game.interaction.interaction_id: game for game in _unshuffled(data)}
    rows = [batch_loss.encode_game(game, base, config) for game in played.values()]
    trainer = _trainer(method, size, data, 256, kept)
    model = attach_lora(base, lora, seed=0).eval()
    reference: batch_loss.References = {}
    if config.objective is Objective.KTO:  # the trainer copied its own from the same fresh adapter
        reference = batch_loss.references(model, data, base, features, config)
    for each in (model, trainer.model.eval()):
        models.push(each)
    batch = trainer.data_collator(list(trainer.train_dataset))
    if method.kind == "kto" and not base.scenario.free_text:
        batch |= _mismatched(trainer)
    terms = {"with_entropy": bool(config.entropy_weight), "with_mean": bool(config.label_smoothing)}
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model, dict(batch)))
        scores = score(model, collate(rows, chat(base.processor).pad_id), features, **terms)
        loss_K = batch_loss.turn_losses(scores, played, config, reference).loss
    ours = float(loss_K.sum() / scores.mask.sum() if method.kind == "sft" else loss_K.mean())
    difference = abs(ours - theirs)
    assert difference < TOLERANCE, f"{method.name}: the losses are {ours} and {theirs}"
    return f"losses {ours:.4f}, apart by {difference:.0e}"


def _mismatched(trainer: Any) -> dict[str, Any]:
    """The KL term's inputs with our alternative actions in place of TRL's mismatched pairs."""
    rows = [dict(row) | {"completion": row["alternative"]} for row in trainer.train_dataset]
    batch = trainer.data_collator.collate(rows)
    return {f"KL_{name}": batch[name] for name in ("input_ids", "attention_mask", "completion_mask")}
