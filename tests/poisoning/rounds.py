"""One round in this process, as docs/one_round.py tells it, of which every result is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core import profiles
from respect_core.acting.policy import Policy
from respect_core.feedback import decoder
from respect_core.learning import trainer
from respect_core.learning.validation import exact_match
from respect_core.log.records import InteractionLog, PolicyIdentity, from_log, turn_rows
from respect_core.measuring.labels import right_turns
from respect_core.measuring.world import Deployment, play
from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from respect_core.scenarios.multiref import contexts, speakers, tangrams, world
from respect_core.scenarios.multiref.play import Factory, simulated_games
from respect_core.schemas import FEEDBACK_SCHEMA, TURNS_SCHEMA
from respect_core.training_data import sampling
from respect_core.variants import SEED, Variant

PROFILE = profiles.tiny()
RULES = scenario(PROFILE.scenario)
POOL = tangrams.procedural_pool()
SOMEBODY = PolicyIdentity(name="respect.seed", version="1")


class Pictures(dict[str, Any]):
    """Tangrams by id, drawn when first looked at."""

    def __missing__(self, image: str) -> Any:
        self[image] = tangrams.render(POOL.tangrams[image])
        return self[image]


class Laboratory:
    """The parts of a round, each made once and kept in a folder."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def base(self) -> Base:
        return load_base(PROFILE.base, RULES)

    @cached_property
    def features(self) -> VisionFeatures:
        return VisionFeatures(self.base, Pictures())

    @cached_property
    def d0(self) -> list[InteractionLog]:
        return self.people("d0", POOL.development, PROFILE.seed_games)

    @cached_property
    def held_out(self) -> list[InteractionLog]:
        return self.people("validation", POOL.main, PROFILE.validation_games)

    def people(self, name: str, split: Any, games: int) -> list[InteractionLog]:
        """Return games between people."""
        return speakers.human_games(contexts.sample(split, games, name), world.speaker_factory(), seed=name)

    @cached_property
    def curated(self) -> pa.Table:
        return table(self.d0)

    @cached_property
    def d0_right(self) -> frozenset[tuple[str, int]]:
        return frozenset(right_turns(self.d0))

    def learn(self, name: str, batches: Any, variant: Variant | None, start: Path | None) -> Path:
        """Train on a training set, and return the adapter chosen on the validation games."""
        place = self.folder / name
        if (chosen := place / "chosen").exists():
            return place / chosen.read_text()
        examples = sampling.examples(pa.Table.from_batches(batches))
        config = PROFILE.settings(variant or SEED, 0)
        if variant is not None:
            config = replace(config, max_steps=self.steps, checkpoint_every=max(1, self.steps // 3))
        games, right = [from_log(each) for each in self.held_out], right_turns(self.held_out)

        def validate(model: Any) -> dict[str, float]:
            result = exact_match(Policy(self.base, model, self.features), games, right, count_illegal=False)
            return {"exact_match": result.exact_match, "sampled_match": result.sampled_match}

        start = start if config.from_previous_adapter else None
        result = trainer.train(
            self.base, examples, validate, config, PROFILE.lora, 0, place, features=self.features, init_adapter=start
        )
        best = max(result.checkpoints, key=lambda point: point.validation["sampled_match"])
        (place / "chosen").write_text(str(best.adapter.relative_to(place)))
        return best.adapter

    def play(self, name: str, adapter: Path, games: int, users: Factory, seed: str) -> list[InteractionLog]:
        """Let users play with a policy."""
        file = self.folder / f"{name}.jsonl"
        if not file.exists():
            drawn = world.play_contexts(games, seed, stratified=True)
            deployment = Deployment(0, Variant.B_FFT, SOMEBODY, seed)
            logs = play(Policy(self.base, adapter, self.features), simulated_games(drawn, users, deployment))
            file.write_text("".join(each.model_dump_json() + "\n" for each in logs))
        return [InteractionLog.model_validate_json(line) for line in file.read_text().splitlines()]

    def decoded(self, name: str, logs: Sequence[InteractionLog]) -> pa.Table:
        """Return feedback on games."""
        file = self.folder / f"{name}.parquet"
        if not file.exists():
            phi = decoder.FeedbackDecoder(decoder.named(PROFILE.feedback_decoder))
            rows = phi.decode([row for each in logs for row in turn_rows(each)])
            pq.write_table(pa.Table.from_pylist(rows, FEEDBACK_SCHEMA), file)
        return pq.read_table(file).cast(FEEDBACK_SCHEMA)


def table(logs: Sequence[InteractionLog]) -> pa.Table:
    """Return games as rows of the table of turns."""
    return pa.Table.from_pylist([row for each in logs for row in turn_rows(each)], TURNS_SCHEMA)
