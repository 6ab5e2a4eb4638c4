"""Games to draw turn by turn, as in figures 17 to 23: chosen by what happens in them, the same ones every time.

Black borders are targets, yellow dots what the listener clicked, green and red borders right and wrong selections.
For measuring only: targets are read.
"""

from __future__ import annotations

import io
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from respect_core.measuring.evidence import ORDER
from respect_core.measuring.language import RESET, TRY_AGAIN
from respect_core.scenarios.multiref import actions
from respect_core.store.base import Store
from respect_core.store.images import known_images, load_images
from respect_core.store.manifests import Partition, partitions
from respect_core.store.tables import iter_batches, read_table
from respect_core.variants import CONTROL, HH, SEED

_PIXELS = 72  # of a drawing's side
_FEW_TURNS, _MANY_TURNS = 4, 9  # games beyond these say little, or too much


@dataclass(frozen=True)
class Tile:
    """One image of the context after a turn."""

    letter: str
    image: str
    target: bool
    selected: bool
    clicked: bool

    @property
    def state(self) -> str:
        """right | wrong where it is selected; target where it should be; else empty."""
        if self.selected:
            return "right" if self.target else "wrong"
        return "target" if self.target else ""


@dataclass(frozen=True)
class Step:
    """One turn: what was said, what was done, and how things stood then."""

    utterance: str
    action: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class CaseStudy:
    """One game, and why it is shown."""

    heading: str
    policy: str
    round: int
    success: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Game:
    context: tuple[str, ...]
    targets: frozenset[str]
    success: bool
    turns: tuple[tuple[str, str], ...]  # utterance, action

    @property
    def key(self) -> tuple[frozenset[str], frozenset[str]]:
        """What a game is about, in whatever order its images stand."""
        return frozenset(self.context), self.targets

    def says(self, phrases: Iterable[str]) -> bool:
        return any(phrase in utterance.lower() for utterance, _ in self.turns for phrase in phrases)

    def corrects(self) -> bool:
        return any(actions.parse(action).deselect for _, action in self.turns)

    def several_at_once(self) -> bool:
        return len(actions.parse(self.turns[0][1]).select) > 1


_KINDS: Sequence[tuple[str, Callable[[_Game], bool]]] = (
    (
        "The speaker asks to try again, and the game is won (as in figure 17)",
        lambda game: game.success and game.says(TRY_AGAIN),
    ),
    (
        "The speaker resets, an expression of frustration (as in figure 18)",
        lambda game: game.says(RESET),
    ),
    (
        "Mistakes are corrected, and the game is won (as in figure 19)",
        lambda game: game.success and game.corrects(),
    ),
    (
        "Several targets in the first turn (as in figure 20)",
        lambda game: game.success and game.several_at_once(),
    ),
)


def choose(store: Store, up_to: int | None = None) -> list[CaseStudy]:
    """One game of each kind that there is, then one context as several policies played it; none without targets.

    Games are of the first policy in the paper's order in the last round, and of the seed policy in round 0.
    """
    found = [each for each in partitions(store, "outcomes") if up_to is None or each.round <= up_to]
    if not found:
        return []
    last = max(each.round for each in found)
    in_last = {each.variant: each for each in found if each.round == last}
    named = [policy for policy in ORDER if policy in in_last] + sorted(set(in_last) - set(ORDER))
    shown = {policy: _games(store, in_last[policy]) for policy in named if policy in (named[0], CONTROL, HH)}
    pools = [(named[0], last, shown[named[0]])]
    if last > 0 and Partition(0, SEED) in found:
        pools.append((SEED, 0, _games(store, Partition(0, SEED))))
    chosen: list[CaseStudy] = []
    taken: set[int] = set()
    for heading, wanted in _KINDS:
        candidates = (
            (policy, number, game)
            for policy, number, games in pools
            for game in games
            if id(game) not in taken and _FEW_TURNS <= len(game.turns) <= _MANY_TURNS and wanted(game)
        )
        if (first := next(candidates, None)) is not None:
            taken.add(id(first[2]))
            chosen.append(_drawn(heading, *first))
    return chosen + _side_by_side(shown, last)


def _side_by_side(games: Mapping[str, Sequence[_Game]], last: int) -> list[CaseStudy]:
    """A context that CONTROL lost and the policy won, and people too if they played it (figures 21 to 23)."""
    policy = next(iter(games))
    if CONTROL not in games or policy == CONTROL:
        return []
    by_key = {name: {game.key: game for game in played} for name, played in games.items()}
    both = [key for key, game in by_key[policy].items() if game.success and key in by_key[CONTROL]]
    both = [key for key in both if not by_key[CONTROL][key].success]
    both.sort(key=lambda key: key not in by_key.get(HH, {}))
    if not both:
        return []
    return [
        _drawn(f"One context, {title} (as in figure {figure})", name, last, game)
        for name, title, figure in (
            (CONTROL, "the seed policy", 21),
            (policy, f"the policy of round {last}", 22),
            (HH, "a person", 23),
        )
        if (game := by_key.get(name, {}).get(both[0])) is not None
    ]


def _games(store: Store, partition: Partition) -> list[_Game]:
    """Games with targets, in order of id."""
    where = [partition.round], [partition.variant]
    outcomes = read_table(store, "outcomes", *where, ["interaction_id", "targets", "success"]).to_pylist()
    turns: dict[str, list[tuple[int, str, str]]] = {}
    contexts: dict[str, tuple[str, ...]] = {}
    for batch in iter_batches(store, "turns", *where, ["interaction_id", "turn", "context", "utterance", "action"]):
        for row in batch.to_pylist():
            turns.setdefault(row["interaction_id"], []).append((row["turn"], row["utterance"], row["action"]))
            if row["interaction_id"] not in contexts:
                contexts[row["interaction_id"]] = tuple(map(sys.intern, row["context"]))
    return [
        _Game(
            contexts[each],
            frozenset(row["targets"]),
            row["success"],
            tuple((said, done) for _, said, done in sorted(turns[each])),
        )
        for row in sorted(outcomes, key=lambda row: str(row["interaction_id"]))
        if row["targets"] is not None and (each := row["interaction_id"]) in turns
    ]


def _drawn(heading: str, policy: str, round: int, game: _Game) -> CaseStudy:
    steps, state = [], ""
    for utterance, action in game.turns:
        parsed = actions.parse(action)
        state = actions.apply(parsed, state)
        tiles = tuple(
            Tile(
                letter,
                image,
                image in game.targets,
                letter in state,
                letter in parsed.select + parsed.deselect,
            )
            for letter, image in zip(actions.LETTERS, game.context, strict=False)
        )
        steps.append(Step(utterance, action, tiles))
    return CaseStudy(heading, policy, round, game.success, tuple(steps))


def drawings(store: Store, cases: Iterable[CaseStudy]) -> dict[str, str]:
    """Small PNGs as data URIs, by image id; an image that the store does not have is absent."""
    wanted = {tile.image for case in cases for step in case.steps[:1] for tile in step.tiles}
    found = load_images(store, sorted(wanted & known_images(store)))
    return {image: _data_uri(picture) for image, picture in found.items()}


def _data_uri(picture: Image.Image) -> str:
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture.convert("RGBA"))
    small = flat.convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.LANCZOS).quantize(8)
    written = io.BytesIO()
    small.save(written, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"
