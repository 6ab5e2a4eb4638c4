"""Turn conversations into records of the log, and into the prompt that an assistant continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from respect_core.log.lengths import Ruler, spoken
from respect_core.log.log import RecordError, from_validation
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity, from_log
from respect_core.log.served_chats import interaction_id
from respect_core.scenario import Message as PromptMessage
from respect_core.scenarios.chat.importers.conversation import ChatTurn, Conversation, Message
from respect_core.scenarios.chat.reply import Part, before, call, state, text, text_message, written
from respect_core.scenarios.chat.scenario import SCENARIO

_UNKNOWN_TIME = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Writer:
    """A writer of records of one round and variant.

    Args:
        ruler: ends a conversation before the first turn that does not fit the base.
        policies: by the name of a model in a conversation; of others only the name is known.
        user: makes a pseudonym of a conversation's user.
    """

    round: int
    variant: str
    ruler: Ruler
    scenario: str = SCENARIO.name
    policies: Mapping[str, PolicyIdentity] = field(default_factory=dict)
    user: Callable[[str], str] = pseudonym

    def record(self, conversation: Conversation) -> InteractionLog:
        """Return a conversation as a record, up to the first reply that is cut or does not fit.

        Raises:
            RecordError: nothing is left of it, or an utterance is too long.
        """
        turns, closing = _answered(conversation.turns)
        opening = _before(conversation)
        logged = [_turn(number, turn, opening if number == 0 else None) for number, turn in enumerate(turns)]
        log = self._log(conversation, logged, closing)
        fitting = self.ruler.turns_within(from_log(log))
        if fitting == 0:
            limit = self.ruler.budget.game
            raise RecordError(
                "turns[0]",
                f"the first turn has more than {limit} tokens",
                "use a base that takes more, or leave it out",
            )
        if fitting < len(logged):
            log = self._log(conversation, logged[:fitting], logged[fitting].utterance)
        return log

    def _log(self, conversation: Conversation, turns: list[LoggedTurn], closing: str | None) -> InteractionLog:
        model = next((turn.model for turn in reversed(conversation.turns) if turn.model), "unknown")
        try:
            return InteractionLog(
                interaction_id=interaction_id(conversation.id),
                scenario=self.scenario,
                round=self.round,
                variant=self.variant,
                policy=self.policies.get(model) or PolicyIdentity(name=model, version="unknown"),
                user=self.user(conversation.user or conversation.id),
                started_at=conversation.started_at or _UNKNOWN_TIME,
                context=[],
                turns=turns,
                closing=closing,
            )
        except ValidationError as error:
            raise from_validation(error) from None


def prompt(conversation: Conversation) -> list[PromptMessage]:
    """Return a conversation as the messages that a model continues, as training would show them.

    Raises:
        RecordError: an utterance is blank, or too long.
    """
    messages = before(_before(conversation))
    for number, turn in enumerate(conversation.turns):
        messages.append(text_message("user", _utterance(turn.utterance, number)))
        messages += [text_message(part.role, text(part)) for part in map(_part, turn.reply)]
    return messages


def curated(log: InteractionLog, right: Sequence[int]) -> InteractionLog:
    """Return a record whose turns with these numbers count as right: their replies are its targets."""
    targets = list(dict.fromkeys(log.turns[number].action for number in right))
    return log.model_copy(update={"outcome": Outcome(targets=targets, success=len(right) == len(log.turns))})


def _answered(turns: Sequence[ChatTurn]) -> tuple[Sequence[ChatTurn], str | None]:
    """Return the turns before the first that has no whole reply, and the utterance of that one.

    Raises:
        RecordError: the first turn has none.
    """
    stop = next((n for n, turn in enumerate(turns) if turn.cut or not _parts(turn)), len(turns))
    if stop == 0:
        raise RecordError("turns[0]", "no whole reply to the first utterance", "leave the conversation out")
    closing = turns[stop].utterance if stop < len(turns) else None
    return turns[:stop], closing and spoken(closing, f"turns[{stop}]", _SHORTEN, SCENARIO.longest_utterance)


_SHORTEN = "shorten it in the log, or leave the conversation out"


def _turn(number: int, turn: ChatTurn, opening: str | None) -> LoggedTurn:
    return LoggedTurn(
        utterance=_utterance(turn.utterance, number),
        action=written(_parts(turn)),
        state=opening or None,
        logp=turn.logprob,
        explicit=turn.explicit,  # type: ignore[arg-type]  # 1 or -1, which pydantic checks
    )


def _before(conversation: Conversation) -> str:
    opening = [(message.role, text(_part(message))) for message in conversation.opening]
    return state(conversation.system, conversation.tools, opening)


def _utterance(raw: str, number: int) -> str:
    utterance = spoken(raw, f"turns[{number}]", _SHORTEN, SCENARIO.longest_utterance)
    if not utterance.strip():
        raise RecordError(f"turns[{number}]", "an utterance of invisible characters alone", "leave the turn out")
    return utterance


def _parts(turn: ChatTurn) -> list[Part]:
    """Return the messages of a reply, without answers of tools that the assistant said nothing about."""
    parts = [_part(each) for each in turn.reply]
    while parts and parts[-1].role != "assistant":
        parts.pop()
    return parts if any(part.content.strip() or part.calls for part in parts) else []


def _part(message: Message) -> Part:
    calls = tuple(call(each.name, each.arguments) for each in message.tool_calls)
    return Part("assistant" if message.role == "assistant" else "tool", message.content, calls)
