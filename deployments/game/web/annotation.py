"""Let annotators judge sampled games turn by turn, in two phases, without targets (appendix A.2). Each has a token.

Phase 1 shows context, state and utterance, and asks for the intended action. Once that answer is stored, phase 2 shows
the action that was taken and the follow-up, and asks whether the speaker is satisfied: nobody can look first. Answers
of both phases go to the `annotations` table (`measuring.human_eval`), phase 1 by itself to ``answers_begun/``, from
which an annotator resumes after a break.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.web.denied import RequestDeniedError
from deployments.web.refusals import PROBLEMS
from deployments.web.sign_in import SignIn
from respect_core.log.pseudonyms import pseudonym
from respect_core.measuring import annotation_tasks, human_eval
from respect_core.measuring.annotation_tasks import AnnotationTask, TaskTurn
from respect_core.scenarios.multiref import actions
from respect_core.store.base import MissingKeyError, Store

BEGUN = "answers_begun"
_HELD_SECONDS = 3600.0
"""Seconds for which a game that an annotator has seen is not given to another in their place."""
router = APIRouter(prefix="/api/annotate", responses=PROBLEMS)


class EarlierTurn(BaseModel):
    """An earlier turn of the game, with its action."""

    utterance: str
    action: str


class Task(BaseModel):
    """A turn as an annotator sees it. `action` and `follow_up` are null in phase 1, whatever they are."""

    interaction: str
    turn: int = Field(description="from 0")
    turns: int = Field(description="of the game")
    phase: Literal["intended", "satisfaction"]
    context: list[str] = Field(description="image ids in the listener's order: letters A to J")
    selected: str = Field(description="letters selected before the turn")
    earlier: list[EarlierTurn]
    utterance: str
    intended: str | None = Field(default=None, description="the annotator's own answer of phase 1")
    action: str | None = Field(default=None, description="phase 2: what the listener did")
    follow_up: str | None = Field(default=None, description="phase 2: what the speaker wrote next")


class Next(BaseModel):
    """The next turn to annotate. `task` is null if nothing is left."""

    task: Task | None
    done: int = Field(description="turns that this annotator has answered")


class AnswerRequest(BaseModel):
    """An answer: `intended` in phase 1, `satisfaction` in phase 2."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interaction: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    turn: Annotated[int, Field(ge=0, lt=1000)]
    intended: Annotated[str, StringConstraints(max_length=actions.LONGEST)] | None = None
    satisfaction: human_eval.Satisfaction | None = None


