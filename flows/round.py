"""One RESPECT round as a Prefect flow, written in the order in which data moves (section 4, figure 1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow, tags
from prefect.exceptions import PrefectException

from flows.dispatch.stages import decode, guard, learn
from flows.parameters import RoundParameters
from flows.seed import seed_policy
from flows.support.locks import in_turn
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.errors import ExpectedError
from respect_core.profiles import Profile
from tasks.compute.places import Place, require
from tasks.games.play import replay_fixed_games, seconds_played
from tasks.registry.register import close_round, open_round
from tasks.registry.registry import status_after
from tasks.release.preview import preview_gate
from tasks.reports.page import publish_report
from tasks.reports.report import report_round, summarise
from tasks.round.collect import collect_chats
from tasks.round.export import export_interactions
from tasks.round.quarantine import quarantine_users
from tasks.support.references import LearnedRef, PropensityRef
from tasks.support.workspace import Workspace


class VariantsFailedError(ExpectedError):
    """Some variants of a round failed; the others are registered. Running the round again does only what is missing."""


@flow(name="round", flow_run_name="round {parameters.round}", task_runner=threads())
def round(
    workspace: Workspace,
    parameters: RoundParameters,
    seconds_of_play: float = 0.0,
    study_run: str | None = None,
    on: Place = Place.HERE,
    collected: bool = False,
) -> dict[str, Any]:
    """Export, decode, subsample, train, select, register; returns the summary.

    The summary is also in runs/<name>/summary.json, unless the round is part of a study, which has that file to itself.
    Rounds of one run take turns on a machine: if two start at once, the second finds what the first has done.

    Args:
        seconds_of_play: how long the games of this round took, if they were played here; for the summary.
        study_run: MLflow run of the study that the round is part of, if any.
        on: where decoding and training run.
        collected: whether the caller has collected the conversations that gateways served.

    Raises:
        VariantsFailedError: some variants failed; the others have finished. The message names the failed ones.
        RayMissingError: the round is to run on Ray, which is not installed.
    """
    require(on)
    label_run(f"round:{parameters.round}")
    with in_turn(workspace):
        return _round(workspace, parameters, seconds_of_play, study_run, on, collected)


def _round(
    workspace: Workspace,
    parameters: RoundParameters,
    seconds_of_play: float,
    study_run: str | None,
    on: Place,
    collected: bool,
) -> dict[str, Any]:
    """Do what `round` does, once it is its turn."""
    started, number, profile = time.monotonic(), parameters.round, parameters.resolved_profile()
    seed = seed_policy(workspace, profile, parameters.validation, on)
    if not collected:
        collect_chats(workspace)
    exported = export_interactions(workspace, number, profile)
    run_id = open_round(workspace, number, profile, exported, study_run)
    try:
        decoded = decode(workspace, profile, number, parameters.variants, seed, on=on)
        quarantine_users(workspace, profile, number)
        before = replay_fixed_games.submit(workspace, profile, seed, number, parameters.replay)
        learned, failed = _learn(workspace, run_id, profile, parameters, decoded.propensities, on)
        learned = guard(workspace, profile, learned, parameters.validation)
        after = {
            variant: replay_fixed_games.submit(workspace, profile, each.registered, number, parameters.replay)
            for variant, each in learned.items()
        }
        gates = preview_gate.submit(workspace, profile, learned) if study_run is None else None  # studies have no gate
        played = {variant: future.result() for variant, future in after.items()}
        play = seconds_of_play + seconds_played(before.result(), *played.values())
        seconds = {
            "play": play or None,
            "export": exported.seconds,
            "decode": decoded.feedback.seconds,
            "train": sum(each.selected.seconds for each in learned.values()),
            "total": seconds_of_play + time.monotonic() - started,
        }
        summary = summarise(
            workspace,
            profile,
            exported,
            decoded.feedback,
            learned,
            gates.result() if gates else {},
            before.result(),
            played,
            failed,
            seconds,
        )
        report_round(workspace, run_id, summary, workspace.root / "summary.json" if study_run is None else None)
    except BaseException as error:
        status = status_after(error)
        close_round(workspace, run_id, {"round": str(error)} if status == "FAILED" else {}, status)
        raise
    close_round(workspace, run_id, failed, "FAILED" if failed else "FINISHED")
    # A study has a report of its own. A failed report is shown and does not fail the round; should it kill this process
    # for want of memory, the round is already closed, and running it again makes the report.
    if study_run is None:
        publish_report(workspace, run_id, number, f"report-round-{number}", return_state=True)
    if failed:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in failed.items())
        raise VariantsFailedError(
            f"round {number}: {len(failed)} of {len(parameters.variants)} variants failed ({reasons}); "
            "the others are registered, and running the round again does what is missing"
        )
    return summary


def _learn(
    workspace: Workspace,
    run_id: str,
    profile: Profile,
    parameters: RoundParameters,
    propensities: Sequence[PropensityRef],
    on: Place,
) -> tuple[dict[str, LearnedRef], dict[str, str]]:
    """Take all variants from turns to registered versions, in parallel; return them, and why the others failed."""
    number, validation = parameters.round, parameters.validation
    with tags(f"round:{number}"):
        lines = {
            variant: learn(workspace, run_id, profile, variant, number, validation, propensities, on=on)
            for variant in parameters.variants
        }
    learned: dict[str, LearnedRef] = {}
    failed: dict[str, str] = {}
    for variant, end in lines.items():
        try:
            learned[variant] = end()
        except Exception as error:  # one failed variant must not take the others down
            failed[variant] = why(error)
    return learned, failed


def why(error: BaseException) -> str:
    """Say why something failed, with the root cause; Prefect's own error, say of an input, only wraps the reason."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    chain = [each for each in chain if not isinstance(each, PrefectException)] or chain
    first, root = (str(each) or type(each).__name__ for each in (chain[0], chain[-1]))
    return first if root in first else f"{first} (cause: {root})"
