"""The trainer on a model small enough to learn a toy by heart in seconds."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from paths import TESTS
from toy import CONFIGS, base, features, toy, validate

from respect_core.interaction import Interaction, Turn
from respect_core.learning import batch_loss, checkpoints, trainer
from respect_core.learning.gradients import TrainingError
from respect_core.learning.trainer import TrainingResult, train
from respect_core.model.base import adapter_hash, attach_lora, load_adapter, save_adapter
from respect_core.model.packing import Key, collate, encode, score
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import LoraConfig, Objective, fft, kto, rl

REFERENCE = TESTS / "reference" / "training.json"


@pytest.fixture(scope="module")
def seed_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seed") / "adapter"
    save_adapter(attach_lora(base(), LoraConfig(), seed=7), path)
    return path


def _train(name: str, out: Path, seed_adapter: Path, *, seed: int = 0, **changes: Any) -> TrainingResult:
    config = replace(CONFIGS[name], **changes)
    return train(
        base(),
        toy(negatives=config.objective is not Objective.FFT),
        None,
        config,
        LoraConfig(),
        seed,
        out,
        features=features(),
        init_adapter=seed_adapter if config.from_previous_adapter else None,
    )


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_reference_curve(name: str, tmp_path: Path, seed_adapter: Path) -> None:
    """A refactor keeps the loss of every step. RESPECT_WRITE_REFERENCE=1 stores new curves; say why in the commit.

    On one core: with more, a batch goes through in other parts, which draw other dropout.
    """
    with models.threads(1):
        history = _train(name, tmp_path, seed_adapter).history
    curve = {"loss": [record.loss for record in history], "grad_norm": [record.grad_norm for record in history]}
    stored = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    if os.environ.get("RESPECT_WRITE_REFERENCE"):
        REFERENCE.write_text(json.dumps(dict(sorted((stored | {name: curve}).items())), indent=1) + "\n")
    else:
        assert curve["loss"] == pytest.approx(stored[name]["loss"], abs=1e-6)
        assert curve["grad_norm"] == pytest.approx(stored[name]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_same_seed_same_adapter_bit_for_bit(name: str, tmp_path: Path, seed_adapter: Path) -> None:
    before = torch.get_rng_state()
    short = {"max_steps": 4, "checkpoint_every": 2}
    first = _train(name, tmp_path / "first", seed_adapter, **short)
    assert torch.equal(torch.get_rng_state(), before), "training left the global generator changed"
    assert not torch.are_deterministic_algorithms_enabled()
    torch.rand(3)  # nor does it depend on it
    again = _train(name, tmp_path / "again", seed_adapter, **short)
    other = _train(name, tmp_path / "other", seed_adapter, seed=1, **short)
    hashes = [[adapter_hash(point.adapter) for point in run.checkpoints] for run in (first, again, other)]
    assert len(hashes[0]) == 2
    assert hashes[0] == hashes[1]
    assert not set(hashes[0]) & set(hashes[2])


def test_learns_a_toy_by_heart(tmp_path: Path) -> None:
    config = replace(
        CONFIGS["fft"], max_steps=40, epochs=40, checkpoint_every=20, learning_rate=2e-2, label_smoothing=0
    )
    steps: list[tuple[int, int]] = []
    result = train(
        base(),
        toy(),
        validate,
        config,
        LoraConfig(),
        0,
        tmp_path,
        features=features(),
        progress=lambda record, total: steps.append((record.step, total)),
    )
    assert result.history[-1].loss < result.history[0].loss / 3
    figures = [point.validation["exact_match"] for point in result.checkpoints]
    assert figures[-1] == 1.0 > validate(attach_lora(base(), LoraConfig(), seed=0))["exact_match"]
    assert [point.adapter.name for point in result.checkpoints] == ["step-000020", "step-000040"]
    assert steps == [(step, 40) for step in range(1, 41)]
    # What is saved is what was validated.
    assert validate(load_adapter(base(), result.checkpoints[-1].adapter)) == result.checkpoints[-1].validation
    lines = [json.loads(line) for line in (tmp_path / checkpoints.HISTORY).read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == [record.loss for record in result.history]
    assert [line["exact_match"] for line in lines if "checkpoint" in line] == figures
    assert result.turns == 40 * 9
    assert 0 <= result.padding < 0.1
    assert result.turns_per_second > 0


def test_validation_does_not_change_training(tmp_path: Path) -> None:
    """Not even one that draws from the global generator."""

    def careless(model: Any) -> dict[str, float]:
        torch.rand(5)
        return validate(model)

    hashes = []
    for number, check in enumerate((None, careless)):
        run = train(base(), toy(), check, CONFIGS["fft"], LoraConfig(), 0, tmp_path / str(number), features=features())
        hashes.append(adapter_hash(run.checkpoints[-1].adapter))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", ["rl", "kto"])
def test_negatives_lose_to_positives(name: str, tmp_path: Path, seed_adapter: Path) -> None:
    """After 'all', the wrong single click becomes less likely against selecting everything."""
    changes = {"max_steps": 40, "epochs": 40, "learning_rate": 1e-2, "entropy_weight": 0.0}
    result = _train(name, tmp_path, seed_adapter, **changes)

    def preference(adapter: Path) -> float:
        game = Interaction("new", tuple(sorted(models.images())[-3:]), (Turn("", "all", "select A B C"),))
        row = encode(game, base().processor, SCENARIO, alternatives={0: "select A"})
        with torch.no_grad():
            scores = score(load_adapter(base(), adapter), collate([row], 0), features())
        right, wrong = scores.logp.sum(-1).tolist()
        return right - wrong

    assert preference(result.checkpoints[-1].adapter) > preference(seed_adapter) + 1


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_micro_batches_do_not_change_the_step(name: str, tmp_path: Path) -> None:
    """Without dropout: the loss is the same, and so is everything that it is made of."""
    histories = [
        train(
            base(),
            toy(negatives=name != "fft"),
            None,
            replace(CONFIGS[name], micro_batch_interactions=size, max_steps=3, from_previous_adapter=False),
            LoraConfig(dropout=0.0),
            0,
            tmp_path / f"{name}{size}",
            features=features(),
        ).history
        for size in (1, 2, 6)
    ]
    figures = ("loss", "objective", "entropy", "log_ratio_positive", "log_ratio_negative", "z0")
    for one in figures:
        curves = [[getattr(record, one) for record in history] for history in histories]
        told = [value is not None for value in curves[0]]
        assert told == [name == "kto" or one in figures[:3]] * 3
        assert curves == [pytest.approx(curves[0], abs=1e-5)] * 3


def test_kto_starts_where_the_adapter_left_off(tmp_path: Path, seed_adapter: Path) -> None:
    """At a rate of zero it stays that adapter; its first log-ratios under the true reference are zero."""
    still = _train("kto", tmp_path / "still", seed_adapter, learning_rate=0.0, max_steps=1)
    weights = [load_adapter(base(), path).state_dict() for path in (seed_adapter, still.checkpoints[-1].adapter)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    model = load_adapter(base(), seed_adapter, trainable=True)
    config = replace(CONFIGS["kto"], entropy_weight=0.0, kto_desirable=1.0)
    data = toy(2, negatives=True)
    reference = batch_loss.references(model, data, base(), features(), config)
    games = {e.interaction.interaction_id: Game(e.interaction, e.labels, (0, 1, 2)) for e in data}
    rows = [batch_loss.encode_game(game, base(), config) for game in games.values()]
    scores = score(model.eval(), collate(rows, 0), features())
    loss = batch_loss.turn_losses(scores, games, config, reference).loss
    torch.testing.assert_close(loss, torch.full_like(loss, 0.5))  # 1 - sigmoid(0)


def test_kto_reference_is_logged_or_scored(seed_adapter: Path) -> None:
    model = load_adapter(base(), seed_adapter, trainable=True)
    example = toy(2, negatives=True)[1]
    turns = (replace(example.interaction.turns[0], probability=None), *example.interaction.turns[1:])
    example = Example(replace(example.interaction, turns=turns), (-1, 1, None))
    by_config = {
        source: batch_loss.references(model, [example], base(), features(), replace(kto(), kto_reference=source))
        for source in ("logged", "initial")
    }
    logged, initial = by_config["logged"], by_config["initial"]
    assert logged[Key("toy-1", 1)] == math.log(0.2) != initial[Key("toy-1", 1)]
    assert logged[Key("toy-1", 0)] == initial[Key("toy-1", 0)] < 0  # without p, the initial adapter's
    assert logged[Key("toy-1", 0, True)] == initial[Key("toy-1", 0, True)]  # alternatives always are the adapter's
    assert Key("toy-1", 2) not in logged  # context only
    unlikely = replace(example.interaction, turns=(turns[0], replace(turns[1], probability=1e-6), turns[2]))
    data = [Example(unlikely, example.labels), Example(replace(unlikely, interaction_id="d0"), example.labels, True)]
    clamped = batch_loss.references(model, data, base(), features(), kto())
    assert clamped[Key("toy-1", 1)] == math.log(0.01)  # as p of equation 2
    assert {key.interaction_id for key in clamped} == {"toy-1"}, "D0 needs no reference"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_rehearsed_turns_have_cross_entropy_under_every_objective(name: str, seed_adapter: Path) -> None:
    """And nothing to say in z0."""
    model = load_adapter(base(), seed_adapter).eval()
    data = [replace(example, rehearsed=number < 2) for number, example in enumerate(toy(4, negatives=True))]
    games = {e.interaction.interaction_id: Game(e.interaction, e.labels, (0, 1, 2), e.rehearsed) for e in data}
    config = replace(CONFIGS[name], entropy_weight=0.0, label_smoothing=0.0)
    reference = batch_loss.references(model, data, base(), features(), config)
    rows = [batch_loss.encode_game(game, base(), config) for game in games.values()]
    scores = score(model, collate(rows, 0), features())
    assert any(key.alternative for key in scores.keys) == (name == "kto")
    assert not any(key.alternative for key in scores.keys if games[key.interaction_id].rehearsed)
    loss, parts = batch_loss.turn_losses(scores, games, config, {k: v - 1 for k, v in reference.items()})
    kept = [n for n, key in enumerate(scores.keys) if not key.alternative]
    rehearsed = torch.tensor([games[scores.keys[n].interaction_id].rehearsed for n in kept])
    cross_entropy = -(scores.logp.sum(-1) / scores.mask.sum(-1))[kept]
    torch.testing.assert_close(loss[rehearsed], cross_entropy[rehearsed])
    objective, rehearsal, *_, of_positives, of_negatives = parts.nanmean(0).tolist()
    assert (objective, rehearsal) == pytest.approx(
        (loss[~rehearsed].mean().item(), cross_entropy[rehearsed].mean().item())
    )
    if name == "kto":  # each reference is 1 below the policy, which z0 sees too: no turn has gained anything
        assert of_positives == of_negatives == pytest.approx(1)
        positive = torch.tensor([games[scores.keys[n].interaction_id].labels[0] == 1 for n in kept])
        torch.testing.assert_close(loss[~rehearsed], torch.where(positive, 2.0, 0.5).to(loss)[~rehearsed])


def test_rl_weighs_entropy_by_the_reward(seed_adapter: Path) -> None:
    """Appendix B.3, Data Imbalance: a negative's loss has the weight 0.1, and so has its entropy."""
    model, data = load_adapter(base(), seed_adapter).eval(), toy(2, negatives=True)
    games = {e.interaction.interaction_id: Game(e.interaction, e.labels, (0, 1, 2)) for e in data}
    config = replace(rl(), entropy_weight=0.5)
    rows = [batch_loss.encode_game(game, base(), config) for game in games.values()]
    scores = score(model, collate(rows, 0), features(), with_entropy=True)
    loss = batch_loss.turn_losses(scores, games, config, {}).loss
    plain = batch_loss.turn_losses(scores, games, replace(config, entropy_weight=0.0), {}).loss
    assert scores.entropy is not None
    entropy = scores.entropy.sum(-1) / scores.mask.sum(-1)
    negative = torch.tensor([games[key.interaction_id].labels[key.turn] == -1 for key in scores.keys])
    assert negative.any() and not negative.all()
    torch.testing.assert_close(loss - plain, -0.5 * entropy * torch.where(negative, 0.1, 1.0))


