"""Choose how speakers put things: words for attribute values, and phrases around them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from respect_core.scenarios.multiref.attributes import LEXICON

Value = tuple[str, str]  # attribute and value
Weighted = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Dialect:
    """Words by attribute value, and the share of figurative words in descriptions."""

    technical: Mapping[Value, Sequence[str]]
    figurative: Mapping[Value, Weighted]
    share: float

    def word(self, value: Value, rng: random.Random) -> tuple[str, bool]:
        """Choose a word for a value, and return whether it is figurative."""
        options = self.figurative[value]
        if options and rng.random() < self.share:
            return rng.choices([word for word, _ in options], [weight for _, weight in options])[0], True
        return rng.choice(self.technical[value]), False


VALUES: tuple[Value, ...] = tuple((name, value) for name, by_value in LEXICON.items() for value in by_value)
OWN_SHARE = 0.4  # of the figurative words, those that users read in their own way


@cache
def readings() -> Mapping[str, tuple[Value, ...]]:
    """Return what figurative words mean to most people: usually the lexicon's value, sometimes one of two others."""
    rng = random.Random("senses-0")
    table: dict[str, tuple[Value, ...]] = {}
    for name, value in VALUES:
        others = [other for other in VALUES if other[0] != name]
        for word in LEXICON[name][value].figurative:
            table[word] = ((name, value), *rng.sample(others, 2))
    return table


def users(share: float, own_share: float = OWN_SHARE) -> Dialect:
    """Make the users' dialect, which has settled on one reading of each figurative word.

    For `own_share` of the words it is a reading that other people do not use. That is what the policy has to learn.
    """
    rng = random.Random("users-0")
    figurative: dict[Value, list[tuple[str, float]]] = {value: [] for value in VALUES}
    for word, meanings in readings().items():
        own = rng.choice([value for value in VALUES if value not in meanings])
        figurative[own if rng.random() < own_share else meanings[0]].append((word, 1.0))
    return Dialect(
        {(name, value): LEXICON[name][value].technical for name, value in VALUES},
        {value: tuple(words) for value, words in figurative.items()},
        share,
    )


# --- noun phrases -----------------------------------------------------------------------------------------------

_LIKENED = (
    "like {}",
    "that looks like {}",
    "which looks like {}",
    "a bit like {}",
    "kind of like {}",
    "looking like {}",
)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' or noun == 'hourglass' else 'a'} {noun}"


def _join(items: Sequence[str], rng: random.Random) -> str:
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + rng.choice((" and ", ", ", " and also ")) + items[-1]


def noun_phrase(words: Sequence[tuple[str, bool]], rng: random.Random) -> str:
    """Turn words, each with whether it is figurative, into a noun phrase such as 'the wide one like a dancer'."""
    adjectives = [word for word, figurative in words if not figurative]
    nouns = [_article(word) for word, figurative in words if figurative]
    rng.shuffle(adjectives)
    rng.shuffle(nouns)
    if not nouns:
        if rng.random() < 0.3:
            return "the one that is " + _join(adjectives, rng)
        return f"the {', '.join(adjectives)} {rng.choice(('one', 'one', 'shape', 'piece'))}"
    comparison = _join(nouns, rng)
    if not adjectives:
        return rng.choice(
            ("the one " + rng.choice(_LIKENED).format(comparison), comparison, "the one with " + comparison)
        )
    adjective_phrase = f"the {', '.join(adjectives)} one"
    form = rng.randrange(3)
    if form == 0:
        return f"{adjective_phrase} {rng.choice(_LIKENED).format(comparison)}"
    if form == 1:
        return f"{comparison}, {_join(adjectives, rng)}"
    return f"the one {rng.choice(_LIKENED).format(comparison)}, {_join(adjectives, rng)}"


# --- phrases of the game; {} is a noun phrase ---------------------------------------------------------------------

