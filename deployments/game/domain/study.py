"""Run a study: which policies meet which people on which contexts, how often, and what is paid (section 5, A.3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from deployments.game.domain.assignment import Assignment, Slot
from deployments.game.domain.contexts import ContextRecipe
from deployments.game.domain.table import Reason
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.stats import Estimate, ratio
from respect_core.variants import DEPLOYABLE, HH

FINISHED: tuple[Reason, ...] = ("won", "out_of_turns")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Payment(BaseModel):
    """Amounts of appendix A.3, which does not say how much the bonus is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    game: Annotated[float, Field(ge=0)] = 0.81
    bonus: Annotated[float, Field(ge=0)] = 0.0
    released: Annotated[float, Field(ge=0, description="for a wait in which nobody came")] = 0.81
    currency: str = "USD"


class StudyFile(BaseModel):
    """A study as its operator describes it, in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    round: Annotated[int, Field(ge=0)]
    seed: int = 0
    policies: dict[str, Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="shares: variants, 'control' (the seed policy again) and 'hh' (people with people)"
    )
    contexts: ContextRecipe | Path = Field(description="{games, seed}, or a file beside this one")
    games_per_context: Annotated[int, Field(ge=1)] | None = Field(
        default=1, description="of a policy of share 1 in each context; null for no limit"
    )
    games_per_player: Annotated[int, Field(ge=1)] | None = 10
    lobby_seconds: Annotated[float, Field(gt=0)] = 120.0
    waits_per_player: Annotated[int, Field(ge=1)] | None = Field(
        default=3,
        description="waits without a partner that a player may have, each of which is paid; null for no limit",
    )
    anonymous: bool = Field(default=False, description="whether people may come without a participant's id")
    participants: Literal["signed", "open"] | None = Field(
        default=None,
        description="signed: they come by links of `respect link study`; open: anybody who names an id is let in, for "
        "panels that cannot sign; null: signed if RESPECT_LINK_KEY is set",
    )
    payment: Payment = Payment()

    @model_validator(mode="after")
    def _check_policies(self) -> StudyFile:
        allowed = [*DEPLOYABLE, HH]
        if unknown := sorted(set(self.policies) - set(allowed)):
            raise ValueError(f"policies: {', '.join(unknown)}; there are: {', '.join(allowed)}")
        return self


def load(path: Path) -> StudyFile:
    """Read a study's file. Raises ValueError that names file, field and what is wrong."""
    try:
        study = StudyFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {where or 'the file'}: {first['msg'].removeprefix('Value error, ')}") from None
    if isinstance(study.contexts, Path):
        study = study.model_copy(update={"contexts": path.parent / study.contexts})
    return study


@dataclass(frozen=True)
class Result:
    """The result of a game of a study."""

    game: str
    policy: str
    users: dict[str, str]  # pseudonyms by role
    reason: Reason
    by: str | None


class Study:
    """A study in progress."""

    def __init__(self, file: StudyFile, contexts: Sequence[GameContext]) -> None:
        self.file = file
        self.contexts = {context.id: context for context in contexts}
        self.assignment = Assignment(list(self.contexts), file.policies, file.seed, limit=file.games_per_context)
        self.open = True
        self.running: dict[str, Slot] = {}  # by game
        self.results: list[Result] = []
        self.released: Counter[str] = Counter()  # by pseudonym
        self._success: dict[str, tuple[int, Estimate]] = {}

    def note_start(self, game: str, slot: Slot) -> None:
        """Note the game of a slot, which is counted already."""
        self.running[game] = slot

    def restore(self, game: str, slot: Slot, draws: int) -> None:
        """Count a game that began before a restart."""
        if slot.context in self.contexts and slot.policy in self.file.policies:
            self.assignment.take(slot)
            self.running[game] = slot
            self.assignment.draws = max(self.assignment.draws, draws)

    def record(self, result: Result) -> None:
        """Record a game that is over; one that was broken off is assigned again."""
        slot = self.running.pop(result.game, None)
        if slot is not None and result.reason not in FINISHED:
            self.assignment.release(slot)
        self.results.append(result)

    async def state(self) -> dict[str, Any]:
        """Describe the study to its operator: games by policy (running, done, broken off) and their success."""
        success = {policy: await self._success_of(policy) for policy in self.file.policies}
        running = Counter(slot.policy for slot in self.running.values())
        return {
            "name": self.file.name,
            "round": self.file.round,
            "open": self.open,
            "policies": [
                {
                    "policy": policy,
                    "running": running[policy],
                    "done": len(self._results_of(policy, finished=True)),
                    "broken_off": len(self._results_of(policy, finished=False)),
                    "wanted": self.assignment.quota(policy),
                    "success": None if (estimate := success[policy]) is None else asdict(estimate),
                }
                for policy in self.file.policies
            ],
            "released": self.released.total(),
            "payment": self.file.payment.model_dump(),
        }

    def payments(self) -> list[dict[str, Any]]:
        """Return a row for each person of each game, paid unless they idled or left, and for each unsuccessful wait."""
        pay, rows = self.file.payment, []
        for result in self.results:
            for role, user in result.users.items():
                earned = result.by != role
                rows.append(
                    {
                        "user": user,
                        "game": result.game,
                        "policy": result.policy,
                        "role": role,
                        "ended": result.reason if result.by is None else f"{result.reason} ({result.by})",
                        "pay": pay.game if earned else 0.0,
                        "bonus": pay.bonus if result.reason == "won" else 0.0,
                        "currency": pay.currency,
                    }
                )
        for user, times in self.released.items():
            waited = {"user": user, "game": "", "policy": HH, "role": "", "ended": "released"}
            rows += [waited | {"pay": pay.released, "bonus": 0.0, "currency": pay.currency}] * times
        return rows

    def _results_of(self, policy: str, *, finished: bool) -> list[Result]:
        return [game for game in self.results if game.policy == policy and (game.reason in FINISHED) == finished]

    async def _success_of(self, policy: str) -> Estimate | None:
        """Estimate success, again if games were added; in a thread, as ten thousand resamples would hold up games."""
        won = [game.reason == "won" for game in self._results_of(policy, finished=True)]
        if not won:
            return None
        cached = self._success.get(policy)
        if cached is None or cached[0] != len(won):
            estimate = await asyncio.to_thread(ratio, won, [1] * len(won))
            cached = self._success[policy] = len(won), estimate
        return cached[1]