def test_the_adapter_that_training_starts_from_is_a_candidate(tmp_path: Path, seed_adapter: Path) -> None:
    """Training that ruins the policy chooses the adapter that it started from."""
    config = replace(CONFIGS["kto"], learning_rate=30.0, warmup_steps=0)
    data = (base(), toy(negatives=True), validate, config, LoraConfig(), 0)
    result = train(*data, tmp_path, features=features(), init_adapter=seed_adapter)
    assert [point.step for point in result.checkpoints] == [0, 4, 8]
    start = result.checkpoints[0]
    assert adapter_hash(start.adapter) == adapter_hash(seed_adapter)
    assert start.validation == validate(load_adapter(base(), seed_adapter))
    assert all(point.validation["exact_match"] <= start.validation["exact_match"] for point in result.checkpoints)


def test_rmsprop_decays_by_the_rate_alone() -> None:
    """The stock optimizer walks a weight to zero at the full rate where the loss's gradient is small."""
    config = replace(kto(), learning_rate=1e-2, weight_decay=0.1)
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = trainer.make_optimizer(model, config)
    for step in range(1, 21):
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        assert model.weight.item() == pytest.approx((1 - 1e-3) ** step)


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        ("", "select A", "select B"),
        ("", "select C", "select A"),
        ("", "select A B", "select A"),
        ("A", "deselect A", "select B"),
        ("AB", "select C", None),
        ("A", "deselect A select B", "select B"),
    ],
)
def test_alternative_action(state: str, action: str, expected: str | None) -> None:
    found = SCENARIO.alternative(Interaction("g", ("x", "y", "z"), (Turn(state, "say", action),)), 0)
    assert found == expected
    assert found is None or actions.is_legal(found, state, 3)


