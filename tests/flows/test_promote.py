"""Promotion with the embedded model, a real Prefect server and MLflow on SQLite: gate, ledger, alias, lineage.

One round makes b-fft/1, and a copy of it whose weights hardly differ is b-fft/2; poisoned copies are versions of b-kto,
which is never deployed. A version is evaluated once, so that all tests use the same few. Workers run here, as
tests/flows/here.py has them; tests/stack and tests/tasks/compute/test_process.py have them in processes of their own.
"""

from __future__ import annotations

import contextvars
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from forked import Forked
from here import ByWord, record_workers
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from safetensors.torch import load_file, save_file
from small import smallest
from typer.testing import CliRunner

from deployments.cli import main
from flows import entrypoints as deployments
from flows import parameters as parameters_module
from flows import promote as promote_module
from flows.demo import demo
from flows.parameters import DemoParameters
from flows.promote import promote, rollback
from flows.promotion_parameters import PromoteParameters, RollbackParameters
from flows.support import terminal
from respect_core.learning import validation
from respect_core.model.base import adapter_hash
from respect_core.profiles import Profile
from respect_core.release import approvals, ledger, lineage, looks
from respect_core.release.gate import gate
from respect_core.release.ledger import LedgerError
from respect_core.store import manifests, tables
from respect_core.store.base import StoreError
from respect_core.training_data import curated as game_sets
from respect_core.variants import Objective, Variant
from tasks.compute import worker
from tasks.compute.process import WorkerCutOffError
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.registry.register import register_variant
from tasks.release import approval
from tasks.release.contest import prepare_gate_games
from tasks.release.promote import PromotionRef
from tasks.round.select import select_checkpoint
from tasks.round.subsample import subsample_variant
from tasks.round.train import initial_adapter, train_variant
from tasks.support import retries
from tasks.support.references import RegisteredRef, TrainingSetRef
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)  # the round itself is in the set-up of the first test

Change = Callable[[Path], None]
SEED_POLICY, ONE, TWO = "respect.seed/1", "respect.b-fft/1", "respect.b-fft/2"
EASY: dict[str, Any] = {"user_share_cap": 1.0, "min_feedback_turns": 1, "margin": 1.0, "games": 30}
"""Of the gate: with any exact match, from ten users, and by thirty games."""


