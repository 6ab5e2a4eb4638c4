from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from respect_core.store import Store


@dataclass(frozen=True)
class UserShares:
    users: int
    turns: int
    largest: float  # share of the user with most turns
    top: tuple[tuple[int, float], ...]  # (k, share of the k users with most turns)
    gini: float
    effective: float  # number of users with equal shares that would be as concentrated


def user_shares(turns: Mapping[str, int], top: tuple[int, ...] = (1, 5, 10)) -> UserShares:
    raise NotImplementedError


def read_user_turns(store: Store, round: int, variant: str) -> dict[str, int]:
    raise NotImplementedError
