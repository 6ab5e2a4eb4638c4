"""Measure MULTIREF, the reference game of the paper: FOR MEASURING ONLY."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from respect_core.measuring.judge import ImageSimilarity, Judge, Words
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.chance import chance
from respect_core.scenarios.multiref.similarity import similarity


class MultiRefJudge(Judge):
    """The judge of MULTIREF. Targets are images, which an action names by their letters.

    Text that is not an action raises ActionError.
    """

    words = Words("game", "speaker", "speaker instructions", "won", "click accuracy", paper=True)

    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        """Return how an action fits the targets: +1 right, 0 one part right and the other not, -1 wrong.

        Selecting is right when only targets are selected, deselecting when no target is deselected. An action that does
        nothing is wrong: every utterance asks for something.
        """
        parsed, target_letters = actions.parse(action), _letters(targets, context)
        parts = []
        if parsed.select:
            parts.append(target_letters.issuperset(parsed.select))
        if parsed.deselect:
            parts.append(target_letters.isdisjoint(parsed.deselect))
        if not any(parts):
            return -1
        return 1 if all(parts) else 0

    def credit(self, action: str, context: Sequence[str], targets: Collection[str]) -> tuple[int, int]:
        """Return the number of an action's accurate clicks, and of all its clicks.

        Appendix B.4: a click is accurate if it selects a target or deselects a non-target.
        """
        parsed, target_letters = actions.parse(action), _letters(targets, context)
        accurate = len(target_letters.intersection(parsed.select)) + len(set(parsed.deselect) - target_letters)
        return accurate, len(parsed.select) + len(parsed.deselect)

    def chance(self, action: str, state: str, context: Sequence[str]) -> dict[str, float]:
        return chance(action, state, len(context))

    def canonical(self, action: str) -> str:
        return actions.canonical(action)

    def intended(self, text: str, state: str, context: Sequence[str]) -> str:
        action = actions.parse(text)
        actions.check_legal(action, state, len(context))
        return str(action)

    def similarity(self, action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float:
        return similarity(action, intended, context, f)


JUDGE = MultiRefJudge()


def _letters(images: Collection[str], context: Sequence[str]) -> set[str]:
    """Return the letters of those images that are in the context."""
    return {letter for letter, image in zip(actions.LETTERS, context, strict=False) if image in images}
