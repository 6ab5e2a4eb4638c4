"""The stages of a round that need a device, and where they run: on this machine, on the GPU work pool, or on Ray.

All of them return the same references, so a flow reads the same wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prefect import tags, task
from pydantic import TypeAdapter

from flows.dispatch.pools import on_pool
from respect_core.model.local import base_sha256
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.store import manifests
from respect_core.training_data import curated
from respect_core.variants import SEED, Variant
from tasks.compute.places import Place
from tasks.registry import registry, results
from tasks.registry.register import register_variant
from tasks.release.guard_rails import seed_rails, with_rails
from tasks.round.decode import decode_feedback
from tasks.round.propensity import fill_propensities
from tasks.round.select import select_checkpoint
from tasks.round.subsample import subsample_variant
from tasks.round.train import initial_adapter, train_variant
from tasks.support.references import DecodedRef, LearnedRef, PropensityRef, RegisteredRef, TrainingSetRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

Learning = Callable[[], LearnedRef]
"""A variant in progress: a call waits for its end, and raises the error if it failed."""


def decode(
    workspace: Workspace,
    profile: Profile,
    round: int,
    variants: Sequence[Variant],
    seed: RegisteredRef,
    *,
    on: Place = Place.HERE,
) -> DecodedRef:
    """Compute the feedback of the turns up to `round`, and the probabilities that their logs lack."""
    if on is not Place.POOLS:
        feedback = decode_feedback(workspace, profile, round, on=on)
        propensities = fill_propensities(workspace, profile, round, variants, seed, on)
        return DecodedRef(feedback=feedback, propensities=propensities)
    store = workspace.open()
    turns = [part for part in manifests.partitions(store, "turns") if part.round <= round]
    parameters = {"profile": as_json(profile), "variants": sorted(variants), "seed": seed.model_dump()}
    made_from = {
        "turns": [manifests.table_input(store, "turns", *part).sha256 for part in turns],
        "decoder": profile.feedback_decoder,
        "base": base_sha256(profile.base) or profile.base,
        "image_size": profile.image_size,
        "propensity": profile.propensity,
        "variants": parameters["variants"],
        "seed": seed.adapter_hash,
    }
    key = results.key("decode", round, "all", made_from)
    return on_pool(
        workspace,
        "decode/decode",
        key,
        DecodedRef,
        {**parameters, "round": round},
        name=f"decode round {round}",
        tags=[f"round:{round}"],
    )


def learn(
    workspace: Workspace,
    run_id: str | None,
    profile: Profile,
    variant: Variant,
    round: int,
    validation: str,
    propensities: Sequence[PropensityRef],
    *,
    on: Place = Place.HERE,
    retrained: bool = False,
) -> Learning:
    """Submit all stages of one variant, so that variants run in parallel, wherever they run."""
    with tags(f"variant:{variant}"):
        training_set = subsample_variant.submit(workspace, profile, variant, round, validation, propensities)
        if on is Place.POOLS:
            trained = train_on_pool.submit(workspace, profile, training_set, validation, run_id, retrained)  # type: ignore[call-overload]  # Prefect resolves futures

            def end_on_pool() -> LearnedRef:
                training_set.result()
                return trained.result()

            return end_on_pool
        start = initial_adapter.submit(workspace, profile, variant, round)
        seeds = [
            train_variant.submit(workspace, profile, training_set, seed, validation, start, on)  # type: ignore[call-overload]  # Prefect resolves futures
            for seed in profile.seeds
        ]
        selected = select_checkpoint.submit(variant, seeds)

    def end() -> LearnedRef:
        data = training_set.result()
        for each in (start, *seeds):
            each.result()  # a failed task says why; the tasks that wait for it do not know
        chosen = selected.result()
        version = register_variant(workspace, run_id, profile, data, chosen, validation, retrained)
        return LearnedRef(training_set=data, selected=chosen, registered=version)

    return end


def guard(
    workspace: Workspace, profile: Profile, learned: Mapping[str, LearnedRef], validation: str
) -> dict[str, LearnedRef]:
    """Measure the guard rails of versions of free text, in parallel, except for those that a pool has measured."""
    left = {variant: each for variant, each in learned.items() if each.guard_rails is None}
    if not left or not scenario(profile.scenario).free_text:
        return dict(learned)
    seed = seed_rails(workspace, profile, validation)
    measured = {
        variant: with_rails.submit(workspace, profile, each, validation, seed) for variant, each in left.items()
    }
    return {**learned, **{variant: future.result() for variant, future in measured.items()}}


@task(name="train on the pool", task_run_name="train {training_set.variant} on the pool", **PATIENT)
def train_on_pool(
    workspace: Workspace,
    profile: Profile,
    training_set: TrainingSetRef,
    validation: str,
    run_id: str | None,
    retrained: bool = False,
) -> LearnedRef:
    """Train, select and register on a GPU worker, unless the same was done before."""
    variant, round = training_set.variant, training_set.round
    start = registry.previous(workspace, variant, round) if variant != SEED else None
    settings = {"profile": as_json(profile), "validation": validation, "retrained": retrained}
    made_from = {
        "data": training_set.data_hash,
        "start": start.tags["adapter_hash"] if start else None,
        "base": base_sha256(profile.base) or profile.base,
        "validation_sha256": curated.stored(workspace.open(), validation).sha256,
        **settings,
    }
    return on_pool(
        workspace,
        "train-variant/train-variant",
        results.key("train", round, variant, made_from),
        LearnedRef,
        {**settings, "training_set": training_set.model_dump(mode="json"), "run_id": run_id},
        name=f"{'retrain' if retrained else 'train'} {variant}, round {round}",
        tags=[f"round:{round}", f"variant:{variant}"],
    )


def as_json(profile: Profile) -> dict[str, object]:
    """Return the profile as a parameter of a deployment, so that the worker does what was decided here."""
    fields: dict[str, object] = TypeAdapter(Profile).dump_python(profile, mode="json")
    return fields
