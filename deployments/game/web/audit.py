"""Let people label follow-ups of drawn conversations, on a server of its own: `respect annotate page`.

An annotator reads a conversation up to a follow-up, and says whether the user was satisfied; the follow-up is there to
be judged, so there is one phase. Tokens, the order of tasks and the table of answers are those of games (`annotation`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.clients import SmallBodies
from deployments.game.domain.protocol import LARGEST_BODY
from deployments.game.engine.settings import Settings
from deployments.game.web import pages
from deployments.game.web.annotation import ANNOTATORS, AnnotationQueue, TheAnnotator, source_of
from deployments.game.web.app import HANDLERS
from deployments.web.denied import RequestDeniedError
from deployments.web.limits import Buckets, Guard
from deployments.web.refusals import PROBLEMS
from respect_core.measuring import human_eval
from respect_core.measuring.annotation_tasks import AnnotationTask, AuditTask, AuditTurn, TaskTurn
from respect_core.reporting.conversations import Said, readable, visible
from respect_core.store.base import Store


class AuditedTurn(BaseModel):
    """A follow-up to label, and the conversation before it."""

    interaction: str
    turn: int = Field(description="from 0")
    messages: list[Said] = Field(description="up to the follow-up")
    follow_up: str


class NextAudited(BaseModel):
    """The next turn to label. `task` is null if nothing is left."""

    task: AuditedTurn | None
    done: int = Field(description="turns that this annotator has labelled")


class Label(BaseModel):
    """An annotator's label of a turn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interaction: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    turn: Annotated[int, Field(ge=0, lt=100_000)]
    satisfaction: human_eval.Audited


class AuditQueue(AnnotationQueue):
    """Tasks for annotators of conversations, and their labels, in a store."""

    kind = AuditTask

    def next_audited(self, annotator: str) -> NextAudited:
        """Return the turn that an annotator gets next. Raises StoreError and TableError."""
        with self._lock:
            return self._next_audited(annotator)

    def label(self, annotator: str, label: Label) -> NextAudited:
        """Store a label and return what is next.

        Raises:
            RequestDeniedError, StoreError, TableError: as these say.
        """
        with self._lock:
            current = self._turn(annotator)
            if current is None or (current[0].interaction_id, current[1].turn) != (label.interaction, label.turn):
                raise RequestDeniedError(
                    409, "turn", "this turn is answered already, or not yours; load the page again"
                )
            task, turn = current
            answer = human_eval.Answer(
                interaction_id=task.interaction_id,
                round=task.round,
                variant=task.variant,
                turn=turn.turn,
                annotator=annotator,
                satisfaction=label.satisfaction,
            )
            try:
                human_eval.append_answers(self._store, [answer], source=source_of(task))
            except human_eval.AnswerError as error:
                raise RequestDeniedError(409, error.field, "this turn cannot be answered; tell the operator") from error
            return self._next_audited(annotator)

    def _next_audited(self, annotator: str) -> NextAudited:
        done = sum(who == annotator for *_, who in human_eval.answered_turns(self._store))
        current = self._turn(annotator)
        return NextAudited(task=None if current is None else _shown(*current), done=done)


def _shown(task: AnnotationTask, turn: TaskTurn) -> AuditedTurn:
    assert isinstance(turn, AuditTurn)
    return AuditedTurn(
        interaction=task.interaction_id,
        turn=turn.turn,
        messages=[
            Said(role=role, text=visible("\n".join(map(readable, text.split("\n"))))) for role, text in turn.messages
        ],
        follow_up=visible(turn.follow_up or ""),
    )


router = APIRouter(prefix="/api/annotate", responses=PROBLEMS)


def _queue(request: Request) -> AuditQueue:
    queue: AuditQueue = request.app.state.queue
    return queue


TheQueue = Annotated[AuditQueue, Depends(_queue)]
ANNOTATORS.add_to(router)


@router.get("/next")
async def next_turn(annotator: TheAnnotator, queue: TheQueue) -> NextAudited:
    """Return the turn to label."""
    return await asyncio.to_thread(queue.next_audited, annotator)


@router.post("/answer")
async def answer(annotator: TheAnnotator, queue: TheQueue, submitted: Label) -> NextAudited:
    """Take a label of it, and return what is next."""
    return await asyncio.to_thread(queue.label, annotator, submitted)


def create_audit_app(store: Store, settings: Settings) -> FastAPI:
    """Build the application: the page of annotators, what it needs, and nothing else."""
    limits = settings.limits
    app = FastAPI(title="RESPECT audit", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.settings, app.state.queue = settings, AuditQueue(store)
    requests = Buckets(*limits.requests, limits.addresses, time.monotonic)
    app.add_middleware(SmallBodies, largest=LARGEST_BODY)
    app.add_middleware(Guard, requests=requests, origins=settings.origins)
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    for path in ("/", "/annotate"):
        app.add_api_route(path, pages.audit_page, methods=["GET"])
    app.add_api_route("/static/{name}", pages.static, methods=["GET"])
    app.include_router(router)
    return app
