"""Ask a person about a promotion in Prefect, and take only a signed answer (`respect_core.release.approvals`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.input import RunInput
from pydantic import Field

from respect_core.errors import ExpectedError
from respect_core.release import approvals
from respect_core.release.approvals import Answer, AnswerRefusedError, Person
from respect_core.settings import link_key
from tasks.support.workspace import Workspace

_SHOWN = 200
"""Runs that wait, at most: more are not listed."""


class Approval(RunInput):
    """What a promotion that waits is given."""

    signed: str = Field(
        default="",
        description="Left by the approvals page or `respect approve`, which know who answers. What is typed here does "
        "not count, and the question is asked again.",
    )


class NotWaitingError(ExpectedError, ValueError):
    """A question that nobody waits for an answer to any more."""


@dataclass(frozen=True)
class Waiting:
    """A promotion that waits for a person."""

    run: UUID
    name: str
    question: str  # with which an answer is signed
    text: str  # the gate's verdict, in Markdown
    since: datetime
    until: datetime | None


Ask = Callable[[str, str], Approval]
"""Suspends or pauses the run under a key, with words before the question."""


def signed_answer(workspace: Workspace, question: str, ask: Ask) -> Answer:
    """Ask until an answer is signed for this question of this run.

    Each time it is asked under a key of its own: a suspended run, which starts from its beginning, finds the answers
    that were refused, and asks on after them.
    """
    said, attempt = "", 0
    while True:
        key = f"{question}-{attempt}" if attempt else question
        text = ask(key, said).signed
        try:
            return approvals.verified(
                text, run=str(runtime.flow_run.id), question=key, root=workspace.root, link_key=link_key()
            )
        except AnswerRefusedError as error:
            get_run_logger().warning("an answer was refused: %s", error)
            said, attempt = f"An answer was refused: {error}.\n\n", attempt + 1


def waiting(client: SyncPrefectClient) -> list[Waiting]:
    """Return the promotions that wait for a person, oldest first."""
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    runs = client.read_flow_runs(flow_run_filter=paused, sort=FlowRunSort.START_TIME_ASC, limit=_SHOWN)
    return [found for run in runs if (found := _question(client, run)) is not None]


def asked_by(client: SyncPrefectClient, run: UUID) -> Waiting | None:
    """Return what a run asks a person now; None if it asks nothing. Raises ObjectNotFound for an unknown run."""
    return _question(client, client.read_flow_run(run))


def give(client: SyncPrefectClient, asked: Waiting, person: Person, key: str, *, approve: bool, note: str = "") -> None:
    """Answer a promotion that waits.

    Raises:
        NotWaitingError: somebody else answered, or its time is over.
    """
    text = approvals.answer(person, key, run=str(asked.run), question=asked.question, approve=approve, note=note)
    found = asked_by(client, asked.run)
    if found is None or found.question != asked.question:
        raise NotWaitingError(f"{asked.name} no longer waits for this answer; look again")
    response = client.resume_flow_run(asked.run, run_input={"signed": text})
    if response.status is not SetStateStatus.ACCEPT:
        raise NotWaitingError(f"{asked.name} no longer waits for an answer; its run says more")


def says(actor: str) -> str:
    """Return who acts, for the ledger: the account, unless another name was typed, which nobody checked."""
    return f"{actor} (unverified)" if actor else approvals.account()


def _question(client: SyncPrefectClient, run: FlowRun) -> Waiting | None:
    """Return what a run asks; None if it asks nothing of ours."""
    state = run.state
    if state is None or state.type is not StateType.PAUSED:
        return None
    keys, question = state.state_details.run_input_keyset, state.state_details.pause_key
    if not keys or not question:
        return None
    try:
        schema = json.loads(client.read_flow_run_input(run.id, keys["schema"]))
        if "signed" not in schema.get("properties", {}):
            return None
        text = json.loads(client.read_flow_run_input(run.id, keys["description"]))
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.NOT_FOUND:  # it is asked a moment after the run is paused
            return None
        raise
    since, until = state.timestamp, state.state_details.pause_timeout
    return Waiting(run.id, run.name, question, text, since, until)
