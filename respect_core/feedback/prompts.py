"""Prompts of the feedback decoder phi (section 4.1, figure 3, appendix F).

Deviations from the paper:

1. Figure 3 writes 'Deselect F select G' where the released logs have 'deselect F select G'. The log keeps lower
   case; `zero_shot` capitalises the first letter, so that the prompt reads as figure 3 does.
2. `few_shot` is not in the paper. Figure 3 needs an instruction-tuned model of several billion parameters; one
   of 135 million answers 'Positive' to everything. A base-style prompt of worked examples makes it usable. It
   shows only the reply: the exchange before it distracted a model this small (docs/decoder.md), as more history
   distracted the paper's (appendix F). `context=True` shows the whole exchange.
3. `few_shot` also asks about the opening of a reply alone: in a small model, praise at the end outweighs a refusal
   before it (docs/decoder.md).
4. The conversation of a first turn starts with the speaker (figure 16), because there is no action before it.

Not a deviation: 'Lean towards negative if it sounds neutral.' is in the binary prompt only. Figure 3 distinguishes the
two prompts by colour, and the authors' code agrees (src/reward_decoder.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from respect_core.versions import json_hash

Kind = Literal["binary", "ternary"]
Family = Literal["zero_shot", "few_shot"]

POSITIVE, NEUTRAL, NEGATIVE = 1, 0, -1
LABELS: Mapping[Kind, tuple[int, ...]] = {
    "binary": (POSITIVE, NEGATIVE),
    "ternary": (POSITIVE, NEUTRAL, NEGATIVE),
}


@dataclass(frozen=True)
class Exchange:
    """The last two action-utterance pairs, <a_{i-1}, u_i, a_i, u_{i+1}> (appendix F).

    `previous_action` is None on the first turn of an interaction.
    """

    previous_action: str | None
    utterance: str
    action: str
    follow_up: str

    def lines(self, speaker: str = "Speaker", listener: str = "Listener") -> list[tuple[str, str]]:
        """Return (who, what) in order, whitespace folded so that an utterance cannot start a line of its own."""
        lines = [(speaker, self.utterance), (listener, self.action), (speaker, self.follow_up)]
        if self.previous_action is not None:
            lines.insert(0, (listener, self.previous_action))
        return [(who, " ".join(what.split())) for who, what in lines]


def opening(reply: str) -> str:
    """Return the first clause of a reply: up to the first punctuation mark, or dash between spaces, after a word."""
    ends = (match.start() for match in _CLAUSE_END.finditer(reply))
    return next((reply[:end] for end in ends if any(map(str.isalnum, reply[:end]))), reply)


_CLAUSE_END = re.compile("[.,;:!?\n\u3002\u3001\u060c\u061b\u061f\u0964]|\\s[-\u2013\u2014]+\\s")


@dataclass(frozen=True)
class Example:
    """A worked example for few-shot prompts: an exchange and its label (+1, 0, -1)."""

    exchange: Exchange
    label: int


@dataclass(frozen=True)
class Prompt:
    """A prompt family and everything that shapes its text.

    `words` are the words for each label; worked examples use the first, and a label's log-probability is the mean
    over its words. `cue` is the line that the word completes. `roles` names speaker and listener in worked examples.
    With `openings`, the model is also asked about the opening of the reply, and the reply is no more positive than
    that.
    """

    family: Family
    kind: Kind
    words: Mapping[int, tuple[str, ...]]
    cue: str = ""
    examples: Sequence[Example] = ()
    context: bool = True
    openings: bool = False
    roles: tuple[str, str] = ("Speaker", "Listener")

    def text(self, exchange: Exchange) -> str:
        """Return the text before the label word. For `zero_shot` this is the user's message of a chat."""
        return _figure_3(self.kind, exchange) if self.family == "zero_shot" else self._few_shot(exchange)

    def hash(self) -> str:
        """Return the sha256 of template, label words, examples, and whether openings count, as 64 hex digits."""
        probe = self.text(Exchange("<a0>", "<u1>", "<a1>", "<u2>")), self.text(Exchange(None, "<u1>", "<a1>", "<u2>"))
        content = [self.family, self.kind, *probe, sorted(self.words.items()), self.openings]
        return json_hash(content)

    def _few_shot(self, exchange: Exchange) -> str:
        blocks = [f"{self._block(each.exchange)} {self.words[each.label][0]}\n\n" for each in self.examples]
        return "".join([*blocks, self._block(exchange)])

    def _block(self, exchange: Exchange) -> str:
        lines = exchange.lines(*self.roles)[0 if self.context else -1 :]
        return "\n".join([*(f"{who}: {what}" for who, what in lines), self.cue])


# --- figure 3 ---------------------------------------------------------------------------------------------------

_QUESTION = {"binary": "positive or negative", "ternary": "positive, neutral, or negative"}
_LEAN = {"binary": " Lean towards negative if it sounds neutral.", "ternary": ""}
_ANSWER = {"binary": "Positive, or Negative", "ternary": "Positive, Neutral or Negative"}


