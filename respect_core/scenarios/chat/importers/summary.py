"""Count what an import understood, and what it set aside and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from respect_core.log.log import Problem
from respect_core.scenarios.chat.importers.conversation import Conversation, Source


@dataclass
class Imported:
    """The summary of an import, which grows while conversations are read.

    Records that are not used are set aside; parts of conversations that are, such as pictures, are left out.
    """

    on_problem: Callable[[Problem], None] = lambda _: None
    """Called with each record set aside and each part left out."""
    records: int = 0
    conversations: int = 0
    turns: int = 0  # with a reply
    follow_ups: int = 0
    rated: int = 0  # turns with the user's own thumb
    siblings: int = 0
    formats: Counter[str] = field(default_factory=Counter)  # of conversations
    languages: Counter[str] = field(default_factory=Counter)  # as the log has them
    set_aside: Counter[str] = field(default_factory=Counter)  # records by reason
    left_out: Counter[str] = field(default_factory=Counter)  # parts by reason
    masked: Counter[str] = field(default_factory=Counter)  # personal data by kind
    examples: dict[str, Problem] = field(default_factory=dict)  # the first of each reason

    def add(self, conversation: Conversation, format: str) -> None:
        """Count a conversation."""
        answered = [turn for turn in conversation.turns if turn.reply]
        self.conversations += 1
        self.turns += len(answered)
        self.follow_ups += len(conversation.turns) - 1
        self.rated += sum(turn.explicit is not None for turn in answered)
        self.siblings += sum(len(turn.siblings) for turn in conversation.turns)
        self.formats[format] += 1
        if conversation.language:
            self.languages[conversation.language] += 1

    def put_aside(self, problem: Problem) -> None:
        """Count a record that is not used."""
        self._note(self.set_aside, problem)

    def leave_out(self, problem: Problem) -> None:
        """Count a part of a record that is not used, though the rest is."""
        self._note(self.left_out, problem)

    def _note(self, counter: Counter[str], problem: Problem) -> None:
        counter[problem.reason] += 1
        self.examples.setdefault(problem.reason, problem)
        self.on_problem(problem)

    def reasons(self) -> str:
        """Say why records were set aside, the most frequent reason first, each with an example."""
        return "; ".join(f"{n:,} x {why} (first: {self._first(why)})" for why, n in self.set_aside.most_common())

    def _first(self, reason: str) -> str:
        problem = self.examples[reason]
        place = ", ".join(filter(None, (problem.object, problem.record, problem.field)))
        return f"{place}: {problem.remedy}"

    def __str__(self) -> str:
        if not self.conversations:
            return f"0 of {self.records:,} records usable, because {self.reasons() or 'there are none'}"
        lines = [
            f"{self.conversations:,} conversations from {self.records:,} records: {self.turns:,} turns, "
            f"{self.follow_ups:,} with a follow-up, {self.rated:,} with a thumb, {self.siblings:,} abandoned siblings"
        ]
        named = {"formats": self.formats, "languages": self.languages, "masked": self.masked, "left out": self.left_out}
        lines += [
            f"{name}: " + ", ".join(f"{key} {n:,}" for key, n in counts.most_common())
            for name, counts in named.items()
            if counts
        ]
        if self.set_aside:
            lines.append(f"set aside, {self.set_aside.total():,} in all: {self.reasons()}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Place:
    """The record that is being read, to which its parts that are left out are noted."""

    source: Source
    imported: Imported

    def leave_out(self, field: str, reason: str, remedy: str) -> None:
        """Note a part of this record that is not used."""
        self.imported.leave_out(Problem(*self.source, field, reason, remedy))