DESCRIBE = (
    "{}", "{}", "{}", "select {}", "find {}", "pick {}", "choose {}", "click {}", "look for {}", "i want {}",
    "it is {}", "get {}", "please select {}", "we need {}", "there is {}", "i see {}", "can you find {}",
)  # fmt: skip
FIRST = (*DESCRIBE, "first {}", "first one is {}", "the first one looks like this: {}", "start with {}", "ok, {}")
NEXT = (*DESCRIBE, "now {}", "now {}", "next {}", "next one is {}", "then {}", "now find {}", "now select {}",
        "next, pick {}", "also {}", "another one is {}", "and now {}", "the next one is {}")  # fmt: skip
APPROVE = (
    "yes", "good", "great", "perfect", "correct", "nice", "right", "exactly", "awesome", "well done", "excellent",
    "yep", "yes, good", "good job", "great job", "yes, that is it", "that is right", "that is correct", "very good",
    "nice work", "yes, perfect", "good, thanks", "yes, correct", "cool", "great, thank you", "yeah, that is the one",
)  # fmt: skip
APPROVE_NEXT = ("{}, now {}", "{}. now {}", "{}, next {}", "{}. next one is {}", "{}, {}", "{}. {}", "{}! now {}",
                "{}, then {}", "{}, now find {}", "{}. now select {}", "{}! {}", "{}, next is {}")  # fmt: skip
REJECT = (
    "no", "wrong", "nope", "not that one", "no, not that one", "wrong one", "incorrect", "no, that is wrong",
    "that is not it", "that is not right", "not quite", "sorry, wrong one", "no, sorry", "that is not the one",
    "no, wrong", "oops, no", "not this one", "that is incorrect", "no, not it", "that was wrong",
)  # fmt: skip
CORRECT = (
    "{}, {}", "{}, it is {}", "{}, try {}", "{}, i mean {}", "{}. deselect that and find {}", "{}, undo that, {}",
    "{}, try again, {}", "{}, it should be {}", "{}, i want {}", "{}, deselect that one and select {}", "{}. {}",
    "{}, unselect it, {}", "{}, look for {}", "{}. try again: {}", "{}, remove it and pick {}", "{}, i meant {}",
)  # fmt: skip
UNDO = (
    "undo that", "{}, undo that", "{}, deselect that one", "deselect that", "deselect the last one", "{}, unselect it",
    "{}, remove that one", "please deselect that one", "undo the last one", "{}, deselect it", "unselect that one",
    "remove the last one", "{}, take that off", "{}, undo it please", "undo your last pick", "undo what you selected",
)  # fmt: skip
TRY_AGAIN = (
    "{}, try again", "wrong, try again", "{}, try another one", "{}, try a different one", "{}, try once more",
    "{}, pick another one", "{}, deselect that and try again", "undo that and try again", "{}, the other one",
    "{}, please try again", "no, unselect that one and try again",
)  # fmt: skip
RESET = (
    "start over, deselect everything", "{}, clear everything", "reset, deselect all", "all wrong, remove everything",
    "deselect everything", "{}, deselect all of them", "please start over, deselect all", "clear all of them",
    "undo everything", "{}, undo all of that", "deselect all of them please", "unselect everything and start over",
)  # fmt: skip
DESELECT = (
    "deselect {}", "{} is wrong, deselect it", "no, unselect {}", "wrong, remove {}", "please deselect {}",
    "no, undo {}", "no, deselect {}", "{} is not right, remove it", "wrong, take off {}",
)  # fmt: skip
INSIST = (
    "right, but not the one i meant, {}", "not what i meant, but keep it. {}", "no, i meant {} but keep that one",
    "that was not what i meant, but leave it, {}", "wrong one, but keep it, i meant {}", "not the one i meant, {}",
)  # fmt: skip
BOTH = ("{} and then {}", "{}, and also {}", "{} and {}", "two of them: {} and {}", "both {} and {}")
STILL = ("{}, but i also want {}", "one is right, now {}", "{}, and the other one is {}", "{}, but also {}")
