"""Play one game at its table: the rules of `scenarios.multiref.game`, the clocks of appendix A.1, and who sits where.

Pure: time is passed in, nothing waits. A move (`say`, `act`, `leave`, `late`) gives an event or a refusal; once the
event is in the journal it is applied. The same events give the same table, after a restart too.

Times `now` are seconds of any clock that only goes forward.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.game.domain import protocol
from deployments.game.domain.events import Event
from deployments.game.domain.protocol import Role
from respect_core.errors import ExpectedError
from respect_core.log.lengths import LONGEST_UTTERANCE
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import LETTERS, Action, ActionError
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.game import Game
from respect_core.utterances import normalised

Reason = Literal["won", "out_of_turns", "idle", "left", "stopped"]
OTHER: Mapping[Role, Role] = {"speaker": "listener", "listener": "speaker"}
SHORTER = "shorter, please"


class MoveRefusedError(ExpectedError, ValueError):
    """A refused move. The message is for the player, and repeats nothing that they wrote."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Clocks:
    """Seconds for a move; `grace` allows for the network, and the player's clock does not show it."""

    writing: float = 25.0
    acting: float = 45.0
    grace: float = 2.0

    def faster(self, factor: float) -> Clocks:
        """Speed up all clocks by this factor, for tests."""
        return Clocks(self.writing / factor, self.acting / factor, self.grace / factor)


@dataclass(frozen=True)
class Ending:
    """The end of a game: the reason, and the role that caused it."""

    reason: Reason
    by: Role | None = None