def test_alternative_keeps_its_image_when_images_are_shuffled() -> None:
    game = Game(Interaction("g", ("x", "y", "z"), (Turn("", "say", "select A", 0.5),)), (1,), (2, 0, 1))
    row = batch_loss.encode_game(game, base(), kto())
    shown = [base().processor.tokenizer.decode(span.targets) for span in row.spans]
    assert row.images == ("z", "x", "y")
    assert [text.split("<")[0].strip() for text in shown] == ["select B", "select C"]  # x as logged, and y


def test_references_have_no_dropout(seed_adapter: Path) -> None:
    model = load_adapter(base(), seed_adapter, trainable=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)  # at the fresh adapter's zero, dropout has no effect
    config = replace(kto(), kto_reference="initial")
    scored = [batch_loss.references(model.train(mode), toy(1), base(), features(), config) for mode in (True, False)]
    assert scored[0] == scored[1]
    batch_loss.references(model.train(), toy(1), base(), features(), config)
    assert model.training


def test_a_step_has_the_gradient_of_its_batch_alone(tmp_path: Path) -> None:
    """At a rate of zero every step sees the same gradient. With one image, every epoch has it in the same place."""
    config = replace(CONFIGS["fft"], learning_rate=0.0, batch_turns=18, max_grad_norm=1e9)
    turns = (Turn("", "all", "select A", 0.2), Turn("A", "undo", "deselect A", 0.2), Turn("", "all", "select A", 0.2))
    images = sorted(models.images())[:6]
    data = [Example(Interaction(f"toy-{image}", (image,), turns), (1, 1, 1)) for image in images]
    history = train(base(), data, None, config, LoraConfig(dropout=0.0), 0, tmp_path, features=features()).history
    norms = [record.grad_norm for record in history]
    assert len(norms) == 8 and norms[0] > 0
    assert norms == pytest.approx([norms[0]] * 8, rel=1e-6)


