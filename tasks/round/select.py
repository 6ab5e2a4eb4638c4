"""Select a variant's checkpoint: the best on the validation set, over steps and seeds (appendix B.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prefect import task

from tasks.support.references import SelectedRef, TrainedRef


@task(name="select", task_run_name="select {variant}", persist_result=False)
def select_checkpoint(variant: str, trained: Sequence[TrainedRef]) -> SelectedRef:
    """Choose among the checkpoints of all seeds; ties go to the earlier step, then to the lower seed."""
    # torch takes seconds to import; flows that only send work elsewhere do not need it
    from respect_core.learning.validation import Candidate, choose
    from respect_core.model.base import adapter_hash

    checkpoints = {
        (each.seed, checkpoint["step"]): checkpoint
        for each in trained
        for checkpoint in json.loads((each.directory / "result.json").read_text())["checkpoints"]
    }
    candidates = (Candidate(*key, figures["sampled_match"]) for key, figures in checkpoints.items())
    chosen = choose(candidates)
    figures = checkpoints[chosen.seed, chosen.step]
    (directory,) = {each.directory for each in trained if each.seed == chosen.seed}
    adapter = directory / figures["adapter"]
    return SelectedRef(
        variant=variant,
        seed=chosen.seed,
        step=chosen.step,
        exact_match=figures["exact_match"],
        sampled_match=figures["sampled_match"],
        validation_turns=int(figures["n_turns"]),
        illegal_actions=int(figures["illegal_actions"]),
        adapter=adapter,
        adapter_hash=adapter_hash(adapter),
        trained=list(trained),
    )
