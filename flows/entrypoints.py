"""Flows as deployments (deployments/prefect.yaml), which a schedule, a form or another run starts on a work pool.

They take small parameters only; where data lives comes from the worker's environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import promote as promotion
from flows.canary import look_at_canaries
from flows.dispatch import stages
from flows.dispatch.pools import leave
from flows.parameters import NamedStudyParameters, NextRoundParameters, RetentionParameters, SimulateParameters
from flows.promotion_parameters import PromoteParameters, RollbackParameters
from flows.round import round
from flows.simulate import simulate
from flows.study import study
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.log.forgetting import older_than
from respect_core.profiles import Profile
from respect_core.release.canary_looks import CanaryLook
from respect_core.variants import SEED, Variant
from tasks.compute.places import Place, require
from tasks.registry.register import register_variant
from tasks.release.forget import forget
from tasks.release.promote import PromotionRef
from tasks.reports.report import report_decoder, report_variant
from tasks.round.collect import collect_chats
from tasks.round.export import export_interactions
from tasks.round.next_round import count_new, find_next_round
from tasks.round.redecode import DecoderName, PromptName, configure, redecode_round
from tasks.round.select import select_checkpoint
from tasks.round.train import initial_adapter, train_variant
from tasks.support.references import LearnedRef, RegisteredRef, TrainingSetRef
from tasks.support.workspace import checked_name, from_environment


@flow(name="next-round", flow_run_name="next round")
def next_round(parameters: NextRoundParameters = NextRoundParameters()) -> State[Any]:  # noqa: B008  # frozen
    """Learn from the first round that has interactions and is not registered, and register the result.

    Args:
        parameters: What to train, and when there is enough to train on.
    """
    require(Place(parameters.on))
    workspace, variants = from_environment(), parameters.variants
    collect_chats(workspace)
    number = find_next_round(workspace, variants) if parameters.number is None else parameters.number
    if number is None:
        return Completed(message="nothing to do: every round that has interactions is registered")
    label_run(f"round:{number}", name=f"round {number}")
    export_interactions(workspace, number)
    new = count_new(workspace, number, variants, parameters.minimum)
    if new.missing:
        return Completed(message=str(new))
    summary = round(workspace, parameters.of_round(number), on=Place(parameters.on), collected=True)
    versions = ", ".join(f"{each['model']}/{each['version']}" for each in summary["variants"].values())
    return Completed(message=f"round {number} registered {versions}")


@flow(name="decode", flow_run_name="decode round {round}")
def decode(profile: Profile, round: int, variants: list[Variant], seed: RegisteredRef, result: str) -> None:
    """Compute the feedback of the turns up to a round, and the probabilities that their logs lack.

    Args:
        profile: The resolved configuration.
        round: Number of the round.
        variants: The variants that will learn.
        seed: The registered seed policy.
        result: Key in the store under which the result is left.
    """
    workspace = from_environment()
    decoded = stages.decode(workspace, profile, round, variants, seed)
    report_decoder(decoded.feedback)
    leave(workspace, result, decoded)


@flow(
    name="train-variant",
    flow_run_name="train {training_set.variant}, round {training_set.round}",
    task_runner=threads(1),  # one seed at a time: a run has one device
)
def train(
    profile: Profile,
    training_set: TrainingSetRef,
    validation: str,
    result: str,
    run_id: str | None = None,
    retrained: bool = False,
) -> None:
    """Train one variant and register the version.

    Args:
        profile: The resolved configuration.
        training_set: A partition of training_sets/, named by its content.
        validation: Game set whose correct turns choose the checkpoint.
        result: Key in the store under which the result is left.
        run_id: MLflow run of the round.
        retrained: Whether it is trained by hand: the version is then kept apart from those of rounds.
    """
    workspace, variant = from_environment(), training_set.variant
    if retrained:  # next to the checkpoints of the round, never over them
        workspace = workspace.model_copy(update={"root": workspace.root / "retrained" / Path(result).stem})
    start = initial_adapter(workspace, profile, Variant(variant), training_set.round) if variant != SEED else None
    trained = [
        train_variant.submit(workspace, profile, training_set, seed, validation, start) for seed in profile.seeds
    ]
    selected = select_checkpoint(variant, [each.result() for each in trained])
    version = register_variant(workspace, run_id, profile, training_set, selected, validation, retrained)
    learned = LearnedRef(training_set=training_set, selected=selected, registered=version)
    if variant != SEED:
        learned = stages.guard(workspace, profile, {variant: learned}, validation)[variant]
    leave(workspace, result, learned)
    report_variant(workspace, learned)


@flow(name="retention", flow_run_name="retention")
def retention(parameters: RetentionParameters = RetentionParameters()) -> State[Any]:  # noqa: B008  # frozen
    """Erase what users said longer ago than a number of days; versions stay as they are.

    Args:
        parameters: How long it is kept; without a number of days, nothing is erased.
    """
    if parameters.days is None:
        return Completed(message="off: no number of days is set")
    receipt = forget(from_environment(), older_than(f"{parameters.days}d"))
    return Completed(
        message=f"erased {len(receipt.tombstone.interactions)} interactions that ended before "
        f"{receipt.tombstone.before[:10]}; receipt: {receipt.key}"
    )


@flow(name="deployed-study", flow_run_name="study {parameters.name}")
def run_study(parameters: NamedStudyParameters = NamedStudyParameters()) -> None:  # noqa: B008  # frozen
    """Run the paper's experiment with simulated speakers. Started again under the same name, it resumes.

    Args:
        parameters: What plays and learns, and for how long.
    """
    label_run(*(f"variant:{variant}" for variant in parameters.variants))
    study(from_environment(f"studies/{checked_name(parameters.name)}"), parameters.study())


@flow(name="deployed-simulate", flow_run_name="simulate {parameters.games} games")
def run_simulation(parameters: SimulateParameters = SimulateParameters()) -> State[Any]:  # noqa: B008  # frozen
    """Let simulated users play with the deployed versions, for the next round to learn from.

    Args:
        parameters: Who plays, and how much.
    """
    number, played = simulate(from_environment(), parameters)
    won = ", ".join(f"{each.variant} {each.success:.0%}" for each in played)
    return Completed(message=f"{parameters.games} games of each variant are in the log of round {number}; won: {won}")


@flow(name="redecode", flow_run_name="redecode round {round} as {name}")
def redecode(
    round: int,
    name: str,
    decoder: DecoderName = "smollm2",
    prompt: PromptName = "the decoder's own",
    positive: float | None = None,
) -> State[Any]:
    """Decode a round's turns with another decoder, prompt or threshold, and keep its labels apart from the round's own.

    Args:
        round: Number of a round that has been decoded.
        name: Name of the new labels (lower-case letters, digits and dashes), stored in redecoded/NAME/.
        decoder: Model that decodes.
        prompt: The prompt it is given.
        positive: Threshold on the log-odds of positive, in nats; the decoder's own if empty.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits and dashes, such as 'zero-shot'")
    label_run(f"round:{round}")
    redecode_round(from_environment(), configure(decoder, prompt, positive), round, name)
    return Completed(message=f"the labels are in redecoded/{name}/feedback/")


@flow(name="deployed-promote", flow_run_name="promote {parameters.variant}")
def promote(parameters: PromoteParameters) -> PromotionRef:
    """Deploy a variant's candidate if the gate lets it through. Ending without a promotion is normal; it says why.

    Args:
        parameters: What to promote, and what the gate requires.
    """
    label_run(f"variant:{parameters.variant}")
    return promotion.promote.fn(from_environment(), parameters)


@flow(name="deployed-canary", flow_run_name="look at canaries")
def canary() -> list[CanaryLook]:
    """Look once at every canary in force, and promote its candidate or end it if that is decided."""
    return look_at_canaries.fn(from_environment())


@flow(name="deployed-rollback", flow_run_name="roll back {parameters.variant}")
def rollback(parameters: RollbackParameters) -> PromotionRef:
    """Put back what was deployed before the newest promotion that stands; another rollback goes one further back.

    Args:
        parameters: What to roll back, and why.
    """
    label_run(f"variant:{parameters.variant}")
    return promotion.rollback.fn(from_environment(), parameters)
