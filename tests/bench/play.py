"""Play, games per second: the policy with kept keys and values against one `generate` call per turn.

Both play constrained to legal actions: the peer through `prefix_allowed_tokens_fn`, one game at a time, every turn's
prompt and pictures anew; keys and values are cached within its call, not from turn to turn. With greedy decoding both
must take the same actions in every game. The clock runs with sampling at temperature 1, where the two draw different
games; so turns are counted, and a side's games per second are its turns per second over the mean length of our games.
Tokens and FLOPs are counted as they pass through the model, and the peer's scaled to our number of turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

    games: int
    peer_games: int
    same_games: int
    repeats: int


TINY = Setting(games=64, peer_games=4, same_games=3, repeats=3)
QUICK = Setting(games=32, peer_games=2, same_games=1, repeats=1)
LARGE = Setting(games=8, peer_games=1, same_games=1, repeats=1)


@dataclass
class OneCallPerTurn:
    """The peer: a listener that calls `generate` for each turn."""

    size: str
    model: Any
    sample: bool

    @torch.no_grad()
    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        return [self._act(interaction) for interaction in interactions]

    def _act(self, interaction: Interaction) -> Act:
        processor = models.base(self.size).processor
        talk = chat(processor)
        inputs = peers.prompts([One(interaction, "", "", 1, 1.0)], processor)
        width = inputs["input_ids"].shape[1]
        written = self.model.generate(
            **inputs,
            max_new_tokens=32,
            do_sample=self.sample,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            prefix_allowed_tokens_fn=prefix_allowed_tokens(talk, [interaction], width),
            eos_token_id=talk.end_id,
            pad_token_id=talk.pad_id,
        )
        return Act(processor.tokenizer.decode(written[0, width:], skip_special_tokens=True).strip(), 1.0)


@case("play")
def play(quick: bool) -> Iterator[Record]:
    yield measure("tiny", QUICK if quick else TINY)
    if not quick:
        yield measure("135m", LARGE)


def measure(size: str, setting: Setting) -> Record:
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

    greedy = Policy(base, model, features, temperature=0.0)
    one_call = OneCallPerTurn(size, model, sample=False)
    actions = [
        [[turn.action for turn in log.turns] for log in run(listener, setting.same_games)]
        for listener in (greedy, one_call)
    ]
    assert actions[0] == actions[1], "greedy play took different actions"
    sampling = OneCallPerTurn(size, model, sample=True)
    with counting(model) as counts:
        ours = turns(run(Policy(base, model, features), setting.games))
    with counting(model) as peer_counts:
        theirs = turns(run(sampling, setting.peer_games))
    share = ours / theirs
    return compare(
        "play",
        size,
        None,
        ours=lambda: run(Policy(base, model, features), setting.games),
        peer=lambda: run(sampling, setting.peer_games),
        work=setting.games,
        peer_work=setting.games / share,
        unit="games/s",
        peer_name="one generate call per turn",
        bar=BAR,
        equality=f"greedy, the same actions in all {sum(map(len, actions[0]))} turns of {setting.same_games} games",
        tokens=(counts.tokens, round(share * peer_counts.tokens)),
        flops=(counts.flops, share * peer_counts.flops),
        repeats=setting.repeats,
        warm_up=False,
    )
