"""Answer chat requests: the conversation's version, its prompt, the reply as it is written, and a record of it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from deployments.serving import base
from deployments.serving.base import NotReadyError
from deployments.serving.gateway.conversations import Assigned, Conversations, begun, named
from deployments.serving.gateway.engine import Engine
from deployments.serving.gateway.turn import Asked, Turn
from deployments.serving.gateway.wire import ApiError, ChatRequest
from deployments.serving.rounds import Rounds
from deployments.serving.versions import Version
from respect_core.log import served_chats
from respect_core.log.log import RecordError
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.served_chats import SERVED_CHATS, ServedChat
from respect_core.log.user_key import KeyChangedError
from respect_core.model import packing
from respect_core.model.chat import chat
from respect_core.scenarios.chat import logs
from respect_core.scenarios.chat.importers.conversation import (
    Conversation,
    Entry,
    Message,
    Source,
    Thread,
    conversation,
)
from respect_core.scenarios.chat.importers.parsing import messages_of, tools_of
from respect_core.scenarios.chat.importers.redact import Redactor
from respect_core.scenarios.chat.importers.stitch import is_background_call
from respect_core.scenarios.chat.importers.summary import Imported, Place
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)
ANY = "respect"
"""The model's name where chance chooses the variant."""
_REQUEST = Source("request", "")


@dataclass(frozen=True)
class Settings(base.Settings):
    """Settings of the gateway."""

    shares: Mapping[str, int] = field(default_factory=dict)  # of new conversations, by variant; 1 where none is named
    redact: bool = True  # mask personal data in what is logged
    consent: str | None = None  # version of the text that users must have agreed to; None: nothing is asked for
    round: int | None = None  # that learns from the conversations; None: after the newest registered


@dataclass(frozen=True)
class Caller:
    """Who asks: a user's id, which becomes a pseudonym at once, and what its client names.

    `address_prefix` and `signed_in` are as in `InteractionLog`.
    """

    user: str
    conversation: str | None = None
    consent: str | None = None  # version of the text that the user agreed to
    address_prefix: str | None = None
    signed_in: bool | None = None


