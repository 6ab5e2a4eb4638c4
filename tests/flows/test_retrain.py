"""Hyperparameters of the `retrain` form."""

from __future__ import annotations

from dataclasses import asdict, replace

from flows.entrypoints import next_round, run_simulation, run_study
from flows.retrain import Hyperparameters, retrain
from respect_core.profiles import PROFILES, profile
from respect_core.variants import Variant, fft, kto, rl


def test_what_has_a_default_has_it_for_every_objective_of_table_1() -> None:
    given = {name: value for name, value in Hyperparameters().model_dump().items() if value is not None}
    for config in (fft(), rl(), kto()):
        assert given.items() <= asdict(config).items()


def test_every_field_explains_itself() -> None:
    assert all(field.description for field in Hyperparameters.model_fields.values())


def test_an_untouched_form_trains_as_the_profile_says() -> None:
    for name in ("tiny", "idefics2-8b"):
        assert Hyperparameters().of(profile(name), Variant.T_KTO) == profile(name)


def test_only_the_variants_objective_changes() -> None:
    before = profile("tiny")
    after = Hyperparameters(learning_rate=1e-3, max_steps=8).of(before, Variant.B_RL)
    changed = replace(before.training[Variant.B_RL.objective], learning_rate=1e-3, max_steps=8, checkpoint_every=2)
    assert after.training == {**before.training, Variant.B_RL.objective: changed}


def test_forms_offer_the_profiles_there_are() -> None:
    assert retrain.parameters.properties["profile"]["enum"] == list(PROFILES)
    for form in (next_round, run_study, run_simulation):
        (fields,) = (each for each in form.parameters.definitions.values() if "profile" in each.get("properties", {}))
        assert fields["properties"]["profile"]["enum"] == list(PROFILES)
