"""Define the JSON between browser and server: bodies of /api, and messages of the socket.

A listener's messages have no field for a target: `ListenerImage` cannot carry one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from respect_core.log.lengths import LONGEST_UTTERANCE
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.scenarios.multiref.game import MAX_TURNS

LARGEST_MESSAGE = 4096  # bytes, of one message from a client
LARGEST_BODY = 16 * 1024  # bytes, of one request to /api
LISTENER_TURNS = MAX_TURNS // 2

GameId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
TurnNumber = Annotated[int, Field(ge=0, lt=LISTENER_TURNS)]
Letters = Annotated[str, StringConstraints(pattern=rf"^[{LETTERS}]{{0,{len(LETTERS)}}}$")]
Role = Literal["speaker", "listener"]
Mode = Literal["policy", "people", "study"]


class _In(BaseModel):
    """A message from a client: no fields but these, and of these types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- the socket: from the client ------------------------------------------------------------------------------


class Say(_In):
    """The speaker's move. The same turn sent twice is acknowledged again; another text for it is refused."""

    type: Literal["say"]
    game: GameId
    turn: TurnNumber
    text: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_UTTERANCE)]


class Act(_In):
    """A human listener's move, in the listener's letters; both empty is 'nothing'."""

    type: Literal["act"]
    game: GameId
    turn: TurnNumber
    select: Letters = ""
    deselect: Letters = ""


class Leave(_In):
    """The player ends the game."""

    type: Literal["leave"]
    game: GameId


class Wait(_In):
    """The player is still there, in the lobby."""

    type: Literal["wait"]


class Ping(_In):
    """A request for an answer at once, with the same number."""

    type: Literal["ping"]
    at: float


FromClient = Annotated[Say | Act | Leave | Wait | Ping, Field(discriminator="type")]
FROM_CLIENT: TypeAdapter[Say | Act | Leave | Wait | Ping] = TypeAdapter(FromClient)


# --- the socket: to the client --------------------------------------------------------------------------------


class SpeakerImage(_Out):
    """An image as the speaker sees it: framed if it is a target, marked once it is selected."""

    image: str
    letter: None = None
    selected: bool
    target: bool
    mark: Literal["right", "wrong"] | None = Field(description="of a selected one: is it a target?")


class ListenerImage(_Out):
    """An image as the listener sees it."""

    image: str
    letter: str
    selected: bool


class SeenTurn(_Out):
    """A turn that has an utterance. Its images are ids, since letters are the listener's alone."""

    utterance: str
    selected: list[str] = Field(description="by this turn's action; empty while there is none")
    deselected: list[str]
    acted: bool = Field(description="false while the listener is to move")
    acknowledged: Literal[True] = True


class Over(_Out):
    """The end of a game."""

    success: bool
    reason: Literal["won", "out_of_turns", "idle", "left", "stopped"]
    by: Literal["you", "partner"] | None = Field(description="who idled or left")


class State(_Out):
    """All that this seat sees, after every change and at every connection: render it, and keep nothing else."""

    type: Literal["state"] = "state"
    game: str
    seq: int = Field(description="grows with every change of the game")
    role: Role
    partner: Literal["policy", "person"]
    practice: bool
    phase: Literal["writing", "acting", "over"]
    turn: int = Field(description="number of the current turn, from 0")
    turns_left: int = Field(description="turns of a speaker and a listener that may still begin or be under way")
    seconds_left: float | None = Field(description="on the mover's clock; null when none runs")
    images: list[SpeakerImage] | list[ListenerImage] = Field(description="in this seat's order")
    turns: list[SeenTurn]
    partner_here: bool
    over: Over | None


class Acknowledged(_Out):
    """The move is on disk: from here it cannot be lost."""

    type: Literal["acknowledged"] = "acknowledged"
    game: str
    turn: int


class Lobby(_Out):
    """Waiting for another person."""

    type: Literal["lobby"] = "lobby"
    waiting_seconds: float
    times_out_in: float


class Released(_Out):
    """Nobody came in time: the wait is over, and counts for payment."""

    type: Literal["released"] = "released"
    reason: str


class Elsewhere(_Out):
    """Another tab or device has taken the seat; this socket closes."""

    type: Literal["elsewhere"] = "elsewhere"


class Refused(_Out):
    """The refusal of a message. It never repeats what was written."""

    type: Literal["refused"] = "refused"
    field: str
    reason: str


class Pong(_Out):
    type: Literal["pong"] = "pong"
    at: float


# --- /api -----------------------------------------------------------------------------------------------------


class Arrive(_In):
    """A player comes. An outer id becomes a keyed hash at once, and is stored nowhere."""

    participant: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    study: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    until: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(default=None, description="of a signed link")
    signature: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="of a link that `respect link study` made"
    )


class Consent(_In):
    """The player agrees to the text of the page."""

    agrees: Literal[True]
    text: Annotated[str, Field(max_length=64, description="its version")]


class QuizAnswers(_In):
    """Chosen option by question id."""

    answers: Annotated[
        dict[
            Annotated[str, StringConstraints(max_length=64)],
            Annotated[str, StringConstraints(max_length=300)] | int,
        ],
        Field(max_length=50),
    ]


class Practised(_In):
    """The practice round is done."""


class NewGame(_In):
    """A request for a game. `practice` needs mode 'policy': a perfect listener without a model, and no log."""

    mode: Mode
    variant: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")] | None = Field(
        default=None, description="in mode 'policy'; null takes any"
    )
    practice: bool = False


class StudyView(_Out):
    """All that a participant may know of the study, which never includes the policy that they meet."""

    name: str
    open: bool = Field(description="false while the operator has stopped it")
    full: bool = Field(default=False, description="no game is left for this player at the moment")
    lobby_seconds: float


class Me(_Out):
    """The progress of a player: consent, quiz, practice, games."""

    consented: bool
    quiz_passed: bool
    practised: bool
    study: StudyView | None
    game: str | None = Field(description="the running one")
    in_lobby: bool = False
    games_done: int
    games_left: int | None = Field(description="null where there is no cap")
    policies: list[str] = Field(default=[], description="variants to choose from outside a study")


class Arrived(_Out):
    player_state: Me


class QuizQuestion(_Out):
    """A question of the quiz, without the answer."""

    id: str
    text: str
    options: list[str]


class QuizResult(_Out):
    passed: bool
    wrong: list[str] = Field(description="ids of the questions")


class GameStarted(_Out):
    game: str


class InLobby(_Out):
    lobby: Literal[True] = True
