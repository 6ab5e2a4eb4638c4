"""Find the round of games outside a study: the one after the newest that a policy learned from; 0 before any."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from deployments.serving.base import NotReadyError
from respect_core.variants import SYSTEMS, Variant
from tasks.round.next_round import round_of_play
from tasks.support.retries import is_transient
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)
_VALID_SECONDS = 30.0
"""Seconds for which an answer of the registry holds."""
_RETRY_SECONDS = 3.0
"""The same for no answer, while no round is known: nobody waits for the same timeout twice."""


@dataclass(frozen=True)
class _Answer:
    at: float
    round: int | None  # None: the registry has never answered


class Rounds:
    """Rounds by policy, from the registry. While it is unreachable, its last answer holds.

    Args:
        fixed: the round, if the operator sets it.
    """

    def __init__(self, workspace: Workspace, fixed: int | None) -> None:
        self._workspace, self._fixed = workspace, fixed
        self._answers: dict[str, _Answer] = {}  # by policy
        self._unreachable = False
        self._asking = asyncio.Lock()  # a registry that hangs must hold only one thread

    async def next(self, policy: str) -> int:
        """Return the round of a policy's games.

        Raises:
            NotReadyError: the registry is unreachable, and never answered before.
        """
        if self._fixed is not None:
            return self._fixed
        last = self._answers.get(policy)
        if self._unreachable and self._asking.locked() and last is not None and last.round is not None:
            return last.round  # one caller asks, the others continue
        async with self._asking:
            last = self._answers.get(policy)
            if last is None or time.monotonic() - last.at > (_RETRY_SECONDS if last.round is None else _VALID_SECONDS):
                newest = await self._ask(policy)
                number = last.round if newest is None and last is not None else newest
                last = self._answers[policy] = _Answer(time.monotonic(), number)
        if last.round is None:
            raise NotReadyError("the registry of policies does not answer; no game can begin at the moment")
        return last.round

    async def _ask(self, policy: str) -> int | None:
        """Ask the registry; None while it is unreachable."""
        try:
            newest = await asyncio.to_thread(self._newest, policy)
        except Exception as error:
            if not isinstance(error, MlflowException) and not is_transient(error):
                raise
            if not self._unreachable:  # its message may hold an address with a password
                log.warning(
                    "the registry is unreachable (%s); games continue in the rounds known", type(error).__name__
                )
            self._unreachable = True
            return None
        if self._unreachable:
            log.info("the registry is reachable again")
        self._unreachable = False
        return newest

    def _newest(self, policy: str) -> int:
        return round_of_play(self._workspace, [policy] if policy in set(Variant) else list(SYSTEMS))
