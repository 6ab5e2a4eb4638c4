"""Choose games to draw turn by turn, as in figures 17 to 23: by what happens in them, always the same ones.

Black borders mark targets, yellow dots the listener's clicks, green and red borders right and wrong selections. For
measuring only: targets are read.
"""

from __future__ import annotations

import io
from array import array
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from respect_core.measuring.comparison import context_key, hash_of
from respect_core.measuring.evidence import ORDER
from respect_core.measuring.language import RESET, TRY_AGAIN
from respect_core.scenarios.multiref import actions
from respect_core.store.base import Store
from respect_core.store.by_game import games
from respect_core.store.images import known_images, load_images
from respect_core.store.manifests import Partition, partitions
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
    name: str
    context: tuple[str, ...]
    targets: frozenset[str]
    success: bool
    turns: tuple[tuple[str, str], ...]  # utterance, action

    @property
    def key(self) -> int:
        """A hash of the game's context and targets, whatever order its images are in."""
        return hash_of(context_key(set(self.context), self.targets) or "")

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
    pools = [in_last[policies[0]], *({Partition(0, SEED)}.intersection(played) - {in_last[policies[0]]})]
    chosen: list[CaseStudy] = []
    used: set[str] = set()
    for (heading, _), candidates in zip(_KINDS, _candidates(store, pools), strict=True):
        if (first := next((each for each in candidates if each[1].name not in used), None)) is not None:
            place, game = first
            used.add(game.name)
            chosen.append(_case_study(heading, place.variant, place.round, game))
    return chosen + _side_by_side(store, policies[0], in_last)


def _candidates(store: Store, pools: Iterable[Partition]) -> list[list[tuple[Partition, _Game]]]:
    """Return the first games of each kind, one more than other kinds can take away."""
    found: list[list[tuple[Partition, _Game]]] = [[] for _ in _KINDS]
    for place in pools:
        for game in _games(store, place):
            if _FEW_TURNS <= len(game.turns) <= _MANY_TURNS:
                for (_, fits), mine in zip(_KINDS, found, strict=True):
                    if len(mine) < len(_KINDS) and fits(game):
                        mine.append((place, game))
            if all(len(mine) == len(_KINDS) for mine in found):
                return found
    return found


def _side_by_side(store: Store, policy: str, places: Mapping[str, Partition]) -> list[CaseStudy]:
    """Choose a context that CONTROL lost and the policy won, preferably one that people played (figures 21 to 23).

    Memory holds nine bytes of each game.
    """
    if CONTROL not in places or policy == CONTROL:
        return []
    titles = {CONTROL: ("the seed policy", 21), policy: (f"the policy of round {places[policy].round}", 22)}
    titles |= {HH: ("a person", 23)} if HH in places and policy != HH else {}
    keys = {name: _Keys(_games(store, places[name])) for name in titles}
    mine, theirs = keys[policy], keys[CONTROL]
    wins = mine.hashes[mine.success & np.isin(mine.hashes, theirs.hashes[~theirs.success])]
    if not len(wins):
        return []
    people = np.isin(wins, keys[HH].hashes) if HH in keys else np.zeros(len(wins), bool)
    first = int(wins[np.argmax(people)])
    return [
        _case_study(f"One context, {title} (as in figure {figure})", name, places[name].round, game)
        for name, (title, figure) in titles.items()
        for game in deque((each for each in _games(store, places[name]) if each.key == first), maxlen=1)
    ]


class _Keys:
    """The keys of games, in order of the first game of each, and whether the last game of each was won."""

    def __init__(self, games: Iterable[_Game]) -> None:
        hashes, success = array("Q"), array("b")
        for game in games:
            hashes.append(game.key)
            success.append(bool(game.success))
        hash_N = np.frombuffer(hashes, np.uint64)
        found, first = np.unique(hash_N, return_index=True)
        last = len(hash_N) - 1 - np.unique(hash_N[::-1], return_index=True)[1]
        order = np.argsort(first)
        self.hashes, self.success = found[order], np.frombuffer(success, bool)[last[order]]


def _games(store: Store, partition: Partition) -> Iterator[_Game]:
    """Read games with targets, in order of id."""
    columns = {"turns": ["turn", "context", "utterance", "action"], "outcomes": ["targets", "success"]}
    for name, rows in games(store, partition, columns):
        outcome = next(iter(rows["outcomes"]), None)
        if rows["turns"] and outcome is not None and outcome["targets"] is not None:
            yield _Game(
                name,
                tuple(rows["turns"][0]["context"]),
                frozenset(outcome["targets"]),
                outcome["success"],
                tuple((row["utterance"], row["action"]) for row in rows["turns"]),
            )


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
