"""Count looks at candidates: each comparison with what is deployed spends some of the gate's error rate.

``looks/<model>/000001.json``, 000002, ...: one immutable object per look, written before the verdict is known, beside
the entries of the ledger. The same question about the same games is one look, however often it is asked. Looks are
counted from a variant's first candidate on, and never again from 1: neither by a promotion, nor by another game set.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from respect_core.release.ledger import numbered, to_bytes
from respect_core.store.base import Store
from respect_core.versions import code_version


class Question(BaseModel):
    """What a look asks: whether a candidate may replace the deployed version, by which games."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    candidate: str  # versions are written as 'respect.b-fft/3'
    adapter_hash: str  # of the candidate
    against: Mapping[str, str]  # versions by what they are: deployed, and perhaps best and seed
    game_set: str
    sha256: str  # of the game set


class Look(BaseModel):
    """A question and its number among those about a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    question: Question
    actor: str
    time: str  # ISO 8601, UTC
    code_version: str

    def __str__(self) -> str:
        asked, when = self.question, self.time[:19].replace("T", " ")
        return (
            f"{asked.model}: look {self.number} at {when}, at {asked.candidate} on {asked.game_set!r}, by {self.actor}"
        )


def key(model: str, number: int) -> str:
    """Return the key of a look."""
    return f"looks/{model}/{number:06}.json"


def models(store: Store) -> list[str]:
    """Return the models whose candidates were looked at."""
    return sorted({name.split("/")[1] for name in store.keys("looks/")})


def read(store: Store, model: str) -> list[Look]:
    """Return all looks at candidates of a model, oldest first; none in a store of an earlier release.

    Raises:
        LedgerError: a look is missing or cannot be read.
    """
    return numbered(store, f"looks/{model}/", Look, "look")


def number(store: Store, question: Question) -> int:
    """Return the number of the look that asks this question: that of the first time, or the next free one."""
    found = read(store, question.model)
    return next((look.number for look in found if look.question == question), len(found) + 1)


def spend(store: Store, question: Question, actor: str) -> int:
    """Record a look, unless this question was asked before, and return its number. Others may look at the same time."""
    while True:
        look = Look(
            number=number(store, question),
            question=question,
            actor=actor,
            time=datetime.now(UTC).isoformat(),
            code_version=code_version(),
        )
        name = key(question.model, look.number)
        if store.put_if_absent(name, to_bytes(look)):
            return look.number
        if Look.model_validate_json(store.read(name)).question == question:
            return look.number