class AnnotationQueue:
    """Tasks for annotators and their answers, in a store. `show` is called with the pictures that they see."""

    kind: type[AnnotationTask] = AnnotationTask

    def __init__(self, store: Store, show: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        self._store, self._show = store, show
        self._lock = threading.Lock()  # serialises changes to the table
        self._held: dict[str, tuple[float, annotation_tasks.AnsweredTurn]] = {}  # until when, which game, by annotator

    def next(self, annotator: str) -> Next:
        """Return the turn that an annotator gets next. Raises StoreError and TableError."""
        with self._lock:
            return self._next(annotator)

    def answer(self, annotator: str, submitted: AnswerRequest) -> Next:
        """Store an answer and return what is next: the turn's other phase, or another turn.

        Raises:
            RequestDeniedError, StoreError, TableError: as these say.
        """
        with self._lock:
            current = self._turn(annotator)
            place = submitted.interaction, submitted.turn
            if current is None or (current[0].interaction_id, current[1].turn) != place:
                raise RequestDeniedError(
                    409, "turn", "this turn is answered already, or not yours; load the page again"
                )
            task, turn = current
            intended = self._intended(annotator, task, turn)
            if intended is None:
                intended = self._begin(annotator, task, turn, submitted)
                if turn.follow_up is not None:
                    return self._next(annotator)
            elif turn.follow_up is not None and submitted.satisfaction is None:
                raise RequestDeniedError(422, "satisfaction", "choose one of the answers")
            satisfaction = submitted.satisfaction if turn.follow_up is not None else None
            try:
                human_eval.append_answers(
                    self._store,
                    [
                        human_eval.Answer(
                            interaction_id=task.interaction_id,
                            round=task.round,
                            variant=task.variant,
                            turn=turn.turn,
                            annotator=annotator,
                            intended=intended,
                            satisfaction=satisfaction,
                        )
                    ],
                    source=source_of(task),
                )
            except human_eval.AnswerError as error:
                raise RequestDeniedError(409, error.field, "this turn cannot be answered; tell the operator") from error
            return self._next(annotator)

    def _next(self, annotator: str) -> Next:
        answered = human_eval.answered_turns(self._store)
        done = sum(who == annotator for *_, who in answered)
        current = self._turn(annotator)
        return Next(task=None if current is None else self._task(annotator, *current), done=done)

    def _turn(self, annotator: str) -> tuple[AnnotationTask, TaskTurn] | None:
        """Find the next turn. A game that somebody is at counts as begun, so that two do not begin the same one."""
        now = time.monotonic()
        held_games = {game for who, (until, game) in self._held.items() if until > now and who != annotator}
        answered = human_eval.answered_turns(self._store) | held_games
        current = annotation_tasks.next_turn(annotation_tasks.read_tasks(self._store, self.kind), answered, annotator)
        if current is None:
            self._held.pop(annotator, None)
        else:
            game = (*current[0].partition, current[0].interaction_id, annotation_tasks.HELD, annotator)
            self._held[annotator] = now + _HELD_SECONDS, game
        return current

    def _task(self, annotator: str, task: AnnotationTask, turn: TaskTurn) -> Task:
        intended = self._intended(annotator, task, turn)
        self._show(task.context)
        return Task(
            interaction=task.interaction_id,
            turn=turn.turn,
            turns=len(task.turns),
            phase="intended" if intended is None else "satisfaction",
            context=task.context,
            selected=turn.state,
            earlier=[EarlierTurn(utterance=past.utterance, action=past.action) for past in task.turns[: turn.turn]],
            utterance=turn.utterance,
            intended=intended,
            action=None if intended is None else turn.action,
            follow_up=None if intended is None else turn.follow_up,
        )

    def _begin(self, annotator: str, task: AnnotationTask, turn: TaskTurn, submitted: AnswerRequest) -> str:
        """Store the answer of phase 1 and return it; the first one stands. Raises RequestDeniedError."""
        if submitted.intended is None:
            raise RequestDeniedError(422, "intended", "say first what you would select")
        try:
            action = actions.parse(submitted.intended)
            actions.check_legal(action, turn.state, len(task.context))
        except actions.ActionError:
            raise RequestDeniedError(422, "intended", "select what is not selected, and deselect what is") from None
        self._store.put_if_absent(_begun_key(annotator, task, turn), str(action).encode())
        return self._intended(annotator, task, turn) or str(action)

    def _intended(self, annotator: str, task: AnnotationTask, turn: TaskTurn) -> str | None:
        try:
            return self._store.read(_begun_key(annotator, task, turn)).decode()
        except MissingKeyError:
            return None


def source_of(task: AnnotationTask) -> human_eval.Source:
    """Return the source of a task's answers."""
    return "review" if task.reviewed else "page"


def _begun_key(annotator: str, task: AnnotationTask, turn: TaskTurn) -> str:
    name = hashlib.sha256(f"{task.interaction_id}\n{turn.turn}\n{annotator}".encode()).hexdigest()[:32]
    return f"{task.partition.folder(BEGUN)}{name}.txt"


ANNOTATORS = SignIn("annotator", "RESPECT_ANNOTATOR_TOKENS", lambda settings: settings.annotator_tokens)


def _annotator(name: Annotated[str, Depends(ANNOTATORS)]) -> str:
    return pseudonym(name)


def _queue(request: Request) -> AnnotationQueue:
    state: Any = request.app.state
    if not hasattr(state, "queue"):
        state.queue = AnnotationQueue(state.rooms.workspace.open(), state.rooms.images.show)
    queue: AnnotationQueue = state.queue
    return queue


TheAnnotator = Annotated[str, Depends(_annotator)]
TheQueue = Annotated[AnnotationQueue, Depends(_queue)]


ANNOTATORS.add_to(router)


@router.get("/next")
async def next_turn(annotator: TheAnnotator, queue: TheQueue) -> Next:
    """Return the turn to annotate, in its phase."""
    return await asyncio.to_thread(queue.next, annotator)


@router.post("/answer")
async def answer(annotator: TheAnnotator, queue: TheQueue, submitted: AnswerRequest) -> Next:
    """Take an answer to it, and return what is next."""
    return await asyncio.to_thread(queue.answer, annotator, submitted)
