"""Who is forgotten leaves no word in a run's folder, and nobody meets or continues what learned from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from here import ByWord, record_workers
from small import smallest
from traces import in_folder
from typer.testing import CliRunner

from deployments.cli.main import app
from flows import demo as demo_module
from flows import parameters as parameters_module
from flows.demo import demo
from flows.entrypoints import retention
from flows.parameters import DemoParameters, RetentionParameters
from flows.promote import promote, rollback
from flows.promotion_parameters import PromoteParameters, RollbackParameters
from respect_core.learning import validation
from respect_core.log.log import append_logs, read_logs
from respect_core.release import ledger, lineage
from respect_core.store.tables import read_table
from respect_core.variants import Variant
from tasks.games.annotating import sample
from tasks.registry import registry
from tasks.registry.forgotten import tainted
from tasks.round.redecode import configure, redecode_round
from tasks.support.workspace import Workspace, workspace

pytestmark = [pytest.mark.timeout(600), pytest.mark.heavy]
ANN, SECRET = "0a11ce0a11ce0a11", "zébra"
ONE, TWO = "respect.b-kto/1", "respect.b-kto/2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Workspace]:
    """A round of b-kto on eight games of simulated users and three of Ann's."""
    made = workspace(tmp_path_factory.mktemp("forget") / "runs" / "main")
    round = demo_module.round

    def with_ann(*given: Any, **more: Any) -> Any:
        (key,) = made.open().keys("interactions/")
        games = []
        for number, log in enumerate(list(read_logs(made.open(), key))[:3]):
            turns = [turn.model_copy(update={"utterance": f"no {SECRET} {turn.utterance}"}) for turn in log.turns]
            change = {"interaction_id": f"ann-{number}", "user": ANN, "turns": turns, "closing": f"no {SECRET}"}
            games.append(log.model_copy(update=change))
        append_logs(made.open(), games)
        return round(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "choose", lambda found: max(found, key=lambda one: one.step))
        record_workers(patch)
        patch.setattr(parameters_module, "named_profile", smallest)
        patch.setattr("respect_core.feedback.decoder.FeedbackDecoder", ByWord)
        patch.setattr(demo_module, "round", with_ann)
        patch.chdir(made.root.parents[1])
        demo(made, DemoParameters(games=8, replay=0, variants=[Variant.B_KTO]))
        sample(made, 0, "seed", games=20, turns=5, triple=0.0, seed=0, out=made.root / "tasks.jsonl")
        redecode_round(made, configure("smollm2", "zero-shot", None), 0, "other")
        yield made


def _respect(*command: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*command, "--run", "main"])
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


def test_no_word_is_left_and_what_learned_from_it_reaches_nobody(place: Workspace) -> None:
    found = in_folder(place.root, SECRET)
    for kind in (
        "tasks.jsonl",
        "mlartifacts",
        "report/index",
        "annotation_tasks",
        "interactions",
        "training_sets",
        "turns",
    ):
        assert any(kind in each for each in found), kind
    entry = ledger.promotion(
        [], "respect.b-kto", from_version="respect.seed/1", to_version=ONE,
        adapter_hash=registry.named(place, ONE).tags["adapter_hash"], actor="eve",
    )  # fmt: skip
    ledger.append(place.open(), entry)
    said = _respect("forget", "--pseudonym", ANN)
    assert in_folder(place.root, SECRET) == []
    assert f"{ONE} learned from it" in said and "`respect rollback b-kto`, which puts back respect.seed/1" in said
    assert {row["user"] for row in read_table(place.open(), "turns").to_pylist()}.isdisjoint({ANN})
    (key,) = place.open().keys("forgotten/receipts/")
    receipt = json.loads(place.open().read(key))
    assert receipt["tainted"] == [ONE] and receipt["interactions"] == 3 and not receipt["left"]
    assert ANN in str(lineage.feedback_by_user(place.open(), ONE)), "it can still be traced"
    assert "3 interactions" in _respect("forget", "--pseudonym", ANN), "again changes nothing"

    _respect("rollback", "b-kto")
    refused = promote(place, PromoteParameters(variant=Variant.B_KTO, games=30))
    assert refused.decision == "no promotion" and "users had forgotten" in " ".join(refused.reasons)


def test_a_rollback_does_not_bring_it_back(place: Workspace) -> None:
    history = ledger.entries(place.open(), "respect.b-kto")
    for to in (ONE, "respect.b-kto/9"):
        entry = ledger.promotion(
            history, "respect.b-kto", from_version=history[-1].to_version, to_version=to,
            adapter_hash=registry.named(place, ONE).tags["adapter_hash"], actor="eve",
        )  # fmt: skip
        ledger.append(place.open(), entry)
        history = [*history, entry]
    with pytest.raises(ledger.LedgerError, match="does not come back: it learned from"):
        rollback(place, RollbackParameters(variant=Variant.B_KTO))


def test_retraining_makes_a_clean_candidate(place: Workspace) -> None:
    assert "round 0 again: respect.b-kto/2" in _respect("forget", "--retrain")
    assert registry.aliases(place, "respect.b-kto")[registry.CANDIDATE] == "2"
    assert tainted(place).keys() == {ONE}
    assert not any(name.startswith("ann-") for name in lineage.games(place.open(), TWO))
    assert (place.root / "report" / "index.html").exists() and not in_folder(place.root, SECRET)
    start = registry.previous(place, Variant.B_KTO, 1)
    assert start is not None and str(start.version) == "2"


def test_retention_is_off_until_it_is_set(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.entrypoints.from_environment", lambda: place)
    before = place.open().entries("interactions/")
    assert "off" in str(retention(return_state=True).message) and place.open().entries("interactions/") == before
    done = retention(RetentionParameters(days=30), return_state=True)
    assert "erased 8 interactions" in str(done.message), "simulated users play long ago"
    assert not place.open().entries("interactions/") and not read_table(place.open(), "turns").num_rows
    assert tainted(place).keys() == {ONE}, "what is only old taints nothing"


@pytest.mark.parametrize(
    "command", [[], ["ann", "--older-than", "9d"], ["--older-than", "soon"], ["--pseudonym", "a/b"]]
)
def test_what_is_unclear_is_refused(place: Workspace, command: list[str]) -> None:
    done = CliRunner().invoke(app, ["forget", *command, "--run", "main"])
    assert done.exit_code in (1, 2) and not isinstance(done.exception, AssertionError)
