"""The method in one file: deploy, decode what users said, learn from it, deploy again (figure 1 of the paper).

    python docs/one_round.py [--games 60] [--steps 120]

No Prefect, no MLflow, no store and no other process: the same functions of `respect_core` that a round calls, in the
same order. The users are simulated speakers of MULTIREF, the policy is the embedded vision-language model, and the
feedback decoder is SmolLM2-135M, a real if small LLM.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from respect_core import profiles
from respect_core.acting.policy import Policy
from respect_core.feedback import decoder
from respect_core.learning import trainer
from respect_core.learning.validation import exact_match
from respect_core.log.records import InteractionLog, PolicyIdentity, from_log, outcome_row, turn_rows
from respect_core.measuring.labels import right_turns
from respect_core.measuring.metrics import counts, figures
from respect_core.measuring.world import Deployment, play
from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from respect_core.scenarios.multiref import contexts, speakers, tangrams, world
from respect_core.scenarios.multiref.play import simulated_games
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.training_data import eligibility, sampling
from respect_core.variants import SEED, Variant

PROFILE = profiles.tiny()
RULES = scenario(PROFILE.scenario)
POOL = tangrams.procedural_pool()
SOMEBODY = PolicyIdentity(name="respect.seed", version="1")


def main(games: int, steps: int, folder: Path) -> tuple[float, float]:
    """Run one round of B-FFT; returns the shares of games won before and after it."""
    base = load_base(PROFILE.base, RULES)
    features = VisionFeatures(base, Pictures())

    # 0. Two curated sets of games between people: D0 to start from, and one to choose checkpoints on (appendix B.2).
    d0 = between_people(contexts.sample(POOL.development, PROFILE.seed_games, "d0"), "d0")
    held_out = between_people(contexts.sample(POOL.main, PROFILE.validation_games, "validation"), "validation")

    # 1. The seed policy learns from D0 alone, and is deployed.
    nothing = pa.Table.from_pylist([], TURNS_SCHEMA), pa.Table.from_pylist([], FEEDBACK_SCHEMA)
    seed_policy = learn(base, features, *nothing, d0, held_out, None, None, steps, folder / SEED)

    # 2. Users talk to it. The log has what they said and what it did, with the probability p it had for doing so.
    log = deployed(base, features, seed_policy, games, "round-0")
    won_before = success(log)
    print(f"round 0: {len(log)} games, {won_before:.0%} won")

    # 3. Learning reads turns: x_t, a_t, p_t and the follow-up; never a target, never an outcome (section 4).
    turns = pa.Table.from_pylist([row for each in log for row in turn_rows(each)], TURNS_SCHEMA)

    # 4. An LLM decodes from each follow-up whether the action before it was good (section 4.1, figure 3).
    phi = decoder.FeedbackDecoder(decoder.named(PROFILE.feedback_decoder))
    feedback = pa.Table.from_pylist(phi.decode(turns.to_pylist()), FEEDBACK_SCHEMA)
    print("decoded:", dict(sorted(count_labels(feedback, Variant.B_FFT).items())))

    # 5. The policy is trained on what was decoded, with D0 rehearsed beside it (sections 4.2 and 5).
    learned = learn(base, features, turns, feedback, d0, held_out, Variant.B_FFT, seed_policy, steps, folder / "b-fft")

    # 6. The chosen checkpoint is deployed, and the next round begins with what users say to it.
    won_after = success(deployed(base, features, learned, games, "round-1"))
    print(f"round 1: {won_after:.0%} won")
    return won_before, won_after


def learn(
    base: Base,
    features: VisionFeatures,
    turns: pa.Table,
    feedback: pa.Table,
    d0: list[InteractionLog],
    held_out: list[InteractionLog],
    variant: Variant | None,
    start: Path | None,
    steps: int,
    folder: Path,
) -> Path:
    """Train one variant (None: the seed policy) and return the adapter chosen on the validation set."""
    curated = pa.Table.from_pylist([row for each in d0 for row in turn_rows(each)], TURNS_SCHEMA)
    batches = eligibility.training_batches(
        turns.to_batches(), feedback.to_batches(), curated, variant, RULES, d0_right=frozenset(right_turns(d0)), seed=0
    )
    examples = sampling.examples(pa.Table.from_batches(batches, TRAINING_SET_SCHEMA))
    config = PROFILE.settings(variant or SEED, 0)
    config = replace(config, max_steps=steps, checkpoint_every=max(1, steps // 3))
    games, right = [from_log(each) for each in held_out], right_turns(held_out)

    def validate(model: Any) -> dict[str, float]:
        result = exact_match(Policy(base, model, features), games, right, count_illegal=False)
        return {"exact_match": result.exact_match, "sampled_match": result.sampled_match}

    result = trainer.train(
        base,
        examples,
        validate,
        config,
        PROFILE.lora,
        0,
        folder,
        features=features,
        init_adapter=start if config.from_previous_adapter else None,
    )
    best = max(result.checkpoints, key=lambda point: point.validation["sampled_match"])
    print(f"{variant or SEED}: step {best.step} of {steps}, exact match {best.validation['exact_match']:.0%}")
    return best.adapter


def deployed(base: Base, features: VisionFeatures, adapter: Path, games: int, seed: str) -> list[InteractionLog]:
    """Let simulated users play with a policy; returns the log."""
    policy = Policy(base, adapter, features)
    drawn = world.play_contexts(games, seed, stratified=True)
    return play(policy, simulated_games(drawn, world.speaker_factory(), Deployment(0, SEED, SOMEBODY, seed)))


def between_people(drawn: list[contexts.GameContext], seed: str) -> list[InteractionLog]:
    """Let simulated people play with one another."""
    return speakers.human_games(drawn, world.speaker_factory(), seed=seed)


def success(log: list[InteractionLog]) -> float:
    """Return the share of games won. For measuring only: learning never sees it."""
    rows = [row for each in log for row in turn_rows(each)]
    return figures([counts(rows, map(outcome_row, log))]).success.value


def count_labels(feedback: pa.Table, variant: Variant) -> dict[int, int]:
    """Count the labels of a variant's decoder: +1 good, 0 neutral, -1 bad."""
    labels = [row["label"] for row in feedback.to_pylist() if row["decoder"] == variant.decoder]
    return {label: labels.count(label) for label in set(labels)}


class Pictures(dict[str, Any]):
    """Tangrams by id, drawn when first looked at."""

    def __missing__(self, image: str) -> Any:
        self[image] = tangrams.render(POOL.tangrams[image])
        return self[image]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=60)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        main(arguments.games, arguments.steps, Path(scratch))
