"""Train one variant again by hand, from a form: its version is kept next to the round's and never replaces it."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from flows.dispatch.stages import decode, learn
from flows.parameters import ProfileName, RoundParameters
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.profiles import Profile
from respect_core.store import manifests
from respect_core.variants import SEED, SYSTEMS, FeedbackSource, Variant, fft
from tasks.compute.places import Place
from tasks.registry import registry
from tasks.registry.register import reference
from tasks.reports.report import report_variant
from tasks.support.workspace import from_environment

_TABLE_1 = fft()
"""Holds the values of Table 1 that all objectives share."""


class Hyperparameters(BaseModel):
    """A few settings of training. Those left empty come from the profile."""

    model_config = ConfigDict(frozen=True)

    learning_rate: float | None = Field(
        default=None, gt=0, description="Table 1: 1e-4 for FFT and RL, 1e-5 for KTO. Empty: the profile's."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps. Table 1 counts 20 epochs. Empty: the profile's."
    )
    warmup_steps: int = Field(
        default=_TABLE_1.warmup_steps, ge=0, description="Steps over which the rate rises from zero (Table 1)."
    )
    weight_decay: float = Field(default=_TABLE_1.weight_decay, ge=0, description="Of AdamW and RMSprop (Table 1).")
    negative_reward: float = Field(
        default=_TABLE_1.negative_reward, le=0, description="Reward of a negative turn in REINFORCE (equation 1)."
    )
    positive_to_negative: float = Field(
        default=_TABLE_1.positive_to_negative,
        gt=0,
        description="Positives to negatives in a batch: 5:4 (appendix B.3).",
    )
    kto_beta: float = Field(default=_TABLE_1.kto_beta, gt=0, description="Strength of KTO's reference (Table 1).")
    kto_desirable: float | None = Field(
        default=None, gt=0, description="KTO's lambda_d, weight of positives (appendix B.3); the profile's if empty."
    )
    kto_undesirable: float | None = Field(
        default=None, gt=0, description="KTO's lambda_u, weight of negatives (appendix B.3); the profile's if empty."
    )

    def of(self, profile: Profile, variant: Variant) -> Profile:
        """Return the profile with these settings for the variant's objective."""
        changes: dict[str, Any] = {name: value for name, value in self.model_dump().items() if value is not None}
        if self.max_steps is not None:
            changes["checkpoint_every"] = max(1, self.max_steps // 4)
        return profile.with_training([variant.objective], **changes)


@flow(name="retrain", flow_run_name="retrain {variant}, round {round}", task_runner=threads())
def retrain(
    variant: Variant,
    round: int = 0,
    seeds: int | None = None,
    hyperparameters: Hyperparameters = Hyperparameters(),  # noqa: B008  # frozen
    profile: ProfileName = "tiny",
    validation: str = "validation",
    feedback: FeedbackSource = FeedbackSource.DECODED,
) -> State[Any]:
    """Train one variant again on a round. Its version is registered next to the round's, and no alias moves.

    Args:
        variant: Which of the six.
        round: Number of a round that has been exported.
        seeds: Training seeds; the profile's if empty.
        hyperparameters: Training settings to change.
        profile: Named configuration.
        validation: Game set whose correct turns choose the checkpoint.
        feedback: What turns are learned from: decoded follow-ups, users' thumbs, or the thumb where there is one.
    """
    workspace = from_environment()
    label_run(f"round:{round}", f"variant:{variant}")
    parameters = RoundParameters(
        round=round, profile=profile, variants=[variant], validation=validation, seeds=seeds, feedback=feedback
    )
    settings = hyperparameters.of(parameters.resolved_profile(), variant)
    seed = registry.latest(workspace, SEED)
    if seed is None or not manifests.partitions(workspace.open(), "turns", [round]):
        raise ValueError(f"round {round} has not been learned from in {workspace.store_uri}; start `round` first")
    # Decode as a round of all variants does, so that its results are found.
    decoded = decode(workspace, settings, round, list(SYSTEMS), reference(SEED, seed), on=Place.POOLS)
    propensities, on = decoded.propensities, Place.POOLS
    end = learn(workspace, None, settings, variant, round, validation, propensities, on=on, retrained=True)
    learned = end()
    report_variant(workspace, learned)
    version, selected = learned.registered, learned.selected
    return Completed(
        message=f"{version.model}/{version.version} stands beside the round's: exact match {selected.exact_match:.3f}"
    )
