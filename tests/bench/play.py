"""Play, games per second: the policy with kept keys and values against `generate`, one call per turn or in batches.

Both play constrained to legal actions: the peers through `prefix_allowed_tokens_fn`, every turn's prompt and pictures
anew; keys and values are cached within a call, not from turn to turn. One peer answers one game at a time, the other
all games that are at the same turn, as many games as ours, in one padded batch. With greedy decoding all must take the
same actions in every game. The clock runs with sampling at temperature 1, where sides draw different games; so turns
are counted, and a side's games per second are its turns per second over the mean length of our games. Tokens and FLOPs
are counted as they pass through the model, and a peer's scaled to our number of turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from respect_core.acting.listener import Act, Listener
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.measuring.world import Deployment
from respect_core.measuring.world import play as play_games
from respect_core.model.base import attach_lora
from respect_core.model.chat import chat
from respect_core.model.lora import merged
from respect_core.scenarios.multiref import contexts, speakers
from respect_core.scenarios.multiref.play import simulated_games
from tests.bench import models, peers
from tests.bench.flops import counting
from tests.bench.games import One
from tests.bench.record import Record, case, compare
from tests.prefix_function import prefix_allowed_tokens

BAR = 4.0


@dataclass(frozen=True)
class Setting:
    """How many games each side plays, and how many to compare actions in."""

    games: int  # of ours, and of the peer with batches
    single_games: int  # of the peer without
    same_games: int
    repeats: int


TINY = Setting(games=64, single_games=4, same_games=3, repeats=3)
QUICK = Setting(games=16, single_games=1, same_games=2, repeats=1)
LARGE = Setting(games=8, single_games=1, same_games=1, repeats=2)


@dataclass
class Generate:
    """The peers: a listener that calls `generate` for `most` games at a time."""

    size: str
    model: Any
    most: int
    sample: bool

    @torch.no_grad()
    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        starts = range(0, len(interactions), self.most)
        return [act for start in starts for act in self._act(interactions[start : start + self.most])]

    def _act(self, interactions: Sequence[Interaction]) -> list[Act]:
        processor = models.base(self.size).processor
        talk = chat(processor)
        inputs = peers.prompts([One(each, "", "", 1, 1.0) for each in interactions], processor)
        width = inputs["input_ids"].shape[1]
        written = self.model.generate(
            **inputs,
            max_new_tokens=32,
            do_sample=self.sample,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            prefix_allowed_tokens_fn=prefix_allowed_tokens(talk, interactions, width),
            eos_token_id=talk.end_id,
            pad_token_id=talk.pad_id,
        )
        texts = processor.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return [Act(text.strip(), 1.0) for text in texts]


@case("play")
def play(quick: bool) -> Iterator[Record]:
    yield from measure("tiny", QUICK if quick else TINY)
    if not quick:
        yield from measure("135m", LARGE)


def measure(size: str, setting: Setting) -> Iterator[Record]:
    """Games on unseen images with the users' speakers."""
    base, features = models.base(size), models.features(size)
    pool = models.pictures().pool
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    played = contexts.sample(pool.main, setting.games, "bench-play")
    features.prepare(image for game in played for image in game.images)
    model = merged(models.push(attach_lora(base, models.lora(size), seed=0)))  # on both sides, as deployed

    def run(listener: Listener, count: int) -> list[InteractionLog]:
        torch.manual_seed(0)
        deployment = Deployment(0, "bench", PolicyIdentity(name=size, version="0"), "bench")
        return play_games(listener, simulated_games(played[:count], factory, deployment))

    def turns(logs: Sequence[InteractionLog]) -> int:
        return sum(len(log.turns) for log in logs)

    def actions(listener: Listener) -> list[list[str]]:
        return [[turn.action for turn in log.turns] for log in run(listener, setting.same_games)]

    greedy = actions(Policy(base, model, features, temperature=0.0))
    with counting(model) as counts:
        ours = turns(run(Policy(base, model, features), setting.games))
    for said, most, games in (("", 1, setting.single_games), (", batches", setting.games, setting.games)):
        assert actions(Generate(size, model, most, sample=False)) == greedy, "greedy play took different actions"
        sampling = Generate(size, model, most, sample=True)
        with counting(model) as peer_counts:
            theirs = turns(run(sampling, games))
        share = ours / theirs
        yield compare(
            "play",
            size + said,
            None,
            ours=lambda: run(Policy(base, model, features), setting.games),
            peer=partial(run, sampling, games),
            work=setting.games,
            peer_work=setting.games / share,
            unit="games/s",
            peer_name="one generate call per turn" if most == 1 else f"generate, batches of {most}",
            bar=BAR if most == 1 else None,
            equality=f"greedy, the same actions in all {sum(map(len, greedy))} turns of {setting.same_games} games",
            tokens=(counts.tokens, round(share * peer_counts.tokens)),
            flops=(counts.flops, share * peer_counts.flops),
            repeats=setting.repeats,
            warm_up=False,
        )
