"""Identify players by their cookies, and record how far they are. Cookies and outer ids are stored only as hashes.

A player who comes with a participant's id is the same player on every device; without one, the cookie is the player.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.game.domain.consent import CONSENT
from deployments.game.domain.events import Event
from respect_core.log.pseudonyms import key_fingerprint, pseudonym
from respect_core.log.user_key import KeyChangedError


@dataclass
class Player:
    """`key` names the player in the journal, `user` in the log of interactions."""

    key: str
    user: str
    study: str | None
    has_participant_id: bool = False  # came with an id, which became a pseudonym
    tokens: set[str] = field(default_factory=set)  # sha256 of cookies
    stored_tokens: set[str] = field(default_factory=set)
    consent: str | None = None  # version of the text that the player agreed to last
    quiz_passed: bool = False
    practised: bool = False
    games_begun: int = 0  # games, without those that the server stopped
    games_done: int = 0  # of these, games that are over
    seen_contexts: set[str] = field(default_factory=set)  # contexts of the study
    table: str | None = None  # of the game that runs, or that was the last
    address_prefix: str | None = None  # of the last request

    @property
    def signed_in(self) -> bool:
        """Whether it is known who they are: they came to a study with an id, and are not just a cookie."""
        return self.has_participant_id and self.study is not None

    @property
    def consented(self) -> bool:
        """Whether the player agreed to the text as it is now."""
        return self.consent == CONSENT


class Players:
    """Players by cookie. Those who have done nothing yet are not stored, and the oldest of them are forgotten first.

    Args:
        newcomers: how many players who have done nothing yet are remembered.
        is_here: tells who must not be forgotten, e.g. because they wait for a partner.
    """

    def __init__(self, newcomers: int, is_here: Callable[[Player], bool] = lambda _: False) -> None:
        self._most_newcomers, self._is_here = newcomers, is_here
        self._by_key: dict[str, Player] = {}
        self._by_token: dict[str, Player] = {}
        self._newcomers: OrderedDict[str, Player] = OrderedDict()  # by key

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, cookie: str | None) -> Player | None:
        """Return the player with this cookie; None if there is none."""
        return self._by_token.get(_hash(cookie)) if cookie else None

    def returning(self, cookie: str | None, participant: str | None, study: str | None) -> Player | None:
        """Return the cookie's player if they are who arrives; None if another player does."""
        player = self.of(cookie)
        if player is None:
            return None
        if participant is None:
            return player if study in (None, player.study) else None
        return player if _key(pseudonym(participant), study) == player.key else None

    def arrive(self, cookie: str | None, participant: str | None, study: str | None) -> tuple[Player, str | None]:
        """Return the player who arrives, and the cookie to set if they need a new one."""
        if (player := self.returning(cookie, participant, study)) is not None:
            return player, None
        new_cookie = secrets.token_urlsafe(32)
        user = pseudonym(participant if participant else new_cookie)
        key = _key(user, study)
        player = self._by_key.get(key) or Player(key, user, study)
        player.has_participant_id = player.has_participant_id or bool(participant)
        self._add(player, _hash(new_cookie))
        return player, new_cookie

    def events(self, player: Player) -> list[Event]:
        """Return the events that tell who a player is, as far as the journal lacks them; it needs them first."""
        identity = {"kind": "player", "player": player.key, "user": player.user, "study": player.study}
        if player.has_participant_id:
            identity["key"] = key_fingerprint()
        return [identity | {"token": token} for token in sorted(player.tokens - player.stored_tokens)]

    def apply(self, event: Event) -> None:
        """Apply an event of the journal. Raises KeyChangedError if ids became pseudonyms under another key."""
        if event.get("key", key_fingerprint()) != key_fingerprint():
            raise KeyChangedError("the journal")
        player = self._by_key.get(event["player"])
        if event["kind"] == "player":
            player = player or Player(event["player"], event["user"], event["study"])
            player.has_participant_id = player.has_participant_id or "key" in event
            self._add(player, event["token"])
            self._newcomers.pop(player.key, None)
            player.stored_tokens.add(event["token"])
        elif player is not None and event["kind"] == "consented":
            player.consent = event.get("text")  # none in a journal of an earlier release
        elif player is not None:
            setattr(player, event["kind"], True)  # quiz_passed, practised

    def by_key(self, key: str) -> Player | None:
        return self._by_key.get(key)

    def _add(self, player: Player, token: str) -> None:
        if player.key not in self._by_key:
            self._by_key[player.key] = player
            self._newcomers[player.key] = player
        player.tokens.add(token)
        self._by_token[token] = player
        for _ in range(len(self._newcomers) - self._most_newcomers):
            absent = (other for other in self._newcomers.values() if other is not player and not self._is_here(other))
            if (forgotten := next(absent, None)) is None:
                return
            del self._newcomers[forgotten.key], self._by_key[forgotten.key]
            for forgotten_token in forgotten.tokens:
                del self._by_token[forgotten_token]


def _key(user: str, study: str | None) -> str:
    return f"{study or ''}/{user}"


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