class Gateway(base.VersionServer[Version]):
    """Conversations with users, by the versions that are deployed.

    Args:
        engine: loads them and writes their replies.
    """

    settings: Settings

    def __init__(self, workspace: Workspace, settings: Settings, engine: Engine[Version]) -> None:
        super().__init__(workspace, settings, SERVED_CHATS, engine.loader, partial(served_chats.kept, workspace.open()))
        self.engine = engine
        self._conversations = Conversations(workspace.open(), most=settings.games)
        self._rounds = Rounds(workspace, settings.round)
        self._redactor = Redactor() if settings.redact else None
        self._random = random.SystemRandom()

    def close(self) -> None:
        """Finish the replies, bring the log into the store, and end."""
        self.engine.close()
        super().close()

    def models(self) -> list[str]:
        """Return the names that a request may have as its model."""
        return [ANY, *(f"{ANY}.{variant}" for variant in self.settings.variants)]

    def on_offer(self) -> set[tuple[str, str]]:
        """Return the versions that new conversations get, each with its variant."""
        offers = self.roster.offers().items()
        return {(variant, served.name) for variant, offer in offers for served in offer.versions}

    def prometheus(self) -> bytes:
        """Return the metrics as text."""
        return self.metrics.text(self.roster, self.follower, self.engine.waiting)

    async def begin(self, request: ChatRequest, caller: Caller) -> Turn:
        """Begin to write a reply.

        Raises:
            ApiError: the request cannot be answered.
            NotReadyError: nothing is loaded for it yet, or registry or store do not answer.
            OverloadedError: too many wait.
            StoreError: the version of the conversation is unknown while the store is unreachable.
        """
        at, began = datetime.now(UTC), time.perf_counter()
        if request.model not in self.models():
            raise ApiError(
                404,
                f"no such model here; there are: {', '.join(self.models())}",
                code="model_not_found",
                param="model",
            )
        messages, spoken = await asyncio.to_thread(_read, request)
        user, name = pseudonym(caller.user), caller.conversation
        known = named(user, request.model, name) if name else begun(user, request.model, messages)
        background = is_background_call(messages)
        consent = caller.consent if caller.consent == self.settings.consent else None
        new = None if background else known
        assigned, served = await self._assigned(request.model, new, consent, background=background)
        asked = await asyncio.to_thread(self._asked, request, spoken, served, known or "")
        agreed = self.settings.consent is None or consent == assigned.consent == self.settings.consent
        turn = Turn(
            self, request, messages, user, known, assigned, served, background, agreed, at, began, asked, caller
        )
        turn.begin(partial(self.engine.submit, served))
        return turn

    async def _assigned(
        self, model: str, known: str | None, consent: str | None, *, background: bool
    ) -> tuple[Assigned, Version]:
        """Return the version that answers, which is chosen by chance in a new conversation."""
        try:
            assigned = await asyncio.to_thread(self._conversations.find, known) if known else None
        except KeyChangedError as error:
            log.error("%s", error)
            raise NotReadyError("this server is set up for another store's users; its log says more") from None
        if assigned is None:
            assigned = await self._new(model, known, consent, background=background)
            if known:
                assigned = await asyncio.to_thread(self._conversations.begin, known, assigned)
        try:
            served = await asyncio.to_thread(self.engine.loader.load_named, assigned.version)
        except Exception as error:
            raise NotReadyError(
                f"the version of this conversation is unavailable at the moment ({type(error).__name__})"
            ) from None
        if known:
            self.roster.begin(assigned.variant, known, served)
        return assigned, served

    async def _new(self, model: str, known: str | None, consent: str | None, *, background: bool) -> Assigned:
        """Let chance choose variant and version. What an interface asks for behind the user's back is no candidate's.

        Args:
            known: the conversation's id; None where it is known only once there is a reply.
        """
        offers = self.roster.offers()
        wanted = sorted(offers) if model == ANY else [model.removeprefix(f"{ANY}.")]
        if not wanted or wanted[0] not in offers:
            raise NotReadyError("no version is loaded yet; GET /ready says why")
        shares = [self.settings.shares.get(variant, 1) for variant in wanted]
        (variant,) = self._random.choices(wanted, shares)
        number = await self._rounds.next(variant)
        if background:
            version, among = offers[variant].deployed, {offers[each].deployed.name for each in wanted}
        else:
            version = offers[variant].version(known or secrets.token_hex())
            among = {served.name for each in wanted for served in offers[each].versions}
        offered = tuple(sorted(among)) if len(among) > 1 else ()
        return Assigned(variant=variant, version=version.name, round=number, offered=offered, consent=consent)

    def _asked(self, request: ChatRequest, spoken: Conversation, served: Version, name: str) -> Asked:
        """Return what the model is asked. Raises ApiError for a prompt that is too long."""
        processor, scenario = served.processor, served.scenario
        try:
            messages = logs.prompt(spoken)
            prompt = packing.prompt(name or served.name, messages, processor)
        except RecordError as error:
            raise ApiError(400, f"{error.field}: {error.reason}; {error.remedy}", param="messages") from None
        room = (chat(processor).positions or 1 << 30) - len(prompt.input_ids)
        wanted = request.max_completion_tokens or request.max_tokens or scenario.max_new_tokens
        if room < 1:
            raise ApiError(
                400,
                f"the messages have {len(prompt.input_ids)} tokens, and there is room for "
                f"{len(prompt.input_ids) + room - 1}",
                code="context_length_exceeded",
                param="messages",
            )
        return Asked(messages, prompt, request.sampling(self.settings.temperature, min(room, wanted)))

    def record(self, turn: Turn, chat: ServedChat) -> None:
        """Log a turn, and remember its conversation. Raises NotLoggedError, or StoreError in a first turn."""
        if turn.known is None and not turn.background:
            self._conversations.put(chat.conversation_id, turn.assigned)
        self._log_agreed(turn, chat)
        self.metrics.acts.labels(chat.variant, chat.version).inc()
        self.metrics.seconds.observe(chat.seconds)

    def log_cut(self, turn: Turn, chat: ServedChat) -> None:
        """Log a turn that its client did not wait for."""
        self.metrics.cut.inc()
        with suppress(base.NotLoggedError):
            self._log_agreed(turn, chat)

    def _log_agreed(self, turn: Turn, chat: ServedChat) -> None:
        """Log a turn whose user agreed to it, where that is asked for."""
        if turn.agreed:
            self._log(chat)
        else:
            self.metrics.unlogged.inc()

    def redacted(self, messages: Sequence[Message]) -> list[Message]:
        """Mask personal data."""
        return list(messages) if self._redactor is None else [self._redactor.message(each) for each in messages]

    def redacted_tools(self, tools: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Mask personal data in definitions of tools."""
        texts = [json.dumps(each, ensure_ascii=False) for each in tools]
        return [json.loads(each if self._redactor is None else self._redactor.json(each)) for each in texts]


def _read(request: ChatRequest) -> tuple[list[Message], Conversation]:
    """Read a request's messages. Raises ApiError where there is nothing to answer."""
    place = Place(_REQUEST, Imported())
    try:
        messages = messages_of(request.messages, place)
        thread = Thread(list(map(Entry, messages)), _REQUEST, tools=tools_of(request.tools) if request.tools else ())
        spoken = conversation(thread)
    except RecordError as error:
        raise ApiError(400, f"{error.field}: {error.reason}; {error.remedy}", param="messages") from None
    last = spoken.turns[-1] if spoken.turns else None
    if last is None:
        raise ApiError(400, "messages: no message of a user; end with one", param="messages")
    if last.reply and last.reply[-1].role != "tool":
        raise ApiError(400, "messages: the last is the assistant's; end with a user's or a tool's", param="messages")
    return messages, replace(spoken, tools=() if request.tool_choice == "none" else spoken.tools)
