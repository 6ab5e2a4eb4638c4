"""How the game is run; `respect play` fills it from its options, secrets come from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.game.domain.table import Clocks
from respect_core.settings import settings


@dataclass(frozen=True)
class Limits:
    """Limits on floods: tokens per second, and how many may be saved up."""

    messages: tuple[float, float] = (10.0, 30.0)  # of a player's socket
    requests: tuple[float, float] = (20.0, 100.0)  # of an address, sockets that open included
    arrivals: tuple[float, float] = (0.5, 60.0)  # of an address; a lab or a household shares one
    refusals: int = 20  # of a socket in a row, until it is closed
    addresses: int = 50_000  # whose tokens are remembered
    newcomers: int = 10_000  # players who have done nothing yet, that are remembered
    tables: int = 2_000  # games at once
    practices: int = 500  # games of practice at once, which take no place of the others


@dataclass(frozen=True)
class Settings:
    """Times in seconds. The tokens open the operator's and the annotators' pages; without one, a page is closed."""

    clocks: Clocks = field(default_factory=Clocks)
    limits: Limits = field(default_factory=Limits)
    lobby: float = 120.0  # outside a study, which says it itself
    patience: float = 45.0  # with a policy that does not answer, until the game is stopped
    signed_in: float = 24 * 3600.0  # operators and annotators, until they give their token again
    linger: float = 600.0  # that a game can still be looked at once it is over
    tick: float = 0.25  # between looks at the clocks
    secure: bool = False  # behind TLS: the cookie is sent over TLS only
    origins: tuple[str, ...] = ()  # allowed besides the page's own, e.g. 'https://play.example.org'
    round: int | None = None  # of games outside a study; None: the one that the registry says
    operator_token: str | None = field(default=None, repr=False)
    annotator_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # annotator by token


def tokens_from_environment() -> tuple[str | None, dict[str, str]]:
    """RESPECT_OPERATOR_TOKEN, and annotators by token from RESPECT_ANNOTATOR_TOKENS ('ann:token,bob:token').

    Raises:
        ValueError: a token is shorter than 16 characters, or two annotators share one.
    """
    operator = settings().operator_token.get_secret_value() or None
    annotators: dict[str, str] = {}
    for part in filter(None, settings().annotator_tokens.get_secret_value().split(",")):
        name, _, token = part.strip().partition(":")
        if not name or token in annotators:
            raise ValueError("RESPECT_ANNOTATOR_TOKENS: write 'name:token,name:token', a token of its own for each")
        annotators[token] = name
    for token in (*annotators, *filter(None, [operator])):
        if len(token) < 16:
            raise ValueError(
                "RESPECT_OPERATOR_TOKEN and RESPECT_ANNOTATOR_TOKENS need 16 characters or more, e.g. of "
                "`openssl rand -hex 16`"
            )
    return operator, annotators
