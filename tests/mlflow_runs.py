"""MLflow runs as two rounds of six variants leave them, without the training."""

from __future__ import annotations

from respect_core.variants import Variant
from tasks.registry import registry
from tasks.support.workspace import Workspace


def two_rounds(place: Workspace) -> dict[tuple[int, str], str]:
    """Ids of the runs by round and variant; of a round's own run by "". Exact match rises in the variants' order."""
    made = {}
    for round in (0, 1):
        made[round, ""] = parent = registry.start_run(place, f"round {round}", tags={"round": round})
        for rank, variant in enumerate(Variant):
            tags = {"round": round, "variant": variant}
            made[round, variant] = run = registry.start_run(place, f"{variant} round {round}", parent, tags)
            metrics = [("val_exact_match", 0.4 + 0.02 * round + 0.01 * rank, round), ("illegal_actions", rank, round)]
            registry.log(place, run, params={"objective": variant.objective}, metrics=metrics)
            seed = registry.start_run(place, f"{variant} round {round} seed 0", run, {**tags, "seed": 0})
            registry.log(place, seed, metrics=[("loss", 1 / (step + 1), step) for step in range(3)])
            for each in (seed, run):
                registry.end_run(place, each)
        registry.end_run(place, parent)
    return made
