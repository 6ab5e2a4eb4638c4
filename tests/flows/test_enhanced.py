"""B-FFT+ (appendix D) from round to round: it branches off B-FFT, its vision adapters learn, and are what acts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from here import ByWord, record_workers
from safetensors.torch import load_file
from small import smallest

from flows import parameters as parameters_module
from flows.parameters import StudyParameters
from flows.study import study
from respect_core import variants
from respect_core.acting.policy import Policy
from respect_core.interaction import interactions
from respect_core.model.base import load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.store.images import load_images
from respect_core.store.tables import read_table
from respect_core.variants import Variant
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)

PARAMETERS = StudyParameters.model_construct(
    rounds=2,
    variants=[Variant.B_FFT, Variant.B_FFT_PLUS],
    games=6,
    anchor_games=6,
    human_games=0,
    control=False,
    study_seed=0,
    profile="tiny",
    seeds=None,
    max_steps=None,
)


def _learns(name: str) -> Any:
    """Few steps at a rate that moves what they reach, and no way back to the adapter that it starts from."""
    return smallest(name).with_training(learning_rate=0.02, warmup_steps=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Workspace]:
    """A study of two rounds in which B-FFT+ branches off after round 0."""
    place = workspace(tmp_path_factory.mktemp("enhanced"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", _learns)
        patch.setattr("respect_core.feedback.decoder.FeedbackDecoder", ByWord)
        patch.setattr(variants, "BRANCH_AFTER", 1)
        # The last step's, whatever it is worth: the first candidate is the adapter that it starts from.
        patch.setattr(
            "respect_core.learning.validation.choose", lambda candidates: max(candidates, key=lambda one: one.step)
        )
        record_workers(patch)
        study(place, PARAMETERS)
        yield place


def test_it_branches_off_b_fft(place: Workspace) -> None:
    (version,) = registry.versions(place, "b-fft+")
    assert version.tags["round"] == "1" and version.tags["parent_version"] == "respect.b-fft/1"
    table = read_table(place.open(), "training_sets", [1], ["b-fft+"]).to_pylist()
    learned = {row["interaction_id"].split("-r")[0] for row in table if row["source"] == "round"}
    assert learned <= {"seed", "b-fft"} and "b-fft" in learned
    (run,) = [registry.client(place).get_run(version.run_id)]
    assert "vision_model" in run.data.params["lora_targets"]


def test_vision_adapters_are_trained_and_served(place: Workspace) -> None:
    version = registry.latest(place, "b-fft+")
    assert version is not None
    folder = registry.download(place, version)
    weights = load_file(folder / "adapter_model.safetensors")
    vision = {name: weight for name, weight in weights.items() if "vision_model" in name}
    assert any(weight.any() for name, weight in vision.items() if "lora_B" in name), "all as they began"

    # In round 2 it acted with them: what was logged are its probabilities, and not those without its vision adapters.
    store = place.open()
    games = interactions(read_table(store, "turns", [2], ["b-fft+"]).to_pylist())[:2]
    assert games and {row["policy_name"] for row in read_table(store, "turns", [2], ["b-fft+"]).to_pylist()}
    base = load_base("tiny", SCENARIO)
    features = VisionFeatures(base, load_images(store, sorted({image for game in games for image in game.context})))
    logged = [turn.probability for game in games for turn in game.turns]
    served = [p for game in Policy(base, folder, features).probabilities(games) for p in game]
    assert served == pytest.approx(logged, rel=1e-3)
    blind = Policy(base, folder, features)
    blind.model.model.vision_model = base.model.model.vision_model
    assert [p for game in blind.probabilities(games) for p in game] != pytest.approx(logged, rel=1e-3)


def test_figure_15_has_both(place: Workspace) -> None:
    from respect_core.measuring.evidence import gather
    from respect_core.reporting.figures.curves import figure_15

    evidence = gather(place.open(), "run")
    assert list(evidence.cells) == ["b-fft", "b-fft+"] and list(evidence.cells["b-fft+"]) == [2]
    assert figure_15(evidence.cells) is not None


@pytest.mark.parametrize("changes", [{"variants": [Variant.B_FFT_PLUS]}, {"rounds": 3}])
def test_a_study_that_cannot_branch_is_refused(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "BRANCH_AFTER", 3)  # the fixture's may be in force
    whole = {"variants": [Variant.B_FFT, Variant.B_FFT_PLUS], "rounds": 4}
    StudyParameters(**whole)
    with pytest.raises(ValueError, match="branches off b-fft after round 3"):
        StudyParameters(**whole | changes)
