"""Limit the length of users' text: characters of an utterance, and tokens of an utterance and of a game.

Characters alone do not bound the cost: 500 of them became 7,558 tokens (docs/failures.md). Both are counted in normal
form (`respect_core.utterances`), tokens by the base's own tokenizer. The limits are declared here only; every entrance
to the project checks them here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from respect_core.interaction import Interaction, Turn
from respect_core.log.log import RecordError
from respect_core.model.chat import Chat, chat
from respect_core.scenario import Scenario
from respect_core.utterances import normalised

LONGEST_UTTERANCE = Scenario.longest_utterance  # characters; of scenarios that set no other
_CACHE_SIZE = 100_000  # utterances


@dataclass(frozen=True)
class Budget:
    """The most tokens of an utterance, and of a game with its images and all other text.

    In the study's games (Idefics2-8B, round 5) the longest of 1,309 utterances has 77 tokens of the tiny model's
    tokenizer, and the longest of 200 games 493.
    """

    utterance: int = Scenario.utterance_tokens
    game: int = Scenario.game_tokens

    @classmethod
    def of(cls, scenario: Scenario) -> Budget:
        return cls(scenario.utterance_tokens, scenario.game_tokens)

    def within(self, positions: int | None) -> Budget:
        """Return this budget, reduced to the positions that a base takes."""
        game = min(self.game, positions or self.game)
        return Budget(max(1, self.utterance * game // self.game), game)


@dataclass(frozen=True)
class Excess:
    """The turn that is too long, counted from 0, and a reason that repeats nothing of the user's text."""

    turn: int
    reason: str


def spoken(utterance: str, field: str, remedy: str, longest: int = LONGEST_UTTERANCE) -> str:
    """Return an utterance in normal form. Raises RecordError if that has more than `longest` characters."""
    if len(utterance) <= 10 * longest:  # normalising takes time
        text = normalised(utterance)
        if len(text) <= longest:
            return text
    raise RecordError(field, f"an utterance of more than {longest} characters in normal form", remedy)


class Ruler:
    """A measure of games in the tokens of one base.

    Args:
        processor: the base's.
        scenario: gives the text around an utterance.
        budget: reduced to the positions that the base takes (`base.load_base` sets them in its tokenizer).
    """

    def __init__(self, processor: Any, scenario: Scenario, budget: Budget | None = None) -> None:
        self._chat: Chat = chat(processor)
        self._scenario = scenario
        self.budget = (budget or Budget.of(scenario)).within(self._chat.positions)
        self._counts: dict[str, int] = {}
        self._heads: dict[int, int] = {}
        longest = scenario.longest_turn()
        # Most tokens around an utterance, and one more at each end, where text may be tokenised across the boundary.
        self._frame = self._of((longest, longest)) - self._of((longest,)) + 2

    def excess(self, utterances: Sequence[str], images: int) -> Excess | None:
        """Return the first turn of a game that exceeds a limit; None where there is none.

        Tokens around each utterance count as for the longest action.
        """
        if images not in self._heads:
            self._heads[images] = self._of((), images)
        total = self._heads[images]
        for turn, text in enumerate(utterances):
            longest = self._scenario.longest_utterance
            if (characters := len(normalised(text))) > longest:
                return Excess(turn, f"has {characters} characters, of which {longest} are allowed")
            tokens = self.tokens(text)
            if tokens > self.budget.utterance:
                return Excess(turn, f"has {tokens} tokens, of which {self.budget.utterance} are allowed")
            total += tokens + self._frame
            if total > self.budget.game:
                return Excess(turn, f"brings the game to {total} tokens, of which {self.budget.game} are allowed")
        return None

    def turns_within(self, interaction: Interaction) -> int:
        """Return how many turns of an interaction with its replies fit the budget, counted from the first."""
        counts = range(1, len(interaction.turns) + 1)
        return bisect_right(counts, self.budget.game, key=lambda turns: self._of(interaction.turns[:turns]))

    def tokens(self, text: str) -> int:
        """Count the tokens of an utterance."""
        if text not in self._counts:
            if len(self._counts) >= _CACHE_SIZE:
                self._counts.clear()
            self._counts[text] = self._chat.count(text)
        return self._counts[text]

    def _of(self, turns: tuple[Turn, ...], images: int = 0) -> int:
        messages = self._scenario.messages(Interaction("", tuple(map(str, range(images))), turns))
        return len(self._chat.tokens(self._chat.pieces(messages), generate=False)[0]) if messages else 0


# --- tables -----------------------------------------------------------------------------------------------------

# Upper bounds of the tokens around an utterance, of an image with its letter, and of everything else: games that are
# within a budget by these need no tokenizer.
_AROUND, _IMAGE, _REST = 48, 72, 64
COLUMNS = ["interaction_id", "turn", "context", "utterance"]
"""The columns of a turns table that `too_long` reads."""


def too_long(
    batches: Callable[[], Iterable[pa.RecordBatch]], ruler: Callable[[], Ruler]
) -> Iterator[tuple[str, Excess]]:
    """Yield the games of a turns table that are too long for a base, each with its excess.

    A game of short ASCII utterances is known to fit without its tokens: a token has at least one character.

    Args:
        batches: the table, in COLUMNS; read again where a game may be too long.
        ruler: called only then.
    """
    doubtful = _doubtful(batches(), Budget())
    if not len(doubtful):
        return
    games: dict[str, list[tuple[int, str, int]]] = {}
    for batch in batches():
        rows = batch.filter(pc.is_in(batch.column("interaction_id"), doubtful)).select(COLUMNS).to_pylist()
        for row in rows:
            turn = row["turn"], row["utterance"], len(row["context"])
            games.setdefault(row["interaction_id"], []).append(turn)
    measure = ruler()
    for name, turns in sorted(games.items()):
        utterances = [text for _, text, _ in sorted(turns)]
        if (excess := measure.excess(utterances, turns[0][2])) is not None:
            yield name, excess


def _doubtful(batches: Iterable[pa.RecordBatch], budget: Budget) -> pa.Array:
    """Return the ids of the games that may be beyond the budget."""
    sums = []
    for batch in batches:
        text, images = batch.column("utterance"), pc.list_value_length(batch.column("context"))
        size = pc.binary_length(text)
        plain = pc.and_(pc.equal(size, pc.utf8_length(text)), pc.less_equal(size, budget.utterance))
        most = pc.if_else(plain, size, budget.game)
        columns = {"interaction_id": batch.column("interaction_id"), "most": pc.add(most, _AROUND), "images": images}
        by_game = pa.table(columns).group_by("interaction_id", use_threads=False)
        sums.append(by_game.aggregate([("most", "sum"), ("images", "max")]))
    if not sums:
        return pa.array([], pa.string())
    games = pa.concat_tables(sums).group_by("interaction_id", use_threads=False)
    whole = games.aggregate([("most_sum", "sum"), ("images_max", "max")])
    around = pc.add(pc.multiply(whole["images_max_max"], _IMAGE), _REST)
    beyond = pc.greater(pc.add(whole["most_sum_sum"], around), budget.game)
    return whole["interaction_id"].filter(beyond).combine_chunks()
