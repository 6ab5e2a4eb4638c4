"""Hold the settings of the game: `respect play` has options for some, and secrets come from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.game.domain.table import Clocks
from respect_core.settings import named_tokens, operator_token, settings


@dataclass(frozen=True)
class Limits:
    """Limits against floods. A pair is a rate per second, and how many may be saved up."""

    messages: tuple[float, float] = (10.0, 30.0)  # from a player's socket
    requests: tuple[float, float] = (20.0, 100.0)  # from an address, including those for a socket
    arrivals: tuple[float, float] = (0.5, 60.0)  # of new players at an address, which a lab or a household shares
    refusals: int = 20  # in a row, until the socket is closed
    addresses: int = 50_000  # remembered at once for the rates
    newcomers: int = 10_000  # remembered players who have done nothing yet
    tables: int = 2_000  # running games
    practices: int = 500  # running practice games, which take no table of the others


@dataclass(frozen=True)
class Settings:
    """Settings of the game. Times in seconds. The operator's and the annotators' pages need tokens to be open."""

    clocks: Clocks = field(default_factory=Clocks)
    limits: Limits = field(default_factory=Limits)
    lobby: float = 120.0  # until a player is released, outside a study, which sets its own
    patience: float = 45.0  # until a game whose policy does not answer is stopped
    signed_in: float = 24 * 3600.0  # until operators and annotators must give their token again
    linger: float = 600.0  # for which a game that is over can still be seen
    tick: float = 0.25  # between two checks of the clocks
    secure: bool = False  # whether the cookie travels over TLS only
    origins: tuple[str, ...] = ()  # allowed besides the page's own, e.g. 'https://play.example.org'
    round: int | None = None  # of games outside a study; None: from the registry
    link_key: str | None = field(default=None, repr=False)  # checks the links of a study's participants
    operator_token: str | None = field(default=None, repr=False)
    annotator_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # annotator by token


def tokens_from_environment() -> tuple[str | None, dict[str, str]]:
    """Read RESPECT_OPERATOR_TOKEN, and annotators by token from RESPECT_ANNOTATOR_TOKENS ('ann:token,bob:token').

    Raises:
        SettingsError: a token is shorter than 16 characters, or two annotators share one.
    """
    return operator_token(), named_tokens("RESPECT_ANNOTATOR_TOKENS", settings().annotator_tokens)
