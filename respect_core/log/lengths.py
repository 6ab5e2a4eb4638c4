"""How long what users write may be: characters of an utterance, and tokens of an utterance and of a game.

Characters alone bound nothing that costs: 500 of them became 7,558 tokens (docs/failures.md). Both are counted in
the normal form (`respect_core.utterances`), tokens as the base's own tokenizer makes them. This is the one declaration
of the limits; every door of the project asks here.
"""

from __future__ import annotations

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

LONGEST_UTTERANCE = 500  # characters
_REMEMBERED = 100_000  # utterances


@dataclass(frozen=True)
class Budget:
    """Most tokens: of an utterance, and of a game with its images and all that stands around what is said.

    In the study's games (Idefics2-8B, round 5) the longest of 1,309 utterances has 77 tokens of the tiny model's
    tokenizer, and the longest of 200 games 493.
    """

    utterance: int = 128
    game: int = 2048

    def within(self, positions: int | None) -> Budget:
        """The same for a base that takes so many positions, where that is less."""
        game = min(self.game, positions or self.game)
        return Budget(min(self.utterance, max(1, game // 16)), game)


@dataclass(frozen=True)
class Excess:
    """What is too long: the turn, from 0, and a reason that repeats nothing of what was written."""

    turn: int
    reason: str


def spoken(utterance: str, field: str, remedy: str) -> str:
    """Return an utterance in normal form. Raises RecordError for more than LONGEST_UTTERANCE characters then."""
    if len(utterance) <= 10 * LONGEST_UTTERANCE:  # normalising takes time
        said = normalised(utterance)
        if len(said) <= LONGEST_UTTERANCE:
            return said
    raise RecordError(field, f"an utterance of more than {LONGEST_UTTERANCE} characters in normal form", remedy)


class Ruler:
    """Measures games in the tokens of one base.

    Args:
        processor: the base's.
        scenario: says what stands around an utterance.
        budget: cut to the positions that the base takes (`base.load_base` tells its tokenizer how many).
    """

    def __init__(self, processor: Any, scenario: Scenario, budget: Budget | None = None) -> None:
        self._chat: Chat = chat(processor)
        self._scenario = scenario
        self.budget = (budget or Budget()).within(self._chat.positions)
        self._known: dict[str, int] = {}
        self._heads: dict[int, int] = {}
        longest = scenario.longest_turn()
        # What stands around an utterance at most; a token more at each end, for what grows together there.
        self._frame = self._of((longest, longest)) - self._of((longest,)) + 2

    def excess(self, utterances: Sequence[str], images: int) -> Excess | None:
        """Return what is too long in a game: its first turn beyond a limit; None where there is none.

        Tokens around the utterances are counted as those of the longest action.
        """
        if images not in self._heads:
            self._heads[images] = self._of((), images)
        total = self._heads[images]
        for turn, text in enumerate(utterances):
            if (characters := len(normalised(text))) > LONGEST_UTTERANCE:
                return Excess(turn, f"has {characters} characters, of which {LONGEST_UTTERANCE} are allowed")
            tokens = self.tokens(text)
            if tokens > self.budget.utterance:
                return Excess(turn, f"has {tokens} tokens, of which {self.budget.utterance} are allowed")
            total += tokens + self._frame
            if total > self.budget.game:
                return Excess(turn, f"brings the game to {total} tokens, of which {self.budget.game} are allowed")
        return None

    def tokens(self, text: str) -> int:
        """Tokens of an utterance."""
        if text not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[text] = self._chat.count(text)
        return self._known[text]

    def _of(self, turns: tuple[Turn, ...], images: int = 0) -> int:
        game = Interaction("", tuple(map(str, range(images))), turns)
        return len(self._chat.tokens(self._chat.pieces(self._scenario.messages(game)), generate=False)[0])


# --- tables -----------------------------------------------------------------------------------------------------

# Tokens around an utterance, of an image with its letter, and of everything else, generously: what is surely within a
# budget by these needs no tokenizer.
_AROUND, _IMAGE, _REST = 48, 72, 64
COLUMNS = ["interaction_id", "turn", "context", "utterance"]
"""Of a turns table, which `too_long` reads."""


def too_long(
    batches: Callable[[], Iterable[pa.RecordBatch]], ruler: Callable[[], Ruler]
) -> Iterator[tuple[str, Excess]]:
    """Yield the games of a turns table that are too long for a base, with what is too long in each.

    A game of short ASCII utterances is known to fit without its tokens: a token has at least one character.

    Args:
        batches: the table, in COLUMNS; read again where a game may be too long.
        ruler: made only then.
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
    """Ids of the games that may be beyond the budget."""
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