def _profile(name: str = "tiny") -> Profile:
    return replace(smallest(name), validation_games=12)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    """Kind, round and variant of every worker that was started. A training's last checkpoint is chosen, good or bad."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "choose", lambda found: max(found, key=lambda one: one.step))
        yield record_workers(patch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None, workers: list[str]) -> Workspace:
    """A round in which b-fft learned from ten games; twelve games validate, and thirty judge."""
    made = workspace(tmp_path_factory.mktemp("promotion") / "runs" / "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", _profile)
        patch.setattr("respect_core.feedback.decoder.FeedbackDecoder", ByWord)
        demo(made, DemoParameters(games=10, replay=0, variants=[Variant.B_FFT]))
    _copy(made, Variant.B_FFT, tmp_path_factory.mktemp("copy"), _hardly)
    prepare_gate_games(made, _profile(), game_sets.GATE, EASY["games"])
    return made


@pytest.fixture
def fresh(place: Workspace) -> Workspace:
    """The workspace, with nothing of b-fft deployed."""
    while True:
        try:
            rollback(place, RollbackParameters(variant=Variant.B_FFT))
        except LedgerError:
            return place


def _copy(
    place: Workspace, variant: Variant, scratch: Path, change: Change | None = None, of: str = ONE, **tags: str
) -> str:
    """Register an adapter, as if learned as b-fft/1 was, as the next version of `variant`; changed if need be."""
    source = registry.named(place, ONE)
    directory = scratch / f"copy-{variant}"
    shutil.copytree(registry.download(place, registry.named(place, of)), directory)
    if change:
        change(directory / "adapter_model.safetensors")
    tags = {**source.tags, "adapter_hash": adapter_hash(directory), **tags}
    version = registry.register_adapter(place, source.run_id, variant, directory, tags=tags, metrics={}, step=0)
    return f"{version.name}/{version.version}"


def _promote(place: Workspace, variant: Variant = Variant.B_FFT, **parameters: Any) -> PromotionRef:
    return promote(place, PromoteParameters(**{"variant": variant, **EASY, **parameters}))


def _beside(file: Path) -> None:
    """The weights stay; what lies beside them is written otherwise."""
    profile = file.with_name("profile.json")
    profile.write_text(profile.read_text() + "\n")


def _hardly(file: Path) -> None:
    save_file({name: value * (1 + 1e-6) for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def _noise(file: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in load_file(file).items()}
    save_file(noise, file, metadata={"format": "pt"})


def _not_a_number(file: Path) -> None:
    broken = {name: value * torch.nan for name, value in load_file(file).items()}
    save_file(broken, file, metadata={"format": "pt"})


def _garbage(file: Path) -> None:
    file.write_bytes(b"garbage" * 100)


def _is_deployed(place: Workspace, version: str, variant: Variant = Variant.B_FFT) -> bool:
    """Whether ledger, alias and resolution agree on the version."""
    model, store = registry.model_name(variant), place.open()
    last = ledger.last(store, model)
    alias = registry.aliases(place, model).get(registry.DEPLOYED)
    found = deployment.deployed(place, variant)
    assert last is None or found.tags["adapter_hash"] == last.adapter_hash
    by_alias = f"{model}/{alias}" if alias else SEED_POLICY
    return (last.to_version if last else SEED_POLICY) == by_alias == f"{found.name}/{found.version}" == version


def test_promote_rollback_promote(place: Workspace, tmp_path: Path) -> None:
    assert _is_deployed(place, SEED_POLICY)
    result = _promote(place, version=1, actor="ann", reason="first")
    assert (result.decision, result.version, result.entry) == ("promoted", ONE, 1)
    assert _is_deployed(place, ONE)

    result = _promote(place, margin=None)  # the candidate does the same, but both are behind the seed policy
    assert result.decision == "no promotion" and _is_deployed(place, ONE)
    assert all(f"of {SEED_POLICY}, the seed policy" in reason for reason in result.reasons), result.reasons
    result = _promote(place, margin=0.2)
    assert (result.decision, result.version, result.figures["difference"]) == ("promoted", TWO, 0.0)
    assert _is_deployed(place, TWO)
    assert _promote(place).decision == "already deployed"

    for back in (ONE, SEED_POLICY):
        parameters = RollbackParameters(variant=Variant.B_FFT, reason="worse", actor="bob")
        assert rollback(place, parameters).decision == "rolled back"
        assert _is_deployed(place, back)
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        rollback(place, RollbackParameters(variant=Variant.B_FFT))

    assert _promote(place, version=1).decision == "promoted"
    assert _is_deployed(place, ONE)
    entries = ledger.entries(place.open(), "respect.b-fft")
    assert [(each.action, each.from_version, each.to_version) for each in entries] == [
        ("promote", SEED_POLICY, ONE),
        ("promote", ONE, TWO),
        ("rollback", TWO, ONE),
        ("rollback", ONE, SEED_POLICY),
        ("promote", SEED_POLICY, ONE),
    ]
    assert (entries[0].actor, entries[0].reason, entries[2].actor, entries[2].reason) == (
        "ann (unverified)",
        "first",
        "bob (unverified)",
        "worse",
    )
    evidence = entries[0].evidence
    assert evidence["verdict"] == "promotion" and evidence["gate"]["margin"] == 1.0
    assert evidence["figures"]["games"] == 30 and evidence["look"] == entries[0].evidence["figures"]["look"]
    assert evidence["data_hash"] == registry.named(place, ONE).tags["data_hash"]
    games = game_sets.stored(place.open(), "gate").sha256
    assert evidence["validation"] == {"game_set": "gate", "sha256": games}


@pytest.mark.parametrize(
    ("change", "tags", "reason"),
    [
        (_noise, {}, r"exact match .* beyond the allowed loss of 2\.0%"),
        (_not_a_number, {}, "probabilities that are not numbers"),
        (_garbage, {}, "ended with exit code 1"),
        (None, {"adapter_hash": "0" * 64}, "its files hash to .* registered is 0000"),
        (None, {"data_hash": "0" * 64}, "its training set .* is no longer the same"),
    ],
    ids=["noise", "not a number", "garbage", "other files", "unknown data"],
)
def test_a_poisoned_candidate_is_refused(
    place: Workspace, tmp_path: Path, change: Change | None, tags: dict[str, str], reason: str
) -> None:
    version = _copy(place, Variant.B_KTO, tmp_path, change, **tags)
    result = _promote(place, Variant.B_KTO, margin=None)
    assert result.decision == "no promotion"
    assert any(re.search(reason, sentence) for sentence in result.reasons), result.reasons
    assert _is_deployed(place, SEED_POLICY, Variant.B_KTO)
    assert registry.named(place, version).tags["gate"] == "no promotion"


def test_a_candidate_that_learned_from_flipped_labels_is_refused(place: Workspace) -> None:
    """Of two trainings that differ in nothing but the labels' signs, one is deployed and the other is not."""
    _learn(place, flipped=False)
    assert _promote(place, Variant.B_RL, margin=0.25).decision == "promoted"
    before = ledger.entries(place.open(), "respect.b-rl")
    poisoned = _learn(place, flipped=True)
    result = _promote(place, Variant.B_RL, margin=0.25)
    assert result.decision == "no promotion", result.reasons
    assert any("beyond the allowed loss of 25.0%" in reason for reason in result.reasons), result.reasons
    assert registry.named(place, f"{poisoned.model}/{poisoned.version}").tags["gate"] == "no promotion"
    assert ledger.entries(place.open(), "respect.b-rl") == before and len(before) == 1
    assert _is_deployed(place, "respect.b-rl/1", Variant.B_RL)