def test_from_scratch_or_continued_as_configured(tmp_path: Path, seed_adapter: Path) -> None:
    arguments = (base(), toy(), None)
    with pytest.raises(ValueError, match="kto continues an adapter"):
        train(*arguments, CONFIGS["kto"], LoraConfig(), 0, tmp_path, features=features())
    with pytest.raises(ValueError, match="fft starts from scratch"):
        train(*arguments, CONFIGS["fft"], LoraConfig(), 0, tmp_path, features=features(), init_adapter=seed_adapter)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    data = [replace(example, labels=(None,) * 3) for example in toy()]
    with pytest.raises(ValueError, match="6 games, and no positive turn"):
        train(base(), data, None, CONFIGS["fft"], LoraConfig(), 0, tmp_path, features=features())


def test_rl_without_p_fails_before_the_first_step(tmp_path: Path) -> None:
    data = [
        replace(
            e,
            interaction=replace(e.interaction, turns=tuple(replace(t, probability=None) for t in e.interaction.turns)),
        )
        for e in toy(negatives=True)
    ]
    with pytest.raises(ValueError, match=r"toy-1 turn 0, .*--propensity"):
        train(base(), data, None, CONFIGS["rl"], LoraConfig(), 0, tmp_path, features=features())


def test_non_finite_loss_names_step_and_games(tmp_path: Path) -> None:
    config = replace(CONFIGS["fft"], learning_rate=1e200, warmup_steps=0, weight_decay=0.0)
    with pytest.raises(TrainingError, match=r"step [2-8]: the (loss|gradient) is (nan|inf) on toy-\d"):
        train(base(), toy(), None, config, LoraConfig(), 0, tmp_path, features=features())


def test_learning_rate() -> None:
    cosine = replace(fft(), learning_rate=1.0, warmup_steps=10)
    rates = [trainer.learning_rate(cosine, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = replace(cosine, schedule="constant")
    assert {trainer.learning_rate(constant, step, 110) for step in range(10, 110)} == {1.0}
    linear = replace(cosine, schedule="linear")
    falling = [trainer.learning_rate(linear, step, 110) for step in range(110)]
    assert falling[:11] == rates[:11]
    assert falling[10:] == pytest.approx([1 - step / 100 for step in range(100)])


def test_plan_ends_with_the_steps_or_the_epochs() -> None:
    config = replace(fft(), epochs=3, batch_turns=9)
    plan = trainer.plan_steps(toy(), config, 0)
    assert [epoch for epoch, _ in plan] == [0, 0, 1, 1, 2, 2]
    assert trainer.plan_steps(toy(), replace(config, max_steps=3), 0) == plan[:3]
    checkpoints = [trainer.is_checkpoint(plan, step, config) for step in range(len(plan))]
    assert checkpoints == [False, True] * 3
