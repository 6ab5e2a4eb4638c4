"""One RESPECT round as a Prefect flow. It reads in the order in which data moves (section 4, figure 1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from flows.seed import seed_policy
from respect_core.variants import Profile, Propensity, Variant
from respect_core.variants import profile as named_profile
from tasks.decode import decode_feedback
from tasks.export import export_interactions
from tasks.play import replay_fixed_games, seconds_played
from tasks.propensity import fill_propensities
from tasks.references import PropensityRef, RegisteredRef, SelectedRef, TrainingSetRef
from tasks.register import close_round, open_round, register_variant
from tasks.report import report_round, summarise
from tasks.select import select_checkpoint
from tasks.subsample import subsample_variant
from tasks.train import initial_adapter, train_variant
from tasks.workspace import Workspace


class RoundParameters(BaseModel):
    """What the command line and the Prefect form set of a round; the profile has the rest."""

    model_config = ConfigDict(frozen=True)

    round: int = Field(ge=0, description="Number of the round, counted from 0.")
    profile: str = Field(default="tiny", description="Named configuration: tiny or idefics2-8b.")
    variants: list[Variant] = Field(default_factory=lambda: list(Variant), description="Variants to train.")
    validation: str = Field(default="validation", description="Game set whose right turns choose checkpoints.")
    propensity: Propensity | None = Field(
        default=None, description="Where p comes from when a log has none; the profile's choice if empty."
    )
    seeds: int | None = Field(default=None, ge=1, description="Training seeds per variant; the profile's if empty.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps; the profile's if empty.")
    study_seed: int = Field(default=0, ge=0, description="Repetition of a study: no two share a training seed.")
    replay: int = Field(default=0, ge=0, description="Games of a fixed simulated set that every policy plays.")

    def resolved_profile(self) -> Profile:
        """The named profile with what was set here."""
        profile = named_profile(self.profile)
        if self.seeds is not None:
            profile = replace(profile, seeds=tuple(range(self.seeds)))
        stride = max(profile.seeds) + 1
        profile = replace(profile, seeds=tuple(seed + self.study_seed * stride for seed in profile.seeds))
        if self.propensity is not None:
            profile = replace(profile, propensity=self.propensity)
        if self.max_steps is not None:
            every = max(1, self.max_steps // 4)
            training = {
                objective: replace(config, max_steps=self.max_steps, checkpoint_every=every)
                for objective, config in profile.training.items()
            }
            profile = replace(profile, training=training)
        return profile


class VariantsFailed(RuntimeError):
    """Some variants of a round failed; the others are registered. Running the round again does what is missing."""


@flow(name="round", flow_run_name="round {parameters.round}", task_runner=ThreadPoolTaskRunner(max_workers=16))  # type: ignore[arg-type]  # a runner of futures of any result
def round(
    workspace: Workspace, parameters: RoundParameters, seconds_of_play: float = 0.0, study_run: str | None = None
) -> dict[str, Any]:
    """Export, decode, subsample, train, select, register; returns the summary.

    It is also in runs/<name>/summary.json, unless the round is part of a study: there, that file is the study's.

    Args:
        seconds_of_play: what the games of this round took, where they were played here; for the summary.
        study_run: MLflow run of the study that the round is part of, if it is.

    Raises:
        VariantsFailed: names the variants that failed, after the others went through.
    """
    started, number, profile = time.monotonic(), parameters.round, parameters.resolved_profile()
    seed = seed_policy(workspace, profile, parameters.validation)
    exported = export_interactions(workspace, number)
    run_id = open_round(workspace, number, profile, exported, study_run)
    try:
        feedback = decode_feedback(workspace, profile, number)
        propensities = fill_propensities(workspace, profile, number, parameters.variants, seed)
        before = replay_fixed_games.submit(workspace, profile, seed, number, parameters.replay)
        learned, failed = _learn(workspace, run_id, profile, parameters, propensities)
        after = {
            variant: replay_fixed_games.submit(workspace, profile, version, number, parameters.replay)
            for variant, (_, _, version) in learned.items()
        }
        played = {variant: future.result() for variant, future in after.items()}
        play = seconds_of_play + seconds_played(before.result(), *played.values())
        seconds = {
            "play": play or None,
            "export": exported.seconds,
            "decode": feedback.seconds,
            "train": sum(selected.seconds for _, selected, _ in learned.values()),
            "total": seconds_of_play + time.monotonic() - started,
        }
        summary = summarise(profile.name, exported, feedback, learned, before.result(), played, failed, seconds)
        report_round(workspace, run_id, summary, workspace.root / "summary.json" if study_run is None else None)
    except BaseException as error:
        close_round(workspace, run_id, {"round": str(error)})
        raise
    close_round(workspace, run_id, failed)
    if failed:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in failed.items())
        raise VariantsFailed(
            f"round {number}: {len(failed)} of {len(parameters.variants)} variants failed ({reasons}); "
            "the others are registered, and running the round again does what is missing"
        )
    return summary


def _learn(
    workspace: Workspace,
    run_id: str,
    profile: Profile,
    parameters: RoundParameters,
    propensities: Sequence[PropensityRef],
) -> tuple[dict[str, tuple[TrainingSetRef, SelectedRef, RegisteredRef]], dict[str, str]]:
    """All variants from turns to registered versions, beside each other; and why those that failed did."""
    lines = {variant: _train(workspace, profile, parameters, variant, propensities) for variant in parameters.variants}
    learned: dict[str, tuple[TrainingSetRef, SelectedRef, RegisteredRef]] = {}
    failed: dict[str, str] = {}
    for variant, (training_set, selected) in lines.items():
        try:
            data, chosen = training_set.result(), selected.result()
            version = register_variant(workspace, run_id, profile, data, chosen, parameters.validation)
            learned[variant] = (data, chosen, version)
        except Exception as error:  # a variant that fails must not take the others down
            failed[variant] = str(error)
    return learned, failed


def _train(
    workspace: Workspace,
    profile: Profile,
    parameters: RoundParameters,
    variant: Variant,
    propensities: Sequence[PropensityRef],
) -> tuple[PrefectFuture[TrainingSetRef], PrefectFuture[SelectedRef]]:
    """Everything of one variant up to the chosen checkpoint, submitted: variants run beside each other."""
    training_set = subsample_variant.submit(
        workspace, profile, variant, parameters.round, parameters.validation, propensities
    )
    start = initial_adapter.submit(workspace, profile, variant, parameters.round)
    trained = [
        train_variant.submit(workspace, profile, training_set, seed, parameters.validation, start)  # type: ignore[call-overload]  # Prefect resolves futures
        for seed in profile.seeds
    ]
    return training_set, select_checkpoint.submit(variant, trained)
