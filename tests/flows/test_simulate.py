"""Simulated users with what is deployed: the embedded model, the ledger, MLflow on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from here import record_workers
from small import smallest

from flows import parameters as parameters_module
from flows.parameters import SimulateParameters
from flows.simulate import simulate
from respect_core.log.export import export
from respect_core.log.log import read_logs
from respect_core.release import ledger
from respect_core.variants import SEED, Variant
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)

BOTH = SimulateParameters(variants=[Variant.B_FFT, Variant.T_RL], games=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("simulated"))


def _acted(place: Workspace, round: int, variant: str) -> list[set[tuple[str, str]]]:
    """Versions that acted, by object of the log."""
    store = place.open()
    logs = [read_logs(store, key) for key in store.keys(f"interactions/round={round}/variant={variant}/")]
    return [{(each.policy.name, each.policy.version) for each in log if each.policy} for log in logs]


def test_what_is_deployed_plays(place: Workspace, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any promotion the seed policy, made where there is none; then what was promoted, in the next round."""
    monkeypatch.setattr(parameters_module, "named_profile", smallest)
    started = record_workers(monkeypatch)
    round, played = simulate(place, BOTH)
    assert (round, [(each.variant, each.games) for each in played]) == (0, [("b-fft", 4), ("t-rl", 4)])
    assert started[0] == "train 0 seed" and sorted(started[1:]) == ["play 0 b-fft", "play 0 t-rl"]
    assert [_acted(place, 0, variant) for variant in BOTH.variants] == [[{("respect.seed", "1")}]] * 2

    simulate(place, BOTH)  # as after an interruption
    assert len(_acted(place, 0, "b-fft")) == 1

    _promoted(place)
    round, _ = simulate(place, BOTH)
    assert round == 1, "behind the newest that was learned"
    assert _acted(place, 1, "b-fft") == [{("respect.b-fft", "1")}]
    assert _acted(place, 1, "t-rl") == [{("respect.seed", "1")}]

    simulate(place, BOTH.model_copy(update={"games": 3, "number": 1}))
    report = export(place.open(), 1)
    assert (report.games, report.set_aside) == (14, 0), "more games, none of them twice"


def _promoted(place: Workspace) -> None:
    """The seed policy's adapter as version 1 of b-fft, learned in round 0 and promoted."""
    seed = registry.latest(place, SEED)
    assert seed is not None
    adapter, run = registry.download(place, seed), registry.start_run(place, "b-fft")
    tags = {"round": 0, "adapter_hash": seed.tags["adapter_hash"]}
    registry.register_adapter(place, run, Variant.B_FFT, adapter, tags=tags, metrics={}, step=0)
    entry = ledger.promotion(
        [],
        registry.model_name(Variant.B_FFT),
        from_version="respect.seed/1",
        to_version="respect.b-fft/1",
        adapter_hash=seed.tags["adapter_hash"],
        actor="ann",
    )
    ledger.append(place.open(), entry)


def test_a_profile_without_simulated_people_is_refused(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="idefics2-8b"):
        simulate(workspace(tmp_path), SimulateParameters(profile="idefics2-8b"))
