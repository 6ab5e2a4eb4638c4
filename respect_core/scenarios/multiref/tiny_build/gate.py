"""Judge a base model by play.

`python -m respect_core.scenarios.multiref.tiny_build.gate [MODEL] --games 100 [--seeded]`

Teacher-forced accuracy overstates how well a model plays, so play decides. Games are on main-split tangrams, unseen in
training, at temperature 1. `--seeded` first tunes a policy on D0, as a study does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyarrow as pa
import torch
from PIL import Image

from respect_core import profiles, tiny
from respect_core.acting.policy import Policy
from respect_core.learning import trainer
from respect_core.log.records import InteractionLog, PolicyIdentity, turn_rows
from respect_core.measuring.world import Deployment, play
from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref import contexts, speakers, tangrams
from respect_core.scenarios.multiref.play import simulated_games
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.schemas import TRAINING_SET_SCHEMA
from respect_core.training_data import sampling
from respect_core.training_data.rehearsal import rehearsal


class Drawings(Mapping[str, Image.Image]):
    """Pictures of the procedural pool, drawn on demand."""

    def __init__(self) -> None:
        self.pool = tangrams.procedural_pool()

    def __getitem__(self, image: str) -> Image.Image:
        return tangrams.render(self.pool.tangrams[image])

    def __iter__(self) -> Iterator[str]:
        return iter(self.pool.tangrams)

    def __len__(self) -> int:
        return len(self.pool.tangrams)


def seed_policy(base: Base, features: VisionFeatures, share: float, folder: Path) -> Path:
    """Tune an adapter on the profile's D0 games, and return that of its last step."""
    profile, pool = profiles.tiny(), tangrams.procedural_pool()
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams), share=share)
    games = contexts.sample(pool.development, profile.seed_games, "d0")
    rows = [row for log in speakers.human_games(games, factory, seed="d0") for row in turn_rows(log)]
    table = pa.Table.from_pylist(rehearsal(rows, SCENARIO), schema=TRAINING_SET_SCHEMA)
    result = trainer.train(
        base, sampling.examples(table), None, profile.seed_training, profile.lora, 0, folder, features=features
    )
    return result.checkpoints[-1].adapter


def measure(logs: list[InteractionLog]) -> str:
    """Describe success and turns per game in a line of text."""
    wins = [log.outcome is not None and log.outcome.success for log in logs]
    turns = sum(len(log.turns) for log in logs)
    return f"games {len(logs)} success {sum(wins) / len(wins):.3f} turns {turns / len(logs):.2f}"


def main() -> None:
    """Play games and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(tiny.path()))
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, speakers.FIGURATIVE_SHARE])
    parser.add_argument("--seeded", action="store_true", help="tune on D0 first, with speakers of each share")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    base = load_base(arguments.model, SCENARIO)
    features = VisionFeatures(base, Drawings())
    pool = tangrams.procedural_pool()
    values = speakers.values_of(pool.tangrams)
    for share in arguments.shares:
        with tempfile.TemporaryDirectory() as folder:
            adapter = seed_policy(base, features, share, Path(folder)) if arguments.seeded else None
            policy = Policy(base, adapter, features)
            games = contexts.sample(pool.main, arguments.games, "gate")
            identity = PolicyIdentity(name="tiny", version="0")
            deployment = Deployment(0, "seed" if arguments.seeded else "base", identity, "gate")
            factory = speakers.speaker_factory(values, share=share)
            logs = play(policy, simulated_games(games, factory, deployment))
        print(f"share {share} {'seeded' if arguments.seeded else 'base'} {measure(logs)}", flush=True)


if __name__ == "__main__":
    main()
