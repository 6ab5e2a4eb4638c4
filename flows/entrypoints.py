"""Flows as deployments (deployments/prefect.yaml): what a schedule, a form or another run starts on a work pool.

They take small parameters only; where data lives comes from the worker's environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import promote as promotion
from flows.dispatch import stages
from flows.dispatch.pools import leave
from flows.promote import PromoteParameters, RollbackParameters
from flows.round import RoundParameters, round
from flows.simulate import SimulateParameters, simulate
from flows.study import ANCHORS, StudyParameters, study
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.profiles import Profile
from respect_core.variants import SEED, SYSTEMS, Variant
from tasks.compute.places import Place, require
from tasks.registry.register import register_variant
from tasks.release.promote import PromotionRef
from tasks.reports.report import report_decoder, report_variant
from tasks.round.export import export_interactions
from tasks.round.next_round import count_new, find_next_round
from tasks.round.redecode import DecoderName, PromptName, configure, redecode_round
from tasks.round.select import select_checkpoint
from tasks.round.train import initial_adapter, train_variant
from tasks.support.references import LearnedRef, RegisteredRef, TrainingSetRef
from tasks.support.workspace import checked_name, from_environment

ProfileName = Literal["tiny", "idefics2-8b"]


@flow(name="next-round", flow_run_name="next round")
def next_round(
    variants: list[Variant] = list(SYSTEMS),  # noqa: B006  # never changed; the form shows it
    minimum: int = 100,
    number: int | None = None,
    profile: ProfileName = "tiny",
    validation: str = "validation",
    seeds: int | None = None,
    max_steps: int | None = None,
    on: Literal["pools", "ray"] = "pools",
) -> State[Any]:
    """The first round that has interactions and is not registered: exported, decoded, trained, registered.

    Args:
        variants: Variants to train.
        minimum: New interactions that each variant must have; with fewer, the run ends and says how many are missing.
        number: Number of the round, to choose it by hand; empty for the next one.
        profile: Named configuration.
        validation: Game set whose right turns choose checkpoints; its games are kept out of training.
        seeds: Training seeds of each variant; the profile's if empty.
        max_steps: Optimizer steps of each training run; the profile's if empty.
        on: Where decoding and training run: on the GPU work pool, or on a Ray cluster.
    """
    require(Place(on))
    workspace = from_environment()
    chosen = find_next_round(workspace, variants) if number is None else number
    if chosen is None:
        return Completed(message="nothing to do: every round that has interactions is registered")
    label_run(f"round:{chosen}", name=f"round {chosen}")
    export_interactions(workspace, chosen)
    new = count_new(workspace, chosen, variants, minimum)
    if new.missing:
        return Completed(message=str(new))
    parameters = RoundParameters(
        round=chosen,
        profile=profile,
        variants=variants,
        validation=validation,
        seeds=seeds,
        max_steps=max_steps,
    )
    summary = round(workspace, parameters, on=Place(on))
    versions = ", ".join(f"{each['model']}/{each['version']}" for each in summary["variants"].values())
    return Completed(message=f"round {chosen} registered {versions}")


@flow(name="decode", flow_run_name="decode round {round}")
def decode(profile: Profile, round: int, variants: list[Variant], seed: RegisteredRef, result: str) -> None:
    """Feedback of the turns up to a round, and the probabilities that their logs lack.

    Args:
        profile: The resolved configuration.
        round: Number of the round.
        variants: Those that will learn.
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
    """One variant, from its training set to its registered version.

    Args:
        profile: The resolved configuration.
        training_set: A partition of training_sets/, by content.
        validation: Game set whose right turns choose the checkpoint.
        result: Key in the store under which the result is left.
        run_id: MLflow run of the round.
        retrained: By hand: the version stands beside those of rounds.
    """
    workspace, variant = from_environment(), training_set.variant
    if retrained:  # beside the checkpoints of the round, never over them
        workspace = workspace.model_copy(update={"root": workspace.root / "retrained" / Path(result).stem})
    start = initial_adapter(workspace, profile, Variant(variant), training_set.round) if variant != SEED else None
    trained = [
        train_variant.submit(workspace, profile, training_set, seed, validation, start) for seed in profile.seeds
    ]
    selected = select_checkpoint(variant, [each.result() for each in trained])
    version = register_variant(workspace, run_id, profile, training_set, selected, validation, retrained)
    learned = LearnedRef(training_set=training_set, selected=selected, registered=version)
    leave(workspace, result, learned)
    report_variant(workspace, learned)


