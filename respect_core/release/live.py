"""Measure versions while gateways serve them: what users say next to each, and how versions differ. Not in the paper.

What a version is like comes from all of its replies. Versions are compared only in conversations that chance gave to
one of them while both were on offer (`measuring.follow_ups`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from respect_core.measuring.follow_ups import Compared, FollowUps, Said, compare, follow_ups

VERSIONS, PAIRS = 12, 8
"""At most as many versions, and pairs of versions, are measured: those on offer, then those that replied last."""
RESAMPLES = 2000
"""Fewer than for a report, as these figures are computed again and again."""
SIGNS = {-1: "negative", 0: "neutral", 1: "positive"}

Labels = Mapping[str, Sequence[int | None]]
"""Of the decoded follow-ups of an interaction, by its id; None for one that was set aside."""
Offered = tuple[str, str]
"""A variant, and a version that it had."""


@dataclass(frozen=True, slots=True)
class ServedReply:
    """What is kept of a reply: nothing that anybody wrote.

    `interaction` is the id of an interaction that begins with it. `before` and `after` are keys of what was said up to
    the user's message, and up to the reply.
    """

    interaction: str
    conversation: str
    user: str
    variant: str
    version: str
    offered: tuple[str, ...]
    time: str
    cut: bool
    first_token: float | None
    seconds: float
    before: str
    after: str


@dataclass(frozen=True)
class VersionFigures:
    """A version of a variant. `follow_ups`, to whole replies, are decoded, set aside, or wait for a round."""

    variant: str
    version: str
    on_offer: bool
    conversations: int
    users: int
    replies: int
    cut: int
    follow_ups: int
    set_aside: int
    signs: dict[str, int]
    said: FollowUps | None  # None before a follow-up is decoded
    first_token: float | None  # median, in seconds
    seconds: float | None  # of whole replies, likewise

    @property
    def decoded(self) -> int:
        """Follow-ups with a label."""
        return sum(self.signs.values())

    @property
    def waiting(self) -> int:
        """Follow-ups that no round has decoded."""
        return max(0, self.follow_ups - self.set_aside - self.decoded)


@dataclass(frozen=True)
class PairFigures:
    """Two versions, in conversations that chance assigned. `compared`: None while one has no decoded follow-up."""

    versions: tuple[str, str]
    conversations: tuple[int, int]
    compared: Compared | None


def versions(
    replies: Sequence[ServedReply], labels: Labels, on_offer: Collection[Offered], resamples: int = RESAMPLES
) -> list[VersionFigures]:
    """Measure each version of each variant, those on offer first.

    Args:
        replies: in order of time.
        on_offer: the versions of each variant.
    """
    by_version: dict[Offered, list[ServedReply]] = {offered: [] for offered in on_offer}
    for each in replies:
        by_version.setdefault((each.variant, each.version), []).append(each)
    newest = sorted(by_version, key=lambda each: by_version[each][-1].time if by_version[each] else "", reverse=True)
    chosen = sorted(newest, key=lambda each: each not in on_offer)[:VERSIONS]
    chosen.sort(key=lambda each: (each not in on_offer, _order(each[1])))  # alike at each look
    return [_version(*each, each in on_offer, by_version[each], labels, resamples) for each in chosen]


def _version(
    variant: str, version: str, on_offer: bool, replies: Sequence[ServedReply], labels: Labels, resamples: int
) -> VersionFigures:
    whole = [each for each in replies if not each.cut]
    answered = {(each.conversation, each.before) for each in replies}
    said, aside = _said(replies, labels)
    signs = Counter(SIGNS[each.label] for each in said)
    return VersionFigures(
        variant,
        version,
        on_offer,
        conversations=len({each.conversation for each in replies}),
        users=len({each.user for each in replies}),
        replies=len(replies),
        cut=len(replies) - len(whole),
        follow_ups=len({(each.conversation, each.after) for each in whole} & answered),
        set_aside=aside,
        signs={sign: signs[sign] for sign in SIGNS.values()},
        said=follow_ups([each.user for each in said], [each.label for each in said], resamples=resamples),
        first_token=_median(each.first_token for each in replies),
        seconds=_median(each.seconds for each in whole),
    )


def pairs(
    replies: Sequence[ServedReply],
    labels: Labels,
    measured: Iterable[VersionFigures],
    effect: float = 0.05,
    resamples: int = RESAMPLES,
) -> list[PairFigures]:
    """Compare the versions that were on offer at the same time, of those measured."""
    among = {each.version for each in measured}
    by_pair: dict[tuple[str, str], list[ServedReply]] = defaultdict(list)
    for each in replies:
        for one, other in combinations(sorted(among & set(each.offered), key=_order), 2):
            if each.version in (one, other):
                by_pair[one, other].append(each)
    newest = sorted(by_pair, key=lambda pair: by_pair[pair][-1].time, reverse=True)[:PAIRS]
    newest.sort(key=lambda pair: [*map(_order, pair)])
    return [_pair(pair, by_pair[pair], labels, effect, resamples) for pair in newest]


def _pair(
    pair: tuple[str, str], replies: Sequence[ServedReply], labels: Labels, effect: float, resamples: int
) -> PairFigures:
    one, other = ([each for each in replies if each.version == version] for version in pair)
    conversations = len({each.conversation for each in one}), len({each.conversation for each in other})
    compared = compare(
        _said(one, labels)[0],
        _said(other, labels)[0],
        conversations=conversations,
        effect=effect,
        resamples=resamples,
    )
    return PairFigures(pair, conversations, compared)


def _said(replies: Iterable[ServedReply], labels: Labels) -> tuple[list[Said], int]:
    """Return the decoded follow-ups in the interactions that began with a reply, and count those set aside."""
    decoded = [(each.user, label) for each in replies for label in labels.get(each.interaction, ())]
    said = [Said(user, label) for user, label in decoded if label is not None]
    return said, len(decoded) - len(said)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _order(version: str) -> tuple[bool, str, int]:
    """Order versions: the seed policy first, then older ones before newer ones, so that a difference is a change."""
    model, _, number = version.rpartition("/")
    return not model.endswith(".seed"), model, int(number) if number.isdigit() else 0
