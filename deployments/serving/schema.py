"""Define requests and replies of the policy server, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from respect_core.interaction import Turn
from respect_core.log.lengths import LONGEST_UTTERANCE
from respect_core.scenario import ScenarioError, scenario
from respect_core.utterances import normalised

LONGEST_ACTION = 4096  # characters
MOST_IMAGES = 64
MOST_TURNS = 256
"""The most turns that any scenario may have; each has limits of its own within this."""


def _normal(text: str) -> str:
    """Return the text in normal form, which may be longer. Raises ValueError."""
    normal = normalised(text)
    if len(normal) > LONGEST_UTTERANCE:
        raise ValueError(f"has {len(normal)} characters in its normal form, at most {LONGEST_UTTERANCE}; shorten it")
    if not normal.strip():
        raise ValueError("has nothing that can be seen; write a few words")
    return normal


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Utterance = Annotated[str, StringConstraints(max_length=LONGEST_UTTERANCE, pattern=r"\S"), AfterValidator(_normal)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PastTurn(_Message):
    """A turn that is over."""

    utterance: Utterance
    action: Annotated[str, StringConstraints(max_length=LONGEST_ACTION)] = Field(description="as it was returned")


class ActRequest(_Message):
    """A game in which the listener is to act."""

    scenario: Annotated[str, StringConstraints(max_length=40)] = "multiref"
    variant: Annotated[str, StringConstraints(min_length=1, max_length=40)] = Field(description="e.g. 'b-fft'")
    game: Name = Field(description="its id, the same in each of its turns; never a user's id, as it is logged")
    context: list[Name] = Field(max_length=MOST_IMAGES, description="image ids in the listener's order")
    turns: list[PastTurn] = Field(default=[], max_length=MOST_TURNS - 1, description="the turns so far")
    utterance: Utterance = Field(description="what the speaker says now")
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        default=None, description="of the draw, together with game and turn; the server's by default"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ActRequest:
        if len(set(self.context)) != len(self.context):
            raise ValueError("context names an image twice")
        self.to_turns()
        return self

    def to_turns(self) -> tuple[Turn, ...]:
        """Return the turns with the state before each; the last has no action yet.

        Raises:
            ScenarioError: an unknown scenario, a context of another one, too many turns, or an illegal action.
        """
        rules = scenario(self.scenario)
        if len(self.turns) >= rules.most_turns:
            raise ScenarioError(f"turns: should have at most {rules.most_turns - 1} items")
        states = rules.states(self.context, [turn.action for turn in self.turns])
        before = [Turn(state, turn.utterance, turn.action) for state, turn in zip(states[:-1], self.turns, strict=True)]
        return (*before, Turn(states[-1], self.utterance))


class ActReply(_Message):
    """The policy's action, and the version that acted."""

    action: str = Field(description="canonical and legal in the state")
    legal: bool = Field(description="false where something else was written and `action` was made of it")
    probability: float = Field(
        description="of the action under the sampling distribution, renormalised over legal actions; at temperature 0, "
        "where nothing is drawn, at temperature 1"
    )
    variant: str
    version: str = Field(description="registered version that acted, e.g. 'respect.b-fft/3'")
    adapter_hash: str = Field(description="sha256 of its adapter's files")
    turn: int = Field(description="number of the turn, from 0")
    seed: int
    latency_ms: float = Field(description="from the request's arrival to the action")


class Fits(_Message):
    """The answer that a policy can act on a request."""

    fits: Literal[True] = True


class VariantState(_Message):
    """The version that new games of a variant get."""

    version: str | None = Field(description="null where nothing is loaded")
    adapter_hash: str | None
    refused: str | None = Field(description="why what is deployed now is not served; the version above continues")
    canary: str | None = Field(default=None, description="the candidate that some new games get; null without one")


class Readiness(_Message):
    """The state of all variants, and how old the server's knowledge of what is deployed is."""

    ready: bool
    following: bool = Field(description="false while registry or store are unreachable: what is loaded continues")
    seconds_since_contact: float | None = Field(description="since registry and store last answered; null before that")
    variants: dict[str, VariantState]
    running_games: dict[str, int] = Field(description="by version")


class Problem(_Message):
    """The reason why there is no action. A field is named as in 'turns[2].action'."""

    field: str = ""
    reason: str