@flow(name="deployed-study", flow_run_name="study {name}")
def run_study(
    name: str = "study",
    variants: list[Variant] = [Variant.B_FFT],  # noqa: B006  # never changed; the form shows it
    rounds: int = 6,
    games: int = 300,
    anchor_games: int | None = None,
    human_games: int = 50,
    control: bool = True,
    study_seed: int = 0,
    profile: ProfileName = "tiny",
    seeds: int | None = None,
    max_steps: int | None = None,
) -> None:
    """Run the paper's experiment with simulated speakers. Started again under its name, it resumes where it stopped.

    Args:
        name: Of the study: its own part of the store, its own experiment in MLflow.
        variants: Variants that play and learn.
        rounds: Rounds of learning; deployments are 0 to this number.
        games: Games of every policy in every round.
        anchor_games: Games that measure the seed policy in round 0, and again as control in the last round; nobody
            learns from those beyond `games`. Empty: four times as many.
        human_games: Games between people (HH), in the last round.
        control: Deploy the seed policy again in the last round.
        study_seed: Drives contexts, speakers, sampling and training seeds.
        profile: Named configuration; needs simulated speakers, as tiny has.
        seeds: Training seeds per variant; the profile's if empty.
        max_steps: Optimizer steps; the profile's if empty.
    """
    label_run(*(f"variant:{variant}" for variant in variants))
    study(
        from_environment(f"studies/{checked_name(name)}"),
        StudyParameters(
            rounds=rounds,
            variants=variants,
            control=control,
            games=games,
            anchor_games=ANCHORS * games if anchor_games is None else anchor_games,
            human_games=human_games,
            study_seed=study_seed,
            profile=profile,
            seeds=seeds,
            max_steps=max_steps,
        ),
    )


@flow(name="deployed-simulate", flow_run_name="simulate {games} games")
def run_simulation(
    variants: list[Variant] = list(SYSTEMS),  # noqa: B006  # never changed; the form shows it
    games: int = 100,
    number: int | None = None,
    profile: ProfileName = "tiny",
) -> State[Any]:
    """Games of simulated users with what is deployed, for the next round to learn from.

    Args:
        variants: Variants whose deployed versions act; the seed policy where none was promoted.
        games: Games of each.
        number: Round of the log; empty for the one after the newest learned.
        profile: Named configuration; needs simulated speakers, as tiny has.
    """
    parameters = SimulateParameters(variants=variants, games=games, number=number, profile=profile)
    round, played = simulate(from_environment(), parameters)
    won = ", ".join(f"{each.variant} {each.success:.0%}" for each in played)
    return Completed(message=f"{games} games of each variant are in the log of round {round}; won: {won}")


@flow(name="redecode", flow_run_name="redecode round {round} as {name}")
def redecode(
    round: int,
    name: str,
    decoder: DecoderName = "smollm2",
    prompt: PromptName = "the decoder's own",
    positive: float | None = None,
) -> State[Any]:
    """Another decoder, prompt or threshold over a round's turns; its labels lie beside those learned from.

    Args:
        round: Number of a round that has been decoded.
        name: Of the new labels: lower-case letters, digits and dashes; they are in redecoded/NAME/ of the store.
        decoder: Model that decodes.
        prompt: What it is asked.
        positive: Threshold on the log-odds of positive, in nats; the decoder's if empty.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits and dashes, such as 'zero-shot'")
    label_run(f"round:{round}")
    redecode_round(from_environment(), configure(decoder, prompt, positive), round, name)
    return Completed(message=f"the labels are in redecoded/{name}/feedback/")


@flow(name="deployed-promote", flow_run_name="promote {parameters.variant}")
def promote(parameters: PromoteParameters) -> PromotionRef:
    """A variant's candidate to its users, if the gate lets it through; no promotion is a normal end, with its reasons.

    Args:
        parameters: What to promote, and what to ask of it.
    """
    label_run(f"variant:{parameters.variant}")
    return promotion.promote.fn(from_environment(), parameters)


@flow(name="deployed-rollback", flow_run_name="roll back {parameters.variant}")
def rollback(parameters: RollbackParameters) -> PromotionRef:
    """What was deployed before the newest promotion that stands, back to its users; once more goes further back.

    Args:
        parameters: What to roll back, and why.
    """
    label_run(f"variant:{parameters.variant}")
    return promotion.rollback.fn(from_environment(), parameters)