def test_a_candidate_that_learned_next_to_nothing_is_refused(fresh: Workspace, tmp_path: Path) -> None:
    """From too few turns, or so that the weights are those of what is deployed."""
    result = _promote(fresh, min_feedback_turns=None)
    assert result.decision == "no promotion"
    (reason,) = result.reasons
    assert re.search(r"it learned from \d+ turns with feedback, of \d+ users, .*; the gate asks for 100 turns", reason)
    _copy(fresh, Variant.T_KTO, tmp_path, _beside, of=SEED_POLICY)
    result = _promote(fresh, Variant.T_KTO)
    assert result.decision == "no promotion"
    (reason,) = result.reasons
    assert reason == "respect.t-kto/1 has the weights of respect.seed/1, which is deployed: it learned nothing since"
    assert _is_deployed(fresh, SEED_POLICY) and _is_deployed(fresh, SEED_POLICY, Variant.T_KTO)


@flow
def _learn(place: Workspace, flipped: bool) -> RegisteredRef:
    """b-rl, which goes on from the seed policy, for a few steps at a rate at which they tell."""
    rl = replace(
        _profile().training[Objective.RL],
        max_steps=120,
        checkpoint_every=120,
        warmup_steps=0,
        negative_reward=-1.0,
    )
    profile = replace(_profile(), training=_profile().training | {Objective.RL: rl})
    data = _of_the_round(place, subsample_variant(place, profile, Variant.B_RL, 0, "validation", []), flipped)
    start = initial_adapter(place, profile, Variant.B_RL, 0)
    trained = train_variant(place, profile, data, 0, "validation", start)
    return register_variant(place, None, profile, data, select_checkpoint(Variant.B_RL, [trained]), "validation")


