"""Find the interactions that a variant learns from (section 4): all of its own, up to and including a round."""

from __future__ import annotations

from collections.abc import Iterable

from respect_core.store.manifests import Partition
from respect_core.variants import CONTROL, HH, Variant, original

_NEVER_LEARNED_FROM = {CONTROL, HH}
"""CONTROL measures the users, not the policy (section 6), and HH has no policy."""


def learning_partitions(available: Iterable[Partition], variant: str, round: int) -> list[Partition]:
    """Return the partitions that a variant learns from when it is trained after `round`.

    In a round in which the variant itself acted, these are its own interactions. In a round in which it did not
    (round 0, where the seed policy acts for all; a log in which one variant was deployed), they are everyone's. B-FFT+
    branches off B-FFT (appendix D): where it did not act, it learns from B-FFT's interactions, and no other variant
    learns from its own unless they are the only ones. The control with shuffled labels learns from the same as B-FFT.

    Args:
        available: partitions of the turns table.
        variant: e.g. "b-fft".
        round: the last round to learn from.
    """
    variant = original(variant)
    by_round: dict[int, list[Partition]] = {}
    for partition in available:
        if partition.round <= round and partition.variant not in _NEVER_LEARNED_FROM:
            by_round.setdefault(partition.round, []).append(partition)
    sources: list[Partition] = []
    plus = Variant.B_FFT_PLUS
    for _, present in sorted(by_round.items()):
        own = [partition for partition in present if partition.variant == variant]
        if variant == plus:
            own = own or [partition for partition in present if partition.variant == Variant.B_FFT]
        sources += own or sorted(partition for partition in present if partition.variant != plus) or sorted(present)
    return sources
