"""The checkpoint of a variant: highest exact match on the validation set, over steps and seeds (appendix B.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from respect_core.validation import Candidate, choose

from respect_core.base import adapter_hash
from tasks.references import SelectedRef, TrainedRef


@task(name="select", task_run_name="select {variant}", cache_policy=NO_CACHE)
def select_checkpoint(variant: str, trained: Sequence[TrainedRef]) -> SelectedRef:
    """Choose among the checkpoints of all seeds; ties go to the earlier step, then to the lower seed."""
    raise NotImplementedError(json, adapter_hash, Candidate, choose)
