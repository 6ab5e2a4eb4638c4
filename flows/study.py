"""The paper's experiment with simulated speakers, as a Prefect flow (section 5, Deployment; figure 4).

In round 0 the seed policy plays. In every later round each variant plays with its version of the round before, all on
the same fresh contexts with the same speakers, and learns from what the speakers wrote through the unchanged `round`
flow. In the last round they only play; CONTROL, the seed policy deployed again, and people (HH) play too.

The seed policy also plays games that nobody learns from: in round 0 on contexts of its own, and as CONTROL on all
contexts of round 0 again. So both how much users of the same policy changed and what a variant gained over CONTROL are
paired differences.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from flows.parameters import StudyParameters
from flows.round import round
from flows.seed import seed_policy
from flows.support.locks import in_turn
from flows.support.threads import threads
from respect_core.profiles import Profile
from respect_core.variants import CONTROL, HH
from tasks.games.play import measure_in_study, play_in_study, play_people
from tasks.reports import study_record as record
from tasks.reports.page import publish_report
from tasks.reports.study_record import Started, StudyRound
from tasks.round.export import export_interactions
from tasks.support import progress
from tasks.support.references import RegisteredRef
from tasks.support.workspace import Workspace


@flow(name="study", flow_run_name="study seed {parameters.study_seed}", task_runner=threads())
def study(workspace: Workspace, parameters: StudyParameters) -> dict[str, Any]:
    """Run all rounds from the first unfinished one; return the summary, which is also in runs/<name>/summary.json.

    Raises:
        ValueError: the workspace has a study with other parameters, or other games.
        VariantsFailedError: as the `round` flow does; the same command resumes there.
    """
    profile = parameters.of_round(0).resolved_profile()
    with in_turn(workspace):
        started = record.start_or_resume(workspace, parameters, profile, f"study seed {parameters.study_seed}")
        try:
            return _rounds(workspace, parameters, started)
        except BaseException as error:
            record.stop(workspace, started, error)
            raise


def _rounds(workspace: Workspace, parameters: StudyParameters, started: Started) -> dict[str, Any]:
    """Run the unfinished rounds of a study; return its summary."""
    from tasks.reports.study_report import report_study  # of an extra, which other flows do not need

    finished = record.finished_rounds(record.folder(workspace))
    with progress.bar("study", parameters.rounds + 1) as bar:
        for number in range(len(finished), parameters.rounds + 1):
            left = record.seconds_left(finished, parameters.rounds)
            bar.update(number, note=f"round {number} of {parameters.rounds}{progress.about(left)}")
            finished.append(_round(workspace, parameters, number, finished, started.mlflow_run))
            report_study(workspace, started, finished)
            if number < parameters.rounds:
                publish_report(workspace, started.mlflow_run, number, "report-study", return_state=True)
    # A failed report is shown and does not fail the study. The last one is made whenever the study is run again.
    publish_report(workspace, started.mlflow_run, parameters.rounds, "report-study", return_state=True)
    return report_study(workspace, started, finished, ended=True)


def _round(
    workspace: Workspace, parameters: StudyParameters, number: int, before: Sequence[StudyRound], study_run: str
) -> StudyRound:
    """Run one deployment, and learn from it unless it is the last."""
    started, last = time.monotonic(), number == parameters.rounds
    attempts = record.begin_round(workspace, number)
    learning, round_parameters = None, parameters.of_round(number)
    profile = round_parameters.resolved_profile()
    seed = seed_policy(workspace, profile, round_parameters.validation)
    seeded = time.monotonic()
    policies = _policies(workspace, parameters, number, before, seed)
    plays: list[PrefectFuture[Any]] = [
        *_measuring(workspace, parameters, profile, number, seed),
        *(
            play_in_study.submit(workspace, profile, policy, number, parameters.games, parameters.study_seed)
            for policy in policies
        ),
    ]
    people = HH if last and parameters.human_games else None
    if people:
        play_people(workspace, profile, number, parameters.human_games, parameters.study_seed)
    played = [games for play in plays if (games := play.result()) is not None]
    play = time.monotonic() - seeded
    if last:
        export_interactions(workspace, number)
    else:
        learning = round(workspace, round_parameters, seconds_of_play=play, study_run=study_run)
    stages = learning["seconds"] if learning else {}
    seconds = {**stages, "seed": seeded - started, "play": play, "total": time.monotonic() - started}
    return record.finish_round(workspace, number, policies, played, people, learning, seconds, attempts)


def _policies(
    workspace: Workspace, parameters: StudyParameters, number: int, before: Sequence[StudyRound], seed: RegisteredRef
) -> list[RegisteredRef]:
    """Who is deployed in a round, each named by `variant`."""
    if number == 0:
        return [seed]
    learned = before[number - 1].learned
    policies = [record.registered(workspace, variant, learned[variant]) for variant in parameters.learning(number - 1)]
    if parameters.control and number == parameters.rounds:
        policies.append(seed.model_copy(update={"variant": CONTROL}))
    return policies


def _measuring(
    workspace: Workspace, parameters: StudyParameters, profile: Profile, number: int, seed: RegisteredRef
) -> list[PrefectFuture[Any]]:
    """Return the seed policy's games in the first and last round that nobody learns from, on contexts of round 0."""
    if number == 0:
        policy, skip = seed, parameters.games
    elif parameters.control and number == parameters.rounds:
        policy, skip = seed.model_copy(update={"variant": CONTROL}), 0
    else:
        return []
    games = parameters.anchor_games - skip
    return [
        measure_in_study.submit(
            workspace, profile, policy, number, games, parameters.study_seed, contexts_of=0, skip=skip
        )
    ]
