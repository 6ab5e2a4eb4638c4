"""The phases: the code of the project on a model of this shape, as a round calls it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from respect_core import variants
from respect_core.acting.policy import Policy
from respect_core.feedback import prompts
from respect_core.feedback.prompts import Exchange
from respect_core.feedback.scoring import LabelScorer
from respect_core.learning import trainer
from respect_core.learning.validation import exact_match
from respect_core.model import base as bases
from respect_core.model.base import Base, attach_lora, save_adapter
from respect_core.model.local import LocalModel
from respect_core.model.lora import make_lean
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref.game import Game
from respect_core.variants import LoraConfig, Objective, TrainingConfig
from tests.bench.gpu import games
from tests.bench.gpu.measure import Bench, OnDevice, Work

WORDS = ("right", "wrong")  # of feedback; the tokenizer spells others letter by letter
LORA = LoraConfig()


@dataclass(frozen=True)
class Scale:
    """How much each phase does at most."""

    follow_ups: int = 1000
    budgets: tuple[int, ...] = (2048, 8192)  # tokens of a pass in decoding; the profile has the first
    pieces: int = 4  # into which decoding and validation are cut, so that they can end early
    players: int = 64  # games at once
    play_turns: int = 3
    batch_turns: int = 64  # in an optimizer step
    steps: int = 3
    held_out: int = 64  # games to validate on
    turns: int = 6  # of a game
    product: int = 8192  # side of the matrices that give the device's peak


TOY = Scale(
    follow_ups=16, budgets=(256,), pieces=2, players=2, play_turns=2, batch_turns=4, steps=1, held_out=2, turns=3,
    product=256,
)  # fmt: skip

Phase = Callable[[Bench, Base, VisionFeatures, Scale, float], Iterator[OnDevice]]
"""The last argument: seconds that it may take."""


def vision(bench: Bench, base: Base, features: VisionFeatures, scale: Scale, seconds: float) -> Iterator[OnDevice]:
    """The frozen tower over all pictures, once, from Pillow's pictures to features on the device."""
    pictures = sorted(games.Pictures(1))
    warm, rest = pictures[: len(pictures) // 4], pictures[len(pictures) // 4 :]
    features.prepare(warm)
    with bench.measuring(base.model) as work:
        features.prepare(rest)
    work.turns = len(rest)
    yield bench.record("gpu-vision", base.name, work, unit="pictures/s", note="with Pillow's resizing, one core")


def decode(bench: Bench, base: Base, features: VisionFeatures, scale: Scale, seconds: float) -> Iterator[OnDevice]:
    """Feedback: label words after figure 3's prompt, the start that all share cached."""
    local = LocalModel(base.model, base.processor.tokenizer, None, base.fingerprint)
    exchanges = games.exchanges(scale.follow_ups, scale.turns)
    texts = [_figure_3(base, each) for each in exchanges]
    samples = [_figure_3(base, each) for each in (Exchange(None, "a", "b", "c"), Exchange("Z", "9", "8", "7"))]
    size = -(-len(texts) // scale.pieces)
    for budget in scale.budgets:
        scorer = LabelScorer(local, budget)
        scorer.score(texts[: size // 4], WORDS, samples)
        with bench.measuring(base.model) as work, torch.inference_mode():
            for piece in bench.pieces(scale.pieces, seconds / len(scale.budgets)):
                scorer.score(some := texts[piece * size : (piece + 1) * size], WORDS, samples)
                work.turns += len(some)
        yield bench.record(
            f"gpu-decode-{budget}", base.name, work, turns_per_game=scale.turns,
            note=_cut(work.turns, len(texts), "turns") or f"{len(texts)} turns, passes of {budget} tokens",
        )  # fmt: skip


def _figure_3(base: Base, exchange: Exchange) -> str:
    text = prompts.zero_shot("binary").text(exchange)
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return str(base.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def act(bench: Bench, base: Base, features: VisionFeatures, scale: Scale, seconds: float) -> Iterator[OnDevice]:
    """Play: a policy with an adapter answers many games at once, keys and values of earlier turns kept."""
    players = games.drawn(scale.players, "play")
    features.prepare(image for context in players for image in context.images)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(attach_lora(base, LORA, seed=0), Path(folder))
        adapted = Policy(base, Path(folder), features, batch_size=scale.players)
    plain = Policy(base, None, features, batch_size=scale.players)

    def play(policy: Policy, seconds: float) -> Work:
        playing = [Game(context) for context in players]
        with bench.measuring(policy.model) as work:
            for _ in bench.pieces(scale.play_turns, seconds):
                playing = [game for game in playing if not game.over]
                for game in playing:
                    game.say(games.utterance(random.Random(f"{game.context.id} {len(game.turns)}")))
                acts = policy.act([game.seen_by_listener() for game in playing])
                for game, answer in zip(playing, acts, strict=True):
                    game.act(answer.action, answer.probability)
                work.turns += len(playing)
        return work

    for policy in (adapted, plain):  # the first kernels of each shape are compiled or chosen here
        policy.act([_asked(context) for context in players[:2]])
    ours = play(adapted, seconds / 2)
    yield bench.record(
        "gpu-act", base.name, ours, peer=play(plain, seconds / 2),
        peer_name="the base alone, which is what an adapter folded in would cost",
        note=_cut(ours.turns, scale.play_turns * len(players), "turns") or f"{len(players)} games at once",
    )  # fmt: skip


def _asked(context: Any) -> Any:
    game = Game(replace(context, id=f"warm-up {context.id}"))
    game.say(games.utterance(random.Random(0), first=True))
    return game.seen_by_listener()


def train(
    bench: Bench, base: Base, features: VisionFeatures, scale: Scale, seconds: float, objective: Objective
) -> Iterator[OnDevice]:
    """A call of `training.train` with Table 1's settings: encoding, references, steps, the saved adapter."""
    config = configuration(objective, scale)
    first, size = steps(bench, base, features, scale, replace(config, max_steps=1))  # which also warms up
    count = max(1, min(scale.steps, int(seconds / first.seconds) - 1))
    note = f"steps: {count}" + (f", cut from {scale.steps}" if count < scale.steps else "")
    note += f"; at most {size} games a pass"
    if size < config.micro_batch_interactions:
        note += f", since {config.micro_batch_interactions} need too much memory"
    config = replace(config, max_steps=count, micro_batch_interactions=size)
    work, _ = steps(bench, base, features, scale, config)
    case = f"gpu-{objective}"
    yield bench.record(case, base.name, work, turns_per_game=scale.turns, note=note)
    if objective is Objective.FFT and base.device.type != "cpu":
        with patch.object(bases, "make_lean", partial(make_lean, everywhere=True)):
            lean, _ = steps(bench, base, features, scale, config)
        yield bench.record(
            f"{case}-lean", base.name, lean, turns_per_game=scale.turns, peer=work, peer_name="PEFT's own LoRA layers",
            note="adapters as on a CPU (respect_core/model/lora.py), off by default here",
        )  # fmt: skip


def configuration(objective: Objective, scale: Scale) -> TrainingConfig:
    """Table 1's, with a step over about all games, and no reference from a log of another policy."""
    make = {Objective.FFT: variants.fft, Objective.RL: variants.rl, Objective.KTO: variants.kto}[objective]
    return replace(make(), batch_turns=scale.batch_turns, kto_reference="initial", warmup_steps=0)


def steps(bench: Bench, base: Base, features: VisionFeatures, scale: Scale, config: TrainingConfig) -> tuple[Work, int]:
    """Train from the beginning; also returns how many games a pass had in the end."""
    data = games.examples(-(-scale.batch_turns // scale.turns) + 1, scale.turns)
    features.prepare(image for example in data for image in example.interaction.context)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start" if config.from_previous_adapter else None
        if start:
            save_adapter(attach_lora(base, LORA, seed=0), start)
        with bench.measuring(base.model) as work:
            result = trainer.train(
                base, data, None, config, LORA, 0, Path(folder) / "run", features=features, init_adapter=start
            )  # fmt: skip
    work.turns = result.turns
    return work, result.history[-1].micro_batch


def validate(bench: Bench, base: Base, features: VisionFeatures, scale: Scale, seconds: float) -> Iterator[OnDevice]:
    """Exact match by one pass over each game, of a model in training."""
    held_out = [example.interaction for example in games.examples(scale.held_out, scale.turns)]
    features.prepare(image for game in held_out for image in game.context)
    policy = Policy(base, attach_lora(base, LORA, seed=0), features)
    size = -(-len(held_out) // scale.pieces)
    exact_match(policy, held_out[:size], count_illegal=False)
    with bench.measuring(policy.model) as work:
        for piece in bench.pieces(scale.pieces, seconds):
            some = held_out[piece * size : (piece + 1) * size]
            work.turns += exact_match(policy, some, count_illegal=False).n_turns
    note = _cut(work.turns, scale.turns * len(held_out), "turns") or f"{len(held_out)} games"
    yield bench.record("gpu-validation", base.name, work, turns_per_game=scale.turns, note=note)


def _cut(done: float, planned: int, unit: str) -> str:
    return f"cut to {done:.0f} of {planned} {unit}" if done < planned else ""
