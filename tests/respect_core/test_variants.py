"""Table 1 and the variants, as the paper prints them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from respect_core.profiles import PROFILES, Profile, profile
from respect_core.variants import (
    DEPLOYABLE,
    SYSTEMS,
    DecoderKind,
    Objective,
    TrainingConfig,
    Variant,
    fft,
    kto,
    rl,
    seed_policy,
)

# Optimizer, learning rate, decay, epochs, warm-up steps, weight decay, effective batch size, entropy weight (KTO's by
# deviation 2).
TABLE_1 = {
    Objective.FFT: ("adamw", 1e-4, "cosine", 20, 10, 0.01, 64, 0.01),
    Objective.RL: ("adamw", 1e-4, "cosine", 20, 10, 0.01, 64, 0.01),
    Objective.KTO: ("rmsprop", 1e-5, "constant", 20, 10, 0.01, 64, 0.01),
}


def test_table_1() -> None:
    for config in (fft(), rl(), kto()):
        assert TABLE_1[config.objective] == (
            config.optimizer,
            config.learning_rate,
            config.schedule,
            config.epochs,
            config.warmup_steps,
            config.weight_decay,
            config.batch_turns,
            config.entropy_weight,
        )
        assert config.length_normalised
        assert config.max_steps is None
    assert kto().kto_beta == 0.5
    assert not kto().kto_length_normalised
    assert (fft().label_smoothing, rl().label_smoothing, kto().label_smoothing) == (0.1, 0, 0)  # section 4.2
    assert (rl().negative_reward, rl().positive_to_negative) == (-0.1, 5 / 4)
    assert [config.from_previous_adapter for config in (fft(), rl(), kto())] == [False, False, True]
    assert (seed_policy().schedule, seed_policy().epochs) == ("constant", 40)


def test_ktos_weights_are_those_of_the_papers_rounds() -> None:
    """4 : 1 for the policies of rounds 1 and 2, 1 : 1 for that of round 3 (appendix B.3, KTO Stability)."""
    paper = profile("idefics2-8b")
    weights = [(config.kto_desirable, config.kto_undesirable) for config in map(_kto(paper), range(5))]
    assert weights == [(4, 1), (4, 1), (1, 1), (1, 1), (1, 1)]
    assert paper.settings("b-rl", 4) == paper.training[Objective.RL]
    assert paper.settings("seed", 4) == paper.seed_training


def test_an_engine_is_part_of_a_recipe_without_the_terms_that_it_lacks() -> None:
    plain = profile("idefics2-8b")
    assert plain.on("packed") == plain
    for variant, round in (("b-fft", 0), ("b-kto", 0), ("b-kto", 2)):
        before, after = plain.settings(variant, round), plain.on("trl").settings(variant, round)
        assert (before.engine, after.engine) == ("packed", "trl") and after.on("trl") == after
        assert (after.entropy_weight, after.length_normalised, after.kto_reference) == (0, False, "initial")
        assert (after.kto_desirable, after.label_smoothing) == (before.kto_desirable, before.label_smoothing)
    assert plain.on("trl").settings("seed", 0) == plain.seed_training


def test_changed_training_settings_hold_in_every_round() -> None:
    changed = profile("idefics2-8b").with_training(max_steps=7)
    assert {changed.settings(variant, round).max_steps for variant in Variant for round in (0, 2)} == {7}
    one = profile("idefics2-8b").with_training([Objective.RL], max_steps=7)
    assert [one.settings(variant, 2).max_steps for variant in ("b-fft", "b-rl", "b-kto")] == [None, 7, None]
    assert one.settings("b-kto", 2).kto_desirable == 1


def _kto(of: Profile) -> Callable[[int], TrainingConfig]:
    return lambda round: of.settings(Variant.B_KTO, round)


def test_six_variants() -> None:
    assert [(each.decoder, each.objective) for each in SYSTEMS] == [
        (decoder, objective) for objective in Objective for decoder in DecoderKind
    ]
    plus = Variant("b-fft+")
    assert {*SYSTEMS, plus, Variant.SHUFFLED} == set(Variant) and plus not in SYSTEMS
    assert Variant.SHUFFLED not in DEPLOYABLE and {*SYSTEMS, plus} < set(DEPLOYABLE)
    assert (plus.decoder, plus.objective) == (DecoderKind.BINARY, Objective.FFT)
    assert Variant("t-kto") is Variant.T_KTO


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_train_every_objective(name: str) -> None:
    chosen = profile(name)
    assert {objective: config.objective for objective, config in chosen.training.items()} == {o: o for o in Objective}


def test_adapters_are_the_papers_and_in_tiny_on_words_too() -> None:
    paper, words = profile("idefics2-8b").lora, profile("tiny").lora
    assert (paper.rank, paper.alpha, paper.dropout) == (8, 8, 0.1)
    assert (words.rank, words.alpha, words.dropout) == (16, 16, 0.1)
    embeddings, query = "model.text_model.embed_tokens", "model.text_model.layers.0.self_attn.q_proj"
    assert [bool(re.fullmatch(lora.targets, embeddings)) for lora in (paper, words)] == [False, True]
    assert all(re.fullmatch(lora.targets, query) for lora in (paper, words))


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="idefics2-8b"):
        profile("large")
