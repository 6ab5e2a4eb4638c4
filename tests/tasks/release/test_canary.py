"""Looks at canaries of games, with a real ledger and MLflow on SQLite: killed in between, and two at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from respect_core.log.log import append_logs
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.release import canary_looks, ledger
from respect_core.release.canary import Decision
from respect_core.release.canary_power import planned
from respect_core.release.ledger import Action, Entry
from respect_core.store.manifests import Partition
from respect_core.variants import Variant
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.release import canary
from tasks.support.workspace import Workspace, workspace

MODEL = "respect.b-fft"
ONE, TWO = f"{MODEL}/1", f"{MODEL}/2"
IMAGES = [f"image-{number}" for number in range(10)]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A seed policy and two versions of b-fft, whose adapters are named after them."""
    place = workspace(tmp_path_factory.mktemp("canary"))
    adapter = tmp_path_factory.mktemp("adapter")
    (adapter / "adapter_config.json").write_text("{}")
    for variant, number in (("seed", 1), ("b-fft", 1), ("b-fft", 2)):
        tags = {"round": number, "adapter_hash": f"{variant}-{number}", "profile": "tiny"}
        run_id = registry.start_run(place, f"{variant} {number}")
        registry.register_adapter(place, run_id, variant, adapter, tags=tags, metrics={}, step=0)
    return place


@pytest.fixture
def place(registered: Workspace, tmp_path: Path) -> Workspace:
    """The same registry, with version 1 promoted in a store of its own."""
    made = registered.model_copy(update={"store_uri": str(tmp_path / "store")})
    said = {"from_version": "respect.seed/1", "to_version": ONE, "adapter_hash": "b-fft-1", "actor": "ann"}
    ledger.append(made.open(), ledger.promotion([], MODEL, **said))
    deployment.settle(made, "b-fft")
    return made


def _begin(place: Workspace, **changed: Any) -> Entry:
    fields = {"candidate": TWO, "adapter_hash": "b-fft-2", "profile": "tiny"}
    drawn = planned(0.5).model_copy(update=fields | changed)
    said = {"to_version": ONE, "adapter_hash": "b-fft-1", "actor": "ann", "evidence": {"figures": {}}}
    entry = ledger.begin_canary(ledger.entries(place.open(), MODEL), MODEL, drawn, **said)
    ledger.append(place.open(), entry)
    return entry


def _play(place: Workspace, won: dict[str, bool | None], games: int, *, began: timedelta = timedelta(0)) -> None:
    """As the game logs them: some of each version, each by a user of their own."""
    now = (datetime.now(UTC) + began).isoformat()
    logs = [
        InteractionLog(
            interaction_id=f"b-fft-r1-{version.replace('/', '-')}-{now}-{number}",
            round=1,
            variant="b-fft",
            policy=PolicyIdentity.of(version, "0"),
            user=f"{version}-{number}",
            started_at=now,
            context=IMAGES,
            turns=[LoggedTurn(utterance="the bird", action="select A")],
            outcome=None if success is None else Outcome(targets=IMAGES[:1], success=success),
        )
        for version, success in won.items()
        for number in range(games)
    ]
    append_logs(place.open(), logs)


def _look(place: Workspace, begun: Entry) -> Any:
    return canary.look_at_canary.fn(place, Variant.B_FFT, begun)


def _entries(place: Workspace) -> list[tuple[Action, str]]:
    return [(each.action, each.to_version) for each in ledger.entries(place.open(), MODEL)]


def test_a_bad_candidate_is_ended_and_a_good_one_promoted(place: Workspace) -> None:
    begun = _begin(place)
    assert _look(place, begun).decision is Decision.CONTINUE and _look(place, begun) is None, "nothing is new"
    _play(place, {ONE: True, TWO: False}, 4)
    assert _look(place, begun).figures.conversations == 8 and canary.in_force(place) == {Variant.B_FFT: begun}
    _play(place, {ONE: True, TWO: False}, 30)
    look = _look(place, begun)
    assert look.decision is Decision.END and "certainly worse" in look.reason and canary.in_force(place) == {}
    assert deployment.deployed(place, "b-fft").tags["adapter_hash"] == "b-fft-1"
    begun = _begin(place, plan=begun.canary.plan.model_copy(update={"margin": 0.3})) if begun.canary else begun
    _play(place, {ONE: True, TWO: True}, 60)
    look = _look(place, begun)
    assert look.decision is Decision.PROMOTE and look.figures.conversations == 120, "of this canary alone"
    assert deployment.deployed(place, "b-fft").tags["adapter_hash"] == "b-fft-2"
    assert registry.aliases(place, MODEL)[registry.DEPLOYED] == "2"
    assert _entries(place) == [
        (Action.PROMOTE, ONE),
        (Action.CANARY, ONE),
        (Action.END, ONE),
        (Action.CANARY, ONE),
        (Action.PROMOTE, TWO),
    ]
    last = ledger.entries(place.open(), MODEL)[-1]
    assert last.evidence["canary"]["figures"] == look.figures.model_dump(mode="json") and last.actor == "canary"
    assert [each.number for each in canary_looks.read(place.open(), MODEL)] == [1, 2, 3, 4]


