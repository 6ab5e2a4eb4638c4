"""Measure conversations: FOR MEASURING ONLY.

The targets of a curated conversation are the replies known to be right, in full: chosen by the owner of the log, or by
a simulator that knows what its user wants.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from respect_core.measuring.judge import Judge


class ChatJudge(Judge):
    """The judge of conversations: a reply is right or wrong as a whole."""

    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        return 1 if action in targets else -1


JUDGE = ChatJudge()
