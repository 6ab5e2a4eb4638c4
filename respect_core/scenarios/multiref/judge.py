"""MULTIREF, the reference game of the paper, as measuring sees it: FOR MEASURING ONLY."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from respect_core.measuring.judge import ImageSimilarity, Judge
from respect_core.scenario import ScenarioError
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.similarity import similarity


class MultiRefJudge(Judge):
    """Targets are images, which an action names by their letters.

    What is no action raises ActionError, except in `intended`.
    """

    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        """Return how an action fits the targets: +1 right, 0 one of its two parts right and the other not, -1 wrong.

        Selecting is right when all that is selected are targets, deselecting when none is. An action that does
        nothing is wrong: every utterance asks for something.
        """
        done, wanted = actions.parse(action), _letters(targets, context)
        parts = []
        if done.select:
            parts.append(wanted.issuperset(done.select))
        if done.deselect:
            parts.append(wanted.isdisjoint(done.deselect))
        if not any(parts):
            return -1
        return 1 if all(parts) else 0

    def credit(self, action: str, context: Sequence[str], targets: Collection[str]) -> tuple[int, int]:
        """Return how many clicks of an action are accurate, and how many it has.

        Appendix B.4: a click is accurate if it selects a target or deselects a non-target.
        """
        done, wanted = actions.parse(action), _letters(targets, context)
        accurate = len(wanted.intersection(done.select)) + len(set(done.deselect) - wanted)
        return accurate, len(done.select) + len(done.deselect)

    def canonical(self, action: str) -> str:
        return actions.canonical(action)

    def intended(self, text: str, state: str, context: Sequence[str]) -> str:
        try:
            action = actions.parse(text)
            actions.check_legal(action, state, len(context))
        except actions.ActionError as error:
            raise ScenarioError(str(error)) from error
        return str(action)

    def similarity(self, action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float:
        return similarity(action, intended, context, f)


JUDGE = MultiRefJudge()


def _letters(images: Collection[str], context: Sequence[str]) -> set[str]:
    """Return the letters of those images that are in the context."""
    return {letter for letter, image in zip(actions.LETTERS, context, strict=False) if image in images}
