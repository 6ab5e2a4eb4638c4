"""`python -m tests.poisoning [--folder runs/poisoning] [--games 300] [--fresh 400] [--steps 120]`: measure.

Simulated users play with the seed policy, and b-fft learns from them: from honest ones alone, and with attackers among
them, with and without the limits. Each policy then plays the same fresh games. Prints a table; what was made is kept.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyarrow as pa

from respect_core.log.records import InteractionLog
from respect_core.scenarios.multiref import world
from respect_core.stats import ratio
from respect_core.training_data import eligibility
from respect_core.variants import UserLimits, Variant
from tests.poisoning.attackers import ATTACKS, of_users, speakers_of
from tests.poisoning.rounds import RULES, Laboratory, table

HONEST = 100
LIMITS = UserLimits(user_turns=20, address_turns=20, day_turns=20, likeness=0.9)
"""About twice what an honest user teaches here in three games."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.poisoning", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/poisoning"))
    parser.add_argument("--games", type=int, default=300, help="of honest users")
    parser.add_argument("--fresh", type=int, default=400, help="games that measure a policy")
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    place = Laboratory(arguments.folder, arguments.steps)
    nobody = eligibility.training_batches([], [], place.curated, None, RULES, d0_right=place.d0_right)
    seed = place.learn("seed", nobody, None, None)
    honest = of_users(place.play("honest", seed, arguments.games, world.speaker_factory(), "round-0"), "honest", HONEST)
    feedback = place.decoded("honest", honest)
    arms: dict[str, tuple[list[InteractionLog], pa.Table]] = {"clean": (honest, feedback)}
    for name, attack in ATTACKS.items():
        games = place.play(name, seed, attack.users * attack.games, speakers_of(name), f"round-0-{name}")
        poisoned = of_users(games, name, attack.users, attack.one_address)
        arms[name] = [*honest, *poisoned], pa.concat_tables([feedback, place.decoded(name, poisoned)])
    results: dict[str, Mapping[str, object]] = {}
    won: dict[str, list[bool]] = {}
    for name, (logs, labels) in arms.items():
        for limited in (False, True):
            arm, left_out = f"{name}, limits" if limited else name, Counter[str]()
            batches = list(
                eligibility.training_batches(
                    table(logs).to_batches(),
                    labels.to_batches(),
                    place.curated,
                    Variant.B_FFT,
                    RULES,
                    d0_right=place.d0_right,
                    limits=LIMITS if limited else UserLimits(),
                    left_out=left_out,
                )
            )
            taught = sum(
                row["label"] is not None and row["source"] == "round" for each in batches for row in each.to_pylist()
            )
            folder = arm.replace(", ", "-")
            policy = place.learn(f"b-fft-{folder}", batches, Variant.B_FFT, seed)
            fresh = place.play(f"fresh-{folder}", policy, arguments.fresh, world.speaker_factory(), "fresh")
            won[arm] = [bool(log.outcome and log.outcome.success) for log in fresh]
            found = ratio(won[arm], [1] * len(fresh))
            against = [one - other for one, other in zip(won[arm], won["clean, limits" if limited else "clean"])] if (
                "clean, limits" if limited else "clean") in won else [0]
            change = ratio(against, [1] * len(against))
            results[arm] = {
                "turns": taught,
                "left_out": dict(left_out),
                "success": [found.value, found.low, found.high],
                "against clean": [change.value, change.low, change.high],
            }
            print(arm, json.dumps(results[arm]), flush=True)
    (arguments.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