@dataclass
class Table:
    """One game.

    Args:
        seats: players by role; no listener where a policy listens.
        policy: the variant that was asked for, or 'hh'.
        consent: version of the text that the speaker agreed to.
        seq: grows with every change.
        address_prefix, signed_in: of the speaker; None in journals of earlier releases.
        since: when the mover's clock began.
        acted_by: version and adapter hash that acted, and with which p, by turn.
        seconds: from utterance to action, by turn.
    """

    id: str
    context: GameContext
    seats: Mapping[Role, str]
    policy: str
    round: int
    started_at: str
    study: str | None = None
    consent: str | None = None
    address_prefix: str | None = None
    signed_in: bool | None = None
    practice: bool = False
    clocks: Clocks = field(default_factory=Clocks)
    game: Game = field(init=False)
    since: float = 0.0
    seq: int = 0
    ending: Ending | None = None
    acted_by: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.game = Game(self.context)

    @property
    def awaited(self) -> Role | None:
        """The role that is to move; None once the game is over."""
        if self.ending is not None or self.game.over:
            return None
        return "listener" if self.game.awaits_action else "speaker"

    @property
    def turn(self) -> int:
        """Number of the current turn, from 0; of the last one at the end."""
        turns = len(self.game.turns)
        done = turns - 1 if self.game.awaits_action or self.awaited is None else turns
        return max(0, done)

    def role(self, player: str) -> Role:
        """Return the player's role. Raises MoveRefusedError for somebody who is not at this table."""
        for role, seated in self.seats.items():
            if seated == player:
                return role
        raise MoveRefusedError("game", "you do not play in this game")

    # --- moves: each gives the event that the journal takes; None if it was made before ---------------------------

    def say(self, player: str, turn: int, text: str, *, fits: bool = True) -> Event | None:
        """Accept a speaker's utterance. Raises MoveRefusedError.

        Args:
            fits: whether a policy takes this many tokens.
        """
        if self.role(player) != "speaker":
            raise MoveRefusedError("type", "the listener does not write")
        utterance = clean(text)
        if turn < len(self.game.turns):
            if self.game.turns[turn].utterance != utterance:
                raise MoveRefusedError("text", "something else was said in this turn")
            return None
        self._expect("speaker", turn)
        if not utterance:
            raise MoveRefusedError("text", "write a few words")
        if not fits or len(utterance) > LONGEST_UTTERANCE:
            raise MoveRefusedError("text", SHORTER)
        return self._event("said", turn=turn, text=utterance)

    def act(self, player: str, turn: int, select: str, deselect: str, now: float) -> Event | None:
        """Accept a person's action. Raises MoveRefusedError."""
        if self.role(player) != "listener":
            raise MoveRefusedError("type", "the speaker does not select")
        if len(set(select + deselect)) != len(select + deselect):
            raise MoveRefusedError("select", "name each image once")
        action = str(Action(deselect="".join(sorted(deselect)), select="".join(sorted(select))))
        if turn < len(self.game.turns) and self.game.turns[turn].action is not None:
            if self.game.turns[turn].action != action:
                raise MoveRefusedError("select", "something else was done in this turn")
            return None
        self._expect("listener", turn)
        try:
            actions.check_legal(actions.parse(action), self.game.state, len(self.context.images))
        except ActionError:
            raise MoveRefusedError("select", "select what is not selected, and deselect what is") from None
        return self._event("acted", turn=turn, action=action, seconds=round(now - self.since, 3))

    def policy_action(self, reply: Any, now: float) -> Event:
        """Return the event of a policy's action, a `deployments.game.engine.listener.Reply`."""
        return self._event(
            "acted",
            turn=self.turn,
            action=reply.action,
            p=reply.probability,
            version=reply.version,
            hash=reply.adapter_hash,
            seconds=round(now - self.since, 3),
        )

    def leave(self, player: str) -> Event | None:
        """End the game for a player. Raises MoveRefusedError."""
        role = self.role(player)
        return None if self.awaited is None else self.end("left", role)

    def late(self, now: float) -> Event | None:
        """End the game if the clock of the player to move has run out: they have idled (appendix A.3)."""
        left = self.seconds_left(now)
        if left is None or left > -self.clocks.grace:
            return None
        return self.end("idle", self.awaited)

    def end(self, reason: Reason, by: Role | None = None) -> Event:
        return self._event("ended", reason=reason, by=by)

    def rule_ending(self) -> Event | None:
        """Return the ending by the rules; None if the game continues."""
        if self.ending is not None or not self.game.over:
            return None
        return self.end("won" if self.game.success else "out_of_turns")

    # --- events --------------------------------------------------------------------------------------------------

    def apply(self, event: Event, now: float) -> None:
        """Apply an event of the journal. Raises RuleError or ActionError if it cannot have happened at this table."""
        if event["kind"] == "said":
            self.game.say(event["text"])
        elif event["kind"] == "acted":
            self.game.act(event["action"], event.get("p"))
            self.seconds.append(event["seconds"])
            if "hash" in event:
                self.acted_by.append((event["version"], event["hash"]))
        elif event["kind"] == "ended":
            self.ending = Ending(event["reason"], event["by"])
        self.since = now
        self.seq += 1

    # --- what a seat sees ------------------------------------------------------------------------------------------

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds left on the mover's clock; None if no clock runs, as while a policy thinks."""
        role = self.awaited
        if role is None or role not in self.seats:
            return None
        return (self.clocks.writing if role == "speaker" else self.clocks.acting) - (now - self.since)

    def view(self, player: str, now: float, partner_here: bool) -> protocol.State:
        """Return what a seat sees; a listener's view contains nothing about the targets."""
        role, awaited = self.role(player), self.awaited
        left = self.seconds_left(now)
        return protocol.State(
            game=self.id,
            seq=self.seq,
            role=role,
            partner="person" if OTHER[role] in self.seats else "policy",
            practice=self.practice,
            phase="over" if awaited is None else "writing" if awaited == "speaker" else "acting",
            turn=self.turn,
            turns_left=0 if awaited is None else protocol.LISTENER_TURNS - self.turn,
            seconds_left=None if left is None else round(max(0.0, left), 2),
            images=self._speaker_images() if role == "speaker" else self._listener_images(),
            turns=[self._seen_turn(number) for number in range(len(self.game.turns))],
            partner_here=partner_here,
            over=self._over(role),
        )

    def _over(self, role: Role) -> protocol.Over | None:
        if self.ending is None:
            return None
        by = self.ending.by
        return protocol.Over(
            success=self.ending.reason == "won",
            reason=self.ending.reason,
            by=None if by is None else "you" if by == role else "partner",
        )

    def _speaker_images(self) -> list[protocol.SpeakerImage]:
        letters = dict(zip(self.context.images, LETTERS, strict=False))
        return [
            protocol.SpeakerImage(
                image=image,
                selected=(selected := letters[image] in self.game.state),
                target=(target := image in self.context.targets),
                mark=("right" if target else "wrong") if selected else None,
            )
            for image in self.context.speaker_order
        ]

    def _listener_images(self) -> list[protocol.ListenerImage]:
        return [
            protocol.ListenerImage(image=image, letter=letter, selected=letter in self.game.state)
            for image, letter in zip(self.context.images, LETTERS, strict=False)
        ]

    def _seen_turn(self, number: int) -> protocol.SeenTurn:
        turn = self.game.turns[number]
        action = Action() if turn.action is None else actions.parse(turn.action)
        images = dict(zip(LETTERS, self.context.images, strict=False))
        return protocol.SeenTurn(
            utterance=turn.utterance,
            selected=[images[letter] for letter in action.select],
            deselected=[images[letter] for letter in action.deselect],
            acted=turn.action is not None,
        )

    def _expect(self, role: Role, turn: int) -> None:
        if self.awaited is None:
            raise MoveRefusedError("game", "the game is over")
        if self.awaited != role:
            raise MoveRefusedError("turn", "it is your partner's turn")
        if turn != self.turn:
            raise MoveRefusedError("turn", "another turn is under way")

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"kind": kind, "game": self.id, **fields}


def clean(text: str) -> str:
    """Return an utterance in normal form, as one line of visible characters: the partner reads what is stored."""
    assigned = "".join(char for char in text if unicodedata.category(char) != "Cn")
    return " ".join(normalised(assigned).split())