def _figure_3(kind: Kind, exchange: Exchange) -> str:
    """Return the user's message of figure 3, without its annotations."""
    conversation = [
        f"{who}: {what[:1].upper() + what[1:] if who == 'Listener' else what}" for who, what in exchange.lines()
    ]
    return "\n".join(
        [
            "Please carefully read the following conversation and answer: Is the very last utterance from the speaker "
            f"{_QUESTION[kind]} feedback? Often negative feedback include corrections and keywords like no, not, "
            "undo, don't, with generally negative sentiment, while positive feedback often includes good, yes, "
            f"correct, okay, or simply move on to the next stage.{_LEAN[kind]}",
            "(start of the conversation)",
            *conversation,
            "(end of the conversation)",
            f"Answer a single word, {_ANSWER[kind]}.",
        ]
    )


def zero_shot(kind: Kind) -> Prompt:
    """Return figure 3 word for word, for instruction-tuned models, through their chat template."""
    words = {POSITIVE: ("Positive",), NEUTRAL: ("Neutral",), NEGATIVE: ("Negative",)}
    return Prompt("zero_shot", kind, {label: words[label] for label in LABELS[kind]})


# --- few-shot ---------------------------------------------------------------------------------------------------

# Invented. In half, the speaker is satisfied: there is a word of approval, or they just move on to the next thing
# (appendix F); in half they are not: they correct, ask to undo, or start over. Each reply opens differently, because
# the opening is what a small model has to learn to weigh.
_EXAMPLES = (
    Example(Exchange("select B", "the tall lamp", "select D", "no, the other lamp with the round shade"), NEGATIVE),
    Example(
        Exchange("select A", "a fish swimming to the left", "select C", "yes, now choose the sailing boat"), POSITIVE
    ),
    Example(
        Exchange(
            "deselect E select F", "a man with a hat", "select H", "Wrong. Choose the man who is facing to the right."
        ),
        NEGATIVE,
    ),
    Example(Exchange("select D", "someone sitting on a chair", "select G", "a rabbit with one long ear"), POSITIVE),
    Example(Exchange("select I", "the arrow pointing down", "select B", "deselect it and try again"), NEGATIVE),
    Example(
        Exchange(None, "a big square house", "select E", "Correct. Next find the bird with one wing open."), POSITIVE
    ),
    Example(Exchange("select J", "a fork", "select F", "no. spoon"), NEGATIVE),
    Example(Exchange("select C", "a broom", "select A", "yes. candle"), POSITIVE),
    Example(
        Exchange(
            "select G",
            "a candle on a plate",
            "deselect C select F",
            "Not that one, remove it. The thin candle with a flat top.",
        ),
        NEGATIVE,
    ),
    Example(Exchange("select G", "a mountain with two peaks", "select A", "get the letter Z"), POSITIVE),
    Example(
        Exchange("select A", "a key", "select D", "Incorrect. Take that away and find the key with a long handle."),
        NEGATIVE,
    ),
    Example(
        Exchange("select H", "a runner", "deselect H select B", "Good, the last one is a teapot on a table."), POSITIVE
    ),
    Example(Exchange("select F", "a long snake", "select I", "undo, it has a square head"), NEGATIVE),
    Example(Exchange("deselect A", "a cat lying down", "select J", "A kite with a short tail."), POSITIVE),
    Example(
        Exchange("select E", "a swan", "select B", "No, that's a duck. Delete your last pick and start over."), NEGATIVE
    ),
    Example(Exchange(None, "a tower", "select E", "Great! Then the ship with a flag."), POSITIVE),
)


def few_shot(kind: Kind, context: bool = False, examples: Sequence[Example] = _EXAMPLES) -> Prompt:
    """Return a prompt of worked examples for small models; both kinds have the same text, and so share one pass."""
    return Prompt(
        "few_shot",
        kind,
        {POSITIVE: ("positive", "good", "right"), NEGATIVE: ("negative", "bad", "wrong")},
        cue="The speaker's feedback was",
        examples=examples,
        context=context,
        openings=True,
    )


def few_shot_chat(kind: Kind, examples: Sequence[Example]) -> Prompt:
    """Return a prompt of worked examples of users' replies to an assistant; its cue asks how the user felt.

    Most of its words are in no example: a small model repeats the words that it has just read, whatever the reply.
    """
    return Prompt(
        "few_shot",
        kind,
        {
            POSITIVE: ("happy", "satisfied", "pleased", "glad", "right", "good", "positive"),
            NEGATIVE: (
                *("unhappy", "disappointed", "frustrated", "annoyed", "angry", "confused"),
                *("wrong", "bad", "negative"),
            ),
        },
        cue="The user was",
        examples=examples,
        context=False,
        openings=True,
        roles=("User", "Assistant"),
    )
