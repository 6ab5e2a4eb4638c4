"""Record the looks at canaries: what each found and decided, before the ledger's entry that carries it out.

``canaries/<model>/looks/000001.json``, 000002, ...: one immutable object per look at any canary of the model. Of two
who look at the same time, one writes the look; what it decided counts for both. A decision that was not carried out,
because whoever looked was killed, is found again: the look names the canary's entry.

``canaries/<model>/refused/000007.json``: why a server cannot load the candidate of entry 7, or let it act. No server
gives it conversations from then on, and the next look ends the canary.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from respect_core.release import ledger
from respect_core.release.canary import Decision, Figures, Judged
from respect_core.release.ledger import Entry, numbered, to_bytes
from respect_core.store.base import Store
from respect_core.versions import code_version


class CanaryLook(BaseModel):
    """A look at a canary. `figures`: None where the candidate could not act, and nothing was compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    model: str
    entry: int  # with which the canary began
    decision: Decision
    reason: str
    figures: Figures | None
    time: str  # ISO 8601, UTC
    code_version: str

    def __str__(self) -> str:
        when = self.time[:19].replace("T", " ")
        return f"{self.model}: look {self.number} at the canary of entry {self.entry} at {when}: {self.reason}"

    def ending(self, begun: Entry) -> Entry | None:
        """Return the ledger's entry that carries the decision out, the same whoever makes it; None to continue."""
        said = {"actor": "canary", "reason": self.reason, "time": self.time, "code_version": self.code_version}
        found = {"look": self.number, "figures": self.figures.model_dump(mode="json") if self.figures else {}}
        if self.decision is Decision.PROMOTE:
            return ledger.promote_canary(begun, evidence={"canary": found}, **said)
        if self.decision is Decision.END:
            return ledger.end_canary(begun, evidence={"canary": found}, **said)
        return None


class Refusal(BaseModel):
    """Why a server refused a candidate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str


def key(model: str, number: int) -> str:
    """Return the key of a look."""
    return f"canaries/{model}/looks/{number:06}.json"


def read(store: Store, model: str) -> list[CanaryLook]:
    """Return all looks at canaries of a model, oldest first.

    Raises:
        LedgerError: a look is missing or cannot be read.
    """
    return numbered(store, f"canaries/{model}/looks/", CanaryLook, "look")


def record(store: Store, begun: Entry, number: int, judged: Judged | str) -> CanaryLook:
    """Record a look; return it, or the one of this number that somebody else made meanwhile.

    Args:
        number: that follows those of the looks known before this one began.
        judged: what was decided, or why the candidate cannot act.
    """
    if isinstance(judged, str):
        decided, reason, figures = Decision.END, judged, None
    else:
        decided, reason, figures = judged.decision, judged.reason, judged.figures
    look = CanaryLook(
        number=number,
        model=begun.model,
        entry=begun.number,
        decision=decided,
        reason=reason,
        figures=figures,
        time=datetime.now(UTC).isoformat(),
        code_version=code_version(),
    )
    name = key(begun.model, look.number)
    return look if store.put_if_absent(name, to_bytes(look)) else CanaryLook.model_validate_json(store.read(name))


def _refusal(begun: Entry) -> str:
    return f"canaries/{begun.model}/refused/{begun.number:06}.json"


def refuse(store: Store, begun: Entry, reason: str) -> None:
    """Record that a server cannot load the candidate of a canary, or let it act; the first reason stays."""
    store.put_if_absent(_refusal(begun), to_bytes(Refusal(reason=reason)))


def refused(store: Store, begun: Entry) -> str | None:
    """Return why a server refused the candidate of a canary; None if none did."""
    name = _refusal(begun)
    return Refusal.model_validate_json(store.read(name)).reason if store.exists(name) else None