def _of_the_round(place: Workspace, data: TrainingSetRef, flipped: bool) -> TrainingSetRef:
    """Make the training set anew with D0's turns as if decoded: rehearsed by cross entropy, no label could poison them.

    p is 1 where none is. `flipped`: with what was right called wrong, and the other way round.
    """
    store, partition = place.open(), manifests.Partition(data.round, data.variant)
    table = tables.read_table(store, "training_sets", [data.round], [data.variant])
    found = manifests.read_manifest(store, "training_sets", *partition)
    assert found is not None
    (part,) = found.parts
    columns = {
        "source": pa.repeat("round", len(table)),
        "label": pc.negate(table["label"]) if flipped else table["label"],
        "probability": pc.fill_null(table["probability"], 1.0),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    manifest = tables.write_partition(
        store, "training_sets", *partition, table, inputs=part.inputs, counts=part.counts, metadata=part.metadata
    )
    return data.model_copy(update={"data_hash": lineage.data_hash(manifest)})


def test_a_store_that_is_away_is_no_verdict(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the candidate acts, its worker loses the store: in both tries of the first promotion, not afterwards."""
    shutil.rmtree(fresh.scratch / "evaluate" / "gate" / "respect.b-fft" / "2", ignore_errors=True)
    monkeypatch.setattr(retries, "DELAYS", [0.0])
    monkeypatch.setattr(promote_module, "examine", promote_module.examine.with_options(retries=1))
    _promote(fresh, version=1)  # what is deployed acts before the store goes
    registry.client(fresh).delete_model_version_tag("respect.b-fft", "2", "gate")
    read, away = game_sets.read, [2]

    def lost(*arguments: Any) -> Any:
        if away[0]:
            away[0] -= 1
            raise StoreError("s3://bucket cannot be reached")
        return read(*arguments)

    monkeypatch.setattr(worker, "curated", SimpleNamespace(read=lost))
    with pytest.raises(WorkerCutOffError, match="s3://bucket cannot be reached"):
        _promote(fresh, version=2)
    assert away == [0] and "gate" not in registry.named(fresh, TWO).tags
    assert _is_deployed(fresh, ONE)
    away[0] = 1
    assert _promote(fresh, version=2).decision == "promoted"
    assert away == [0] and _is_deployed(fresh, TWO)


@pytest.mark.parametrize("what", ["adapter", "games"])
def test_what_was_examined_is_what_is_promoted(fresh: Workspace, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Between verdict and entry, which may be a day, the version or the games become others."""
    store, key = fresh.open(), game_sets.stored(fresh.open(), "gate").key
    games, tag, mlflow = store.read(key), registry.named(fresh, TWO).tags["adapter_hash"], registry.client(fresh)

    def replaced(*_: Any) -> None:
        if what == "games":
            store.put(key, games.splitlines(keepends=True)[0])
        else:
            mlflow.set_model_version_tag("respect.b-fft", "2", "adapter_hash", "0" * 64)

    monkeypatch.setattr(promote_module, "report_gate", replaced)
    expected = "the game set 'gate' was replaced" if what == "games" else f"{TWO} is not what was examined"
    try:
        with pytest.raises(ValueError, match=expected):
            _promote(fresh, version=2)
    finally:
        store.put(key, games)
        mlflow.set_model_version_tag("respect.b-fft", "2", "adapter_hash", tag)
    assert _is_deployed(fresh, SEED_POLICY)


def test_games_that_the_candidate_learned_from_do_not_judge_it(fresh: Workspace, workers: list[str]) -> None:
    """Every candidate rehearsed D0."""
    examined = len(workers)
    with pytest.raises(ValueError, match=rf"{ONE} learned from 3 games of 'd0', such as .*: name another set"):
        _promote(fresh, version=1, game_set="d0")
    assert len(workers) == examined and _is_deployed(fresh, SEED_POLICY)


def test_games_that_chose_its_checkpoint_do_not_judge_it(fresh: Workspace, workers: list[str]) -> None:
    examined, looked = len(workers), looks.read(fresh.open(), "respect.b-fft")
    with pytest.raises(ValueError, match=rf"{ONE} was chosen by 12 games of 'validation', which are in 'validation'"):
        _promote(fresh, version=1, game_set="validation")
    assert len(workers) == examined and looks.read(fresh.open(), "respect.b-fft") == looked
    chosen_by, judged_by = (
        {log.interaction_id for log in game_sets.read(fresh.open(), name)} for name in ("validation", "gate")
    )
    assert not chosen_by & judged_by


def test_each_candidate_is_a_look_and_asking_again_is_none(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is said before anything acts, and grows; what is deployed stays where games are too few."""
    said: list[str] = []
    monkeypatch.setattr("tasks.support.progress.say", said.append)
    before = len(looks.read(fresh.open(), "respect.b-fft"))
    results = [_promote(fresh, version=2, margin=0.5, user_share_cap=0.01) for _ in range(2)]
    asked = looks.read(fresh.open(), "respect.b-fft")
    look = int(results[0].figures["look"])
    assert len(asked) <= before + 1 and results[1].figures["look"] == look
    assert asked[look - 1].question.candidate == TWO
    assert asked[look - 1].question.against["deployed"] == SEED_POLICY
    needed = gate("tiny").needed(look)
    assert said[0] == said[1]
    assert f"{TWO} against {SEED_POLICY}: look {look} needs {needed} games" in said[0] and "30 are accepted" in said[0]
    _promote(fresh, version=1)
    result = _promote(fresh, version=2, user_share_cap=0.01)
    assert result.figures["look"] != look and "seed_difference" in result.figures


def test_a_candidate_that_learned_too_much_from_one_user_is_refused(fresh: Workspace) -> None:
    result = _promote(fresh, user_share_cap=0.05)
    assert result.decision == "no promotion"
    (reason,) = result.reasons
    assert "over the cap of 5.0%" in reason and str(result.figures["user"]) in reason
    assert _is_deployed(fresh, SEED_POLICY)


def test_of_two_promotions_at_once_one_wins(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival goes through while the other's verdict is out: that verdict compared to what is not deployed."""
    report = promote_module.report_gate

    def overtaken(*_: Any) -> None:
        monkeypatch.setattr(promote_module, "report_gate", report)
        assert _promote(fresh, version=1, actor="rival").decision == "promoted"

    monkeypatch.setattr(promote_module, "report_gate", overtaken)
    with pytest.raises(LedgerError, match=rf"rival \(unverified\) was first: entry \d+ \(promote to {ONE}\)"):
        _promote(fresh, version=2)
    assert _is_deployed(fresh, ONE)
    assert _promote(fresh, version=2).decision == "promoted"
    assert _is_deployed(fresh, TWO)


_KILLED = """
import os, signal, sys
from respect_core.release.ledger import Entry
from tasks.registry import deployed
from tasks.release import promote
from tasks.support.workspace import Workspace

deployed.settle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
place, entry = Workspace.model_validate_json(sys.argv[1]), Entry.model_validate_json(sys.argv[2])
promote.commit.fn(place, "b-fft", entry)
"""


def test_killed_between_ledger_and_alias_the_next_operation_settles(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the process that commits, three times; what comes next is a look, a promotion, a rollback."""

    def killed(place: Workspace, variant: Variant, entry: ledger.Entry) -> None:
        command = [sys.executable, "-c", _KILLED, place.model_dump_json(), entry.model_dump_json()]
        with (place.root / "killed.log").open("w") as log:
            code = Forked(command, stderr=log).wait()
        assert code == -signal.SIGKILL, (place.root / "killed.log").read_text()
        raise InterruptedError

    def promote_killed(version: int) -> None:
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(promote_module, "commit", killed)
            _promote(fresh, version=version)
        last = ledger.last(fresh.open(), "respect.b-fft")
        assert last is not None and last.to_version == f"respect.b-fft/{version}"

    def alias() -> str | None:
        return registry.aliases(fresh, "respect.b-fft").get(registry.DEPLOYED)

    promote_killed(1)
    assert alias() is None
    assert str(deployment.deployed(fresh, Variant.B_FFT).version) == "1"
    assert _is_deployed(fresh, ONE)

    promote_killed(2)
    assert alias() == "1"
    assert _promote(fresh, version=1).decision == "promoted"  # in the place of what the ledger says
    last = ledger.last(fresh.open(), "respect.b-fft")
    assert last is not None and (last.from_version, last.to_version) == (TWO, ONE)
    assert _is_deployed(fresh, ONE)

    promote_killed(2)
    assert alias() == "1"
    assert rollback(fresh, RollbackParameters(variant=Variant.B_FFT)).version == ONE
    assert _is_deployed(fresh, ONE)

    registry.client(fresh).set_registered_model_alias("respect.b-fft", registry.DEPLOYED, "2")  # past the ledger
    assert rollback(fresh, RollbackParameters(variant=Variant.B_FFT)).version == TWO
    assert _is_deployed(fresh, TWO)


def test_a_promotion_waits_for_a_person_where_that_is_asked(fresh: Workspace, link_key: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        for approve in (False, True):
            run = pool.submit(contextvars.copy_context().run, lambda: _promote(fresh, approve=True, actor="ann"))
            _answer(_paused(run), link_key, approve, "looked at it")
            result = run.result()
            if not approve:
                assert result.decision == "no promotion"
                assert result.reasons == ["bob (link) did not approve: looked at it"]
                assert _is_deployed(fresh, SEED_POLICY)
    assert result.decision == "promoted" and _is_deployed(fresh, TWO)
    entry = ledger.last(fresh.open(), "respect.b-fft")
    assert entry is not None and entry.reason == "looked at it"
    assert entry.actor == "ann (unverified), approved by bob (link)"
    assert (entry.evidence["approval"]["name"], entry.evidence["approval"]["identified"]) == ("bob", "link")


def test_a_deployment_that_waits_holds_nothing_and_asks_anew_where_something_changed(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch, workers: list[str], link_key: str
) -> None:
    """Its run is suspended, so that the process ends; what nobody signed leaves it so.

    Meanwhile a rival goes through: that is not what was approved.
    """
    _in_environment(fresh, monkeypatch)
    asked = PromoteParameters(**EASY, variant=Variant.B_FFT, version=2, approve=True, actor="ann")
    with get_client(sync_client=True) as client:
        deployed_as = client.create_deployment(client.create_flow(deployments.promote), "promote")
        made = client.create_flow_run_from_deployment(deployed_as, parameters={"parameters": asked.model_dump()})

        def start() -> FlowRun:
            """As a worker does; returns the run where it stopped."""
            with pytest.raises(Pause):
                run_flow(deployments.promote, flow_run=client.read_flow_run(made.id))
            return client.read_flow_run(made.id)

        for contender in ("seed policy", "form", "rival"):
            waits = start()
            assert waits.state is not None and waits.state.name == "Suspended", contender
            if contender == "seed policy":
                assert _is_deployed(fresh, SEED_POLICY)
                assert _promote(fresh, version=1, actor="rival").decision == "promoted"
            if contender == "form":
                resume_flow_run(made.id, run_input={"signed": "yes"})
            else:
                _answer(made.id, link_key, True, contender)
        examined = len(workers)
        result = run_flow(deployments.promote, flow_run=client.read_flow_run(made.id))
    assert isinstance(result, PromotionRef) and result.decision == "promoted"
    assert len(workers) == examined  # both had acted before
    assert _is_deployed(fresh, TWO)
    entry = ledger.last(fresh.open(), "respect.b-fft")
    assert entry is not None and entry.from_version == ONE
    assert (entry.actor, entry.reason) == ("ann (unverified), approved by bob (link)", "rival")


@pytest.fixture
def link_key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RESPECT_LINK_KEY", key := "a-link-key-of-many-characters")
    return key


def _answer(run: UUID, key: str, approve: bool, note: str) -> None:
    """As bob, who came to the approvals page by his link."""
    with get_client(sync_client=True) as client:
        (asked,) = (each for each in approval.waiting(client) if each.run == run)
        approval.give(client, asked, approvals.Person("bob", "link"), key, approve=approve, note=note)


def _paused(run: Future[Any]) -> UUID:
    """The run that waits."""
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with get_client(sync_client=True) as client:
        while not run.done():
            if found := client.read_flow_runs(flow_run_filter=paused):
                return found[0].id
            time.sleep(0.5)
    raise AssertionError(f"nothing waits: {run.result()}")


def test_lineage_leads_to_the_log_and_back(place: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = place.open()
    monkeypatch.chdir(place.root.parents[1])
    shown = _respect("lineage", ONE)
    (log,) = store.keys("interactions/round=0/variant=seed/")
    source = registry.named(place, ONE)
    for expected in (
        "continues the weights of respect.seed/1",
        "training_sets/round=0/variant=b-fft/_manifest.json",
        source.tags["data_hash"],
        "feedback/round=0/variant=seed/_manifest.json",
        "decoder_model",
        "turns/round=0/variant=seed/_manifest.json",
        log,
        "game_sets/d0.jsonl",
    ):
        assert expected in shown

    assert f"{TWO} @candidate" in _respect("lineage", TWO)

    rows = tables.read_table(store, "training_sets", [0], ["b-fft"]).to_pylist()
    row = next(each for each in rows if each["source"] == "round" and each["label"] == 1)
    turns = tables.read_table(store, "turns", [0]).to_pylist()
    user = next(each["user"] for each in turns if each["interaction_id"] == row["interaction_id"])
    by_turn = lineage.learned_from(store, interaction_id=row["interaction_id"], turn=row["turn"])
    first = next(each for each in by_turn if each.version == ONE)
    assert first.turns == ((row["interaction_id"], row["turn"], 1, "round"),) and first.through is None
    assert SEED_POLICY not in {each.version for each in by_turn}
    assert ONE in _respect("lineage", "--turn", f"{row['interaction_id']}/{row['turn']}")
    assert ONE in _respect("lineage", "--user", user)

    copied = next(each for each in rows if each["source"] == "rehearsal")
    everyone = {each.version for each in lineage.learned_from(store, interaction_id=copied["interaction_id"])}
    assert {SEED_POLICY, ONE} <= everyone  # D0 is rehearsed


def test_the_deployments_do_the_same_where_their_environment_says(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_environment(fresh, monkeypatch)
    asked = PromoteParameters(**EASY, variant=Variant.B_FFT, version=1)
    assert deployments.promote(asked).decision == "promoted"
    assert _is_deployed(fresh, ONE)
    assert deployments.rollback(RollbackParameters(variant=Variant.B_FFT)).version == SEED_POLICY
    assert _is_deployed(fresh, SEED_POLICY)


def _in_environment(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a worker of a pool is told its places."""
    monkeypatch.setenv("RESPECT_STORE", place.store_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    monkeypatch.setenv("RESPECT_ROOT", str(place.root))


def test_the_command_line(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the candidate to users and back."""
    monkeypatch.chdir(fresh.root.parents[1])
    easy = ("--margin", "1", "--games", "30", "--min-feedback-turns", "1", "--user-share-cap")
    assert "over the cap of 5.0%" in _respect("promote", "b-fft", *easy, "0.05", code=3)
    promoted = _respect("promote", "b-fft", *easy, "1", "--actor", "carol")
    assert f"promoted: {TWO} is deployed" in promoted
    assert f"rolled back: {SEED_POLICY} is deployed" in _respect("rollback", "b-fft", "--reason", "slow")
    assert "no promotion to roll back" in _respect("rollback", "b-fft", code=1)
    shown = _respect("ledger", "b-fft")
    assert "carol" in shown and "slow" in shown and "% against " in shown
    everything = _respect("ledger")
    assert "carol" in everything and "slow" in everything


def test_a_canary_begins_once_the_gate_is_passed_and_a_rollback_ends_it(
    fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_environment(fresh, monkeypatch)
    monkeypatch.chdir(fresh.root.parents[1])
    easy = ("--margin", "1", "--games", "30", "--min-feedback-turns", "1", "--user-share-cap")
    assert "'none' is no share" in _respect("promote", "b-fft", *easy, "1", "--canary", "none", code=2)
    assert "over the cap" in _respect("promote", "b-fft", *easy, "0.05", "--canary", "10%", code=3)
    began = _respect("promote", "b-fft", *easy, "1", "--canary", "10%", "--canary-conversations", "500")
    assert f"canary began: {SEED_POLICY} is deployed" in began and "respect canary" in began
    assert f"a canary of {TWO} at 10%: 1,857 conversations, 186 of them with it" in began, began
    assert "it ends after 500 at the latest" in began
    begun = ledger.in_canary(ledger.entries(fresh.open(), "respect.b-fft"))
    assert begun is not None and begun.canary is not None and _is_deployed(fresh, SEED_POLICY)
    assert (begun.canary.candidate, begun.canary.criterion, begun.canary.most) == (TWO, "success", 500)
    assert begun.evidence["verdict"] == "promotion"
    assert f"canary of {TWO} at 10%" in _respect("ledger", "b-fft")
    assert f"{TWO} has a canary since entry {begun.number}" in _respect("promote", "b-fft", *easy, "1", code=1)
    assert "look 1 at the canary" in _respect("canary") and deployments.canary() == []
    assert f"on trial {begun.time[:19]}" in _respect("lineage", TWO)
    assert f"canary ended: {SEED_POLICY} is deployed" in _respect("rollback", "b-fft", "--reason", "slow")
    assert "no promotion to roll back" in _respect("rollback", "b-fft", code=1)
    asked = PromoteParameters(**EASY, variant=Variant.B_FFT, canary="20%")
    assert deployments.promote(asked).decision == "canary began"
    assert deployments.rollback(RollbackParameters(variant=Variant.B_FFT)).decision == "canary ended"
    assert _is_deployed(fresh, SEED_POLICY)


def _respect(*command: str, code: int = 0) -> str:
    with patch.object(terminal.console, "_width", 300):  # so that no line is broken
        result = CliRunner().invoke(main.app, list(command))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())
