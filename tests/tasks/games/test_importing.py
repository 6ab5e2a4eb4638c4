"""Imports that are refused, and the way back from those that were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pickled_games import games_file
from samples import contents, game, with_images

from respect_core.log import imports
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.measuring.annotation_tasks import AuditTask
from respect_core.store.base import Store
from respect_core.store.manifests import Input, Partition
from respect_core.store.tables import read_table, write_partition
from respect_core.training_data import curated
from respect_core.variants import ACTING, HH, SEED
from tasks.games import importing
from tasks.games.importing import import_games, undo_import
from tasks.support.workspace import Workspace, workspace

HERE = Partition(5, "b-fft")
OPTIONS: dict[str, Any] = {"round": 5, "variant": "b-fft"}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "run")


def _kept(store: Store) -> dict[str, bytes]:
    """What an undone import leaves nothing in."""
    return {key: data for key, data in contents(store).items() if not key.startswith(("images/", "leases/", "users/"))}


def _games(store: Store, table: str = "outcomes") -> list[str]:
    return sorted(set(read_table(store, table)["interaction_id"].to_pylist()))


def test_a_variant_that_nobody_is_called(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no variant 'b-ftt'; there are: b-fft, .*control.*hh"):
        import_games(place, games_file(tmp_path, 1), tmp_path, round=5, variant="b-ftt")
    assert place.open().keys() == []
    import_games(place, games_file(tmp_path, 1), tmp_path, round=5, variant="hh")
    assert {*ACTING, HH, SEED} <= set(importing.KNOWN)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("there", [{"round": 6}, {"variant": "t-kto"}], ids=["round", "variant"])
def test_a_game_that_is_in_another_round_or_variant(
    place: Workspace, tmp_path: Path, there: dict[str, Any], exported: bool
) -> None:
    import_games(place, games_file(tmp_path, 3), tmp_path, **OPTIONS)
    store = place.open()
    name = imports.known(store)[0].name
    if exported:
        export(store, 5)
    before = contents(store)
    wanted = rf"2 of 4 games are in the log already: 'game-1' is in round 5, variant 'b-fft' \(.*pkl as {name[:12]}"
    with pytest.raises(ValueError, match=wanted):
        import_games(place, games_file(tmp_path, 5, first=1), tmp_path, **OPTIONS | there, game_set="held-out")
    assert contents(store) == before
    undo_import(place, name[:6])
    import_games(place, games_file(tmp_path, 5, first=1), tmp_path, **OPTIONS | there)
    export(store, 5)
    export(store, 6)
    assert _games(store) == ["game-1", "game-2", "game-3", "game-4"]


def test_games_of_a_deployment_count_as_well(place: Workspace, tmp_path: Path) -> None:
    store = place.open()
    append_logs(with_images(store), [game("game-0", round=4)])
    with pytest.raises(ValueError, match=r"'game-0' is in round 4, variant 'b-fft' \(interactions/round=4/"):
        import_games(place, games_file(tmp_path, 2), tmp_path, **OPTIONS)


def test_an_import_that_was_undone_leaves_nothing(place: Workspace, tmp_path: Path) -> None:
    store = place.open()
    append_logs(with_images(store), [game("other", round=4)])
    export(store, 4)
    before = _kept(store)
    import_games(place, games_file(tmp_path, 20, broken=True), tmp_path, **OPTIONS, game_set="held-out")
    export(store, 5)
    assert len(_games(store)) == 21 and curated.names(store) == ["held-out"] and store.keys("set_aside/")
    store.put(f"{HERE.folder(AuditTask.kept_in)}tasks.jsonl", b"what somebody wrote")
    record, trained = undo_import(place, imports.known(store)[0].name)
    assert (record.games, record.partition, trained) == (20, HERE, [])
    assert _kept(store) == before
    with pytest.raises(ValueError, match=r"no imports.*there are: none"):
        undo_import(place, record.name)


def test_what_else_is_in_the_round_stays_and_is_whole(place: Workspace, tmp_path: Path) -> None:
    """Of a game in two logs of a round the first counts; when that is undone, the other does."""
    store = place.open()
    import_games(place, games_file(tmp_path, 20), tmp_path, **OPTIONS, game_set="held-out", share=0.5)
    export(store, 5)
    import_games(place, games_file(tmp_path, 30, first=10), tmp_path, **OPTIONS, game_set="held-out", share=0.5)
    append_logs(with_images(store), [game("played")])
    export(store, 5)
    first = next(each for each in imports.known(store) if each.file.startswith("games-0"))
    source = imports.TURNS + "/round=5/variant=b-fft/_manifest.json"
    write_partition(
        store, "training_sets", 5, "t-kto", read_table(store, "training_sets"), inputs=[_input(store, source)]
    )
    held = {log.interaction_id for log in curated.read(store, "held-out")}
    _, trained = undo_import(place, first.name)
    assert trained == [Partition(5, "t-kto")]
    left = {f"game-{number}" for number in range(10, 30)}
    assert _games(store) == _games(store, "turns") == sorted(left | {"played"})
    assert {log.interaction_id for log in curated.read(store, "held-out")} == held & left


def test_games_that_judge_candidates_choose_no_checkpoint(place: Workspace, tmp_path: Path) -> None:
    for name in (curated.VALIDATION, curated.GATE):
        import_games(place, games_file(tmp_path, 40), tmp_path, **OPTIONS, game_set=name, share=0.3)
    chosen, judged = (
        {log.interaction_id for log in curated.read(place.open(), name)} for name in (curated.VALIDATION, curated.GATE)
    )
    assert chosen and judged and not chosen & judged


def _input(store: Store, key: str) -> Any:
    return Input(key=key, size=len(store.read(key)), sha256="")


def test_games_that_needed_no_pictures_need_none_when_another_import_is_undone(
    place: Workspace, tmp_path: Path
) -> None:
    store = place.open()
    append_logs(store, [game("without pictures")])
    export(store, 5, unseen=game().context)
    import_games(place, games_file(tmp_path, 2), tmp_path, **OPTIONS)
    export(store, 5)
    undo_import(place, imports.known(store)[0].name)
    assert _games(store) == ["without pictures"]


def test_rows_whose_log_was_archived_stay(place: Workspace, tmp_path: Path) -> None:
    store = place.open()
    archived = append_logs(with_images(store), [game("archived")])
    export(store, 5)
    store.delete(archived)
    import_games(place, games_file(tmp_path, 2), tmp_path, **OPTIONS)
    export(store, 5)
    undo_import(place, imports.known(store)[0].name)
    assert _games(store) == ["archived"]


def test_an_import_in_one_file_with_an_archived_log_is_not_undone(place: Workspace, tmp_path: Path) -> None:
    store = place.open()
    archived = append_logs(with_images(store), [game("archived")])
    import_games(place, games_file(tmp_path, 2), tmp_path, **OPTIONS)
    export(store, 5)
    data = store.read(archived)
    store.delete(archived)
    name = imports.known(store)[0].name
    with pytest.raises(ValueError, match=f"{archived}, which was archived; put that back"):
        undo_import(place, name)
    assert len(_games(store)) == 3
    store.put(archived, data)
    undo_import(place, name)
    assert _games(store) == ["archived"]


def test_an_import_of_before_there_were_records_gets_one_when_it_is_repeated(place: Workspace, tmp_path: Path) -> None:
    store, file = place.open(), games_file(tmp_path, 2)
    import_games(place, file, tmp_path, **OPTIONS)
    store.delete(store.keys("imports/")[0])
    append_logs(with_images(store), [game("game-0", round=6)])  # what no import takes today
    import_games(place, file, tmp_path, **OPTIONS)
    undo_import(place, json.loads(store.read(store.keys("imports/")[0]))["log"].rpartition("/")[2][:8])
    export(store, 5)
    export(store, 6)
    assert _games(store) == ["game-0"]
