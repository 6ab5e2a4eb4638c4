"""Export interactions from the store to the `turns` and `outcomes` tables."""

from __future__ import annotations

import time

from prefect import get_run_logger, task

from respect_core.log import export, forgetting, set_aside
from respect_core.profiles import Profile
from respect_core.store import manifests
from tasks.round.long_games import set_aside_long
from tasks.support import progress
from tasks.support.references import ExportedRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="export", task_run_name="export round {round}", **PATIENT)
def export_interactions(workspace: Workspace, round: int, profile: Profile | None = None) -> ExportedRef:
    """Export what is new in a round, and what came late to earlier rounds: a variant learns from all of them.

    Broken records are set aside and counted, as are games too long for the profile's base model.

    Raises:
        ValueError: the round has no interactions at all.
    """
    started = time.monotonic()
    with progress.bar(f"export round {round}"):
        store = workspace.open()
        forgetting.finish(store)
        report = export.export(store, round)
        export.export_everything(store, before=round)  # games that ended after their round's export
        if profile is not None:
            set_aside_long(store, profile, round)
        games = set_aside.games(store, manifests.partitions(store, "turns", [round]))
    if report.games == 0:
        raise ValueError(
            f"round {round} has no interactions in {workspace.store_uri}; "
            "import games with `respect import games`, or deploy a policy that logs to this store"
        )
    if report.set_aside:
        get_run_logger().warning("%d broken records are in set_aside/round=%d/", report.set_aside, round)
    for game in games.values():
        get_run_logger().warning("set aside: %s", game)
    return ExportedRef(
        round=round,
        variants=report.variants,
        games=report.games,
        turns=report.turns,
        turns_with_followup=report.turns_with_followup,
        set_aside=report.set_aside + len(games),
        seconds=time.monotonic() - started,
    )