def test_only_games_that_began_during_it_and_have_an_outcome_count(place: Workspace) -> None:
    _play(place, {ONE: True, TWO: False}, 40)
    begun = _begin(place)
    _play(place, {ONE: None, TWO: None}, 40)
    _play(place, {"respect.b-fft/9": False}, 40)
    _play(place, {ONE: True, TWO: False}, 40, began=-timedelta(hours=1))
    key = f"{Partition(1, 'b-fft').folder('interactions')}broken.jsonl"
    place.open().put(key, b'{"interaction_id": 1}\n')  # rounds set it aside
    look = _look(place, begun)
    assert look.decision is Decision.CONTINUE and look.figures.conversations == 0


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("after", ["look", "entry"])
def test_who_is_killed_after_the_decision_leaves_what_the_next_look_carries_out(
    place: Workspace, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = _begin(place, plan=planned(0.5).plan.model_copy(update={"margin": 0.3}))
    _play(place, {ONE: True, TWO: True}, 60)

    def killed(*_: Any) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(*((canary.ledger, "append") if after == "look" else (canary.deployment, "settle")), killed)
        with pytest.raises(_KilledError):
            _look(place, begun)
    alias = registry.aliases(place, MODEL).get(registry.DEPLOYED)
    assert alias != "2" and len(canary_looks.read(place.open(), MODEL)) == 1
    if after == "look":
        _play(place, {ONE: True, TWO: False}, 500)  # what comes later changes no decision
        assert _look(place, begun).decision is Decision.PROMOTE
    assert canary.in_force(place) == {} and deployment.deployed(place, "b-fft").tags["adapter_hash"] == "b-fft-2"
    assert registry.aliases(place, MODEL)[registry.DEPLOYED] == "2"
    assert len(canary_looks.read(place.open(), MODEL)) == 1 and len(_entries(place)) == 3


def test_those_who_look_at_once_decide_once(place: Workspace) -> None:
    begun = _begin(place)
    _play(place, {ONE: True, TWO: False}, 30)
    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(lambda _: _look(place, begun), range(4)))
    assert {(look.number, look.decision) for look in looks} == {(1, Decision.END)}
    assert [action for action, _ in _entries(place)] == [Action.PROMOTE, Action.CANARY, Action.END]
    assert _look(place, begun).number == 1, "an older one who comes late"
    assert len(_entries(place)) == 3


def test_a_candidate_that_a_server_refused_or_that_changed_is_ended(place: Workspace) -> None:
    begun = _begin(place)
    canary_looks.refuse(place.open(), begun, "it does not load")
    look = _look(place, begun)
    assert (look.decision, look.reason, look.figures) == (Decision.END, "it does not load", None)
    for changed, why in (
        ({"adapter_hash": "other"}, "has adapter b-fft-2 now"),
        ({"candidate": f"{MODEL}/9"}, "is not"),
    ):
        assert why in _look(place, _begin(place, **changed)).reason
    assert [action for action, _ in _entries(place)][1:] == [Action.CANARY, Action.END] * 3


def test_watching_ends_with_the_last_canary(place: Workspace) -> None:
    _begin(place)
    _play(place, {ONE: True, TWO: False}, 4)
    looks, console = [0], Console(width=200, record=True)

    def look() -> list[canary_looks.CanaryLook]:
        looks[0] += 1
        if looks[0] == 3:
            _play(place, {ONE: True, TWO: False}, 30)
        found = canary.in_force(place)
        return [made for begun in found.values() if (made := _look(place, begun)) is not None]

    canary.follow(place, look, console, 0.01)
    said = console.export_text()
    assert looks == [3] and "nothing new" in said and "certainly worse" in said
    canary.follow(place, look, console, None)
    assert looks == [3] and "no canary is in force" in console.export_text()
