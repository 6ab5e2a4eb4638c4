"""Choose games to draw turn by turn, as in figures 17 to 23: by what happens in them, always the same ones.

Black borders mark targets, yellow dots the listener's clicks, green and red borders right and wrong selections. For
measuring only: targets are read.
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
    """An image of the context after a turn."""

    letter: str
    image: str
    target: bool
    selected: bool
    clicked: bool

    @property
    def state(self) -> str:
        """The image's mark: right or wrong where it is selected, target where it should be, else empty."""
        if self.selected:
            return "right" if self.target else "wrong"
        return "target" if self.target else ""


@dataclass(frozen=True)
class Step:
    """A turn: the utterance, the action, and the state after it."""

    utterance: str
    action: str
    tiles: tuple[Tile, ...]

    @property
    def alt(self) -> str:
        """The state in words."""
        letters_by_mark = {
            "targets": [tile.letter for tile in self.tiles if tile.target],
            "selected": [tile.letter for tile in self.tiles if tile.selected],
            "clicked": [tile.letter for tile in self.tiles if tile.clicked],
        }
        return "; ".join(f"{mark} {' '.join(letters) or 'none'}" for mark, letters in letters_by_mark.items())


@dataclass(frozen=True)
class CaseStudy:
    """A game, and why it is shown."""

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
        """The game's context and targets, whatever order its images are in."""
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
    """Choose one game of each kind, if any, then one context that several policies played; none without targets.

    Games are of the first policy in the paper's order in the last round, and of the seed policy in round 0.
    """
    played = [each for each in partitions(store, "outcomes") if up_to is None or each.round <= up_to]
    if not played:
        return []
    last = max(each.round for each in played)
    in_last = {each.variant: each for each in played if each.round == last}
    policies = [policy for policy in ORDER if policy in in_last] + sorted(set(in_last) - set(ORDER))
    games_of = {policy: _games(store, in_last[policy]) for policy in policies if policy in (policies[0], CONTROL, HH)}
    pools = [(policies[0], last, games_of[policies[0]])]
    if last > 0 and Partition(0, SEED) in played:
        pools.append((SEED, 0, _games(store, Partition(0, SEED))))
    chosen: list[CaseStudy] = []
    used: set[int] = set()
    for heading, fits in _KINDS:
        candidates = (
            (policy, number, game)
            for policy, number, games in pools
            for game in games
            if id(game) not in used and _FEW_TURNS <= len(game.turns) <= _MANY_TURNS and fits(game)
        )
        if (first := next(candidates, None)) is not None:
            used.add(id(first[2]))
            chosen.append(_case_study(heading, *first))
    return chosen + _side_by_side(games_of, last)


def _side_by_side(games: Mapping[str, Sequence[_Game]], last: int) -> list[CaseStudy]:
    """Choose a context that CONTROL lost and the policy won, preferably one that people played (figures 21 to 23)."""
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
        _case_study(f"One context, {title} (as in figure {figure})", name, last, game)
        for name, title, figure in (
            (CONTROL, "the seed policy", 21),
            (policy, f"the policy of round {last}", 22),
            (HH, "a person", 23),
        )
        if (game := by_key.get(name, {}).get(both[0])) is not None
    ]


def _games(store: Store, partition: Partition) -> list[_Game]:
    """Read games with targets, in order of id."""
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
            tuple((utterance, action) for _, utterance, action in sorted(turns[each])),
        )
        for row in sorted(outcomes, key=lambda row: str(row["interaction_id"]))
        if row["targets"] is not None and (each := row["interaction_id"]) in turns
    ]


def _case_study(heading: str, policy: str, round: int, game: _Game) -> CaseStudy:
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
    """Return small PNGs as data URIs, by image id. Images that are not in the store are left out."""
    images = {tile.image for case in cases for step in case.steps[:1] for tile in step.tiles}
    pictures = load_images(store, sorted(images & known_images(store)))
    return {image: _data_uri(picture) for image, picture in pictures.items()}


def _data_uri(picture: Image.Image) -> str:
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture.convert("RGBA"))
    small = flat.convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.LANCZOS).quantize(8)
    png = io.BytesIO()
    small.save(png, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(png.getvalue()).decode()}"
