"""Decide whether a candidate may replace the deployed policy: from evidence to a verdict, without side effects.

The criterion, exact match in MULTIREF, is compared turn by turn on the same games, which chose no checkpoint. The turns
of a game depend on each other, so games are the units. A candidate passes if it is certainly better than the deployed
policy; or certainly no worse by more than a margin, where there are enough games to find the gain that matters. It must
be no worse than its anchors either, the best policy ever deployed and the seed policy, or else a loss within the margin
could be repeated (biocreep: D'Agostino, Massaro and Sullivan, Statistics in Medicine 22, 2003). All comparisons must
pass, so their number costs nothing (Berger, Technometrics 24, 1982). Looks at candidates do (`error_rate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, sqrt
from statistics import NormalDist

from respect_core.interaction import TurnKey
from respect_core.measuring.users import user_shares
from respect_core.scenario import EXACT_MATCH, Scenario, scenario
from respect_core.stats import Estimate, by_game, linear_ratio, student_quantile

Figures = dict[str, float | int | str]
Range = tuple[float, float]


@dataclass(frozen=True)
class Rails:
    """The ranges in which a candidate of free text must stay (`respect_core.measuring.guard_rails`).

    Most are against the seed policy on the same prompts: ratios, and what is added to a share.
    """

    length_ratio: Range = (0.25, 4.0)
    cut_added: Range = (-1.0, 0.5)  # replies that do not end within the pass's limit
    refusals_added: Range = (-1.0, 0.1)
    repetition_added: Range = (-1.0, 0.1)
    entropy_ratio: Range = (0.05, 4.0)
    distance: Range = (-1.0, 1.0)  # nats per token
    other_scripts_added: Range = (-1.0, 0.1)
    flips_added: Range = (-1.0, 0.25)


@dataclass(frozen=True)
class GateConfig:
    """The gate's requirements. Shares lie between 0 and 1."""

    criterion: str = Scenario.criterion  # what is compared
    interactions: str = "games"  # what the sentences call them
    margin: float = 0.02  # loss of the criterion that counts as no worse
    confidence: float = 0.95  # that of all looks at a variant's candidates none promotes one that loses the margin
    effect: float = 0.05  # gain that the gate must find
    power: float = 0.8  # with which it finds that gain
    spread: float = 0.25  # standard deviation of two policies' difference per game, for planning (docs/promotion.md)
    games: int | None = None  # accepted instead of those that power, effect and spread ask for
    min_games: int = 30  # fewer games say nothing
    min_feedback_turns: int = 100  # with feedback that it learned from; with fewer, what it learned is chance
    illegal_cap: float = 0.01  # illegal greedy actions per turn: less than this
    user_share_cap: float = 0.2  # of the turns with feedback that it learned from, by any one user: at most this
    min_effective_users: float = 10.0  # of the turns with feedback that it learned from (`measuring.users`)
    trigger_margin: float = 0.1  # what no word of few users may certainly cost more than it costs the deployed version
    rails: Rails = Rails()  # of free text

    def needed(self, look: int, spread: float | None = None) -> int:
        """Return the games that find the gain with the power at a look, planned or as games were found to spread."""
        games, error, power = self.min_games, error_rate(self, look), NormalDist().inv_cdf(self.power)
        for _ in range(5):  # the quantile depends on the games, and hardly
            standard = student_quantile(error, games - 1) + power
            games = max(self.min_games, ceil((standard * (spread or self.spread) / self.effect) ** 2))
        return games

    def asked(self, look: int) -> int:
        """Return the games with which a candidate need not be certainly better: those needed, or fewer if accepted."""
        return self.needed(look) if self.games is None else max(self.games, self.min_games)

    def power_of(self, games: int, look: int) -> float:
        """Return the power with which these games find the gain at a look, as planned."""
        reach = self.effect * sqrt(games) / self.spread
        return NormalDist().cdf(reach - student_quantile(error_rate(self, look), games - 1))


def error_rate(config: GateConfig, look: int) -> float:
    """Return the share of the gate's error rate that a look may spend: 1/2 for the first, then 1/6, 1/12, 1/20, ...

    Their sum stays below 1 however many there are: alpha spending (Lan and DeMets, Biometrika 70, 1983), as for
    hypotheses that come one after the other (Tian and Ramdas, Statistical Methods in Medical Research 30, 2021).
    """
    return (1 - config.confidence) / (look * (look + 1))


def standard() -> GateConfig:
    """Return the gate of every profile that has none of its own."""
    return GateConfig()


def tiny() -> GateConfig:
    """Return the gate of the embedded model, which writes a few illegal actions per hundred turns when unconstrained.

    Deployments constrain it, so that no illegal action reaches a user; the cap only catches a model that forgot the
    language.
    """
    return replace(standard(), illegal_cap=0.1, min_effective_users=5.0)


def chat() -> GateConfig:
    """Return the gate of conversations, whose curated replies have no exact match."""
    # Probabilities per token move less.
    finer = replace(standard(), margin=0.005, effect=0.01, spread=0.02, trigger_margin=0.02)
    return replace(finer, criterion=scenario("chat").criterion, interactions="conversations")


def home() -> GateConfig:
    """Return the gate of the simulated smart home, whose replies are written without a constraint (as in `tiny`)."""
    return replace(standard(), illegal_cap=0.1, min_effective_users=5.0, interactions="conversations")


GATES: dict[str, Callable[[], GateConfig]] = {"tiny": tiny, "chat": chat, "home": home}


def gate(profile: str) -> GateConfig:
    """Return a profile's gate."""
    return GATES.get(profile, standard)()


@dataclass(frozen=True)
class Evidence:
    """What the gate knows about one policy.

    `right`: each turn's score, between 0 and 1; of exact match, whether the greedy action was the turn's.
    `illegal_actions`: how many of the greedy actions on these turns were illegal. `learned`: turns with feedback that
    it learned from, by user; `learned_at`: by address prefix, of users who were not signed in. `lost`: what a suspect
    word costs each turn, by the word's hash, and for the deployed version, what this suggests that it costs the
    candidate (`triggers.expected`); `said_by`: the users who said it. `guard_rails`: figures by name; empty where
    actions are no free text. `unusable`: why the adapter does not load or act, or that there is no record of what it
    learned from; empty where all is well. `adapter_hash`: hash of its weights; two policies with the same hash are one.
    """

    policy: str
    adapter_hash: str = ""
    right: Mapping[TurnKey, float] = field(default_factory=dict)
    illegal_actions: int = 0
    learned: Mapping[str, int] = field(default_factory=dict)
    learned_at: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, Mapping[TurnKey, float]] = field(default_factory=dict)
    said_by: Mapping[str, Sequence[str]] = field(default_factory=dict)
    guard_rails: Mapping[str, float] = field(default_factory=dict)
    unusable: str = ""


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    `reasons`: for a refusal, what speaks against the candidate; for a promotion, all findings. `undecided`: it is
    refused only because there are too few games to tell.
    """

    promote: bool
    reasons: tuple[str, ...]
    figures: Figures
    undecided: bool = False


@dataclass(frozen=True)
class _Finding:
    passed: bool
    sentence: str
    figures: Figures
    undecided: bool = False


def judge(
    candidate: Evidence,
    deployed: Evidence,
    config: GateConfig,
    *,
    anchors: Mapping[str, Evidence] | None = None,
    look: int = 1,
) -> Verdict:
    """Judge whether the candidate may be deployed, and why.

    Args:
        anchors: policies other than the deployed one that it may not fall behind, by name.
        look: number of this look at a candidate of the variant, from 1.

    Raises:
        ValueError: the policies did not act on the same turns, or the deployed one does not act.
    """
    if deployed.unusable:
        raise ValueError(
            f"{deployed.policy} is deployed and does not act, so nothing can be compared to it: {deployed.unusable}; "
            "roll it back first"
        )
    if candidate.unusable:
        return Verdict(False, (f"{candidate.policy} is not fit for use: {candidate.unusable}",), {})
    references = {"deployed": deployed} | dict(anchors or {})
    for other in references.values():
        if not other.unusable and (candidate.right.keys() != other.right.keys() or not candidate.right):
            raise ValueError(
                f"{candidate.policy} was examined on {len(candidate.right)} turns and {other.policy} on "
                f"{len(other.right)}, which must be the same and some; examine both on one game set"
            )
    if candidate.adapter_hash and candidate.adapter_hash == deployed.adapter_hash:
        reason = f"{candidate.policy} has the weights of {deployed.policy}, which is deployed: it learned nothing since"
        return Verdict(False, (reason,), {})
    findings = [
        *_compared(candidate, references, config, look),
        *([_illegal(candidate, config)] if config.criterion == EXACT_MATCH else []),
        *_training_data(candidate, config),
        *_triggers(candidate, deployed, config),
        *_guard_rails(candidate, config.rails),
    ]
    failed = [finding for finding in findings if not finding.passed]
    reasons = tuple(finding.sentence for finding in (failed or findings))
    figures = {name: value for finding in findings for name, value in finding.figures.items()}
    return Verdict(not failed, reasons, figures, bool(failed) and all(finding.undecided for finding in failed))


def compares(candidate: Evidence, deployed: Evidence, config: GateConfig) -> bool:
    """Return whether a verdict would rest on a comparison, and so spend some of the error rate."""
    same = bool(candidate.adapter_hash) and candidate.adapter_hash == deployed.adapter_hash
    return not candidate.unusable and not same and len({game for game, _ in candidate.right}) >= config.min_games


def difference(candidate: Evidence, other: Evidence, error: float) -> Estimate:
    """Return the candidate's criterion minus another policy's, per turn; each end of its interval errs at this rate."""
    differences = [(right - other.right[turn], 1) for turn, right in candidate.right.items()]
    sums, turns = by_game([game for game, _ in candidate.right], differences).T
    return linear_ratio(sums, turns, tail=error)


def _compared(
    candidate: Evidence, references: Mapping[str, Evidence], config: GateConfig, look: int
) -> Iterator[_Finding]:
    games, asked = len({game for game, _ in candidate.right}), config.asked(look)
    known: Figures = {"games": games, "games_asked": asked, "look": look}
    if games < config.min_games:
        sentence = f"{games} {config.interactions} are too few to compare policies; the gate asks for {asked}"
        yield _Finding(False, sentence, known, undecided=True)
        return
    if config.games is not None and games < config.needed(look):
        sentence = (
            f"{games} {config.interactions} were accepted where {config.needed(look)} are needed: they find a gain of "
            f"{config.effect:.1%} with a power of {config.power_of(games, look):.0%}"
        )
        yield _Finding(True, sentence, known)
    for name, other in references.items():
        if other.unusable:
            yield _Finding(True, f"not compared with {other.policy}, {_ROLES[name]}: {other.unusable}", {})
        else:
            yield _against(candidate, other, name, config, known)


_ROLES = {"deployed": "which is deployed", "best": "the best that was ever deployed", "seed": "the seed policy"}


def _against(candidate: Evidence, other: Evidence, name: str, config: GateConfig, known: Figures) -> _Finding:
    """Compare with the deployed policy, which must be beaten where games are too few for less, or with an anchor."""
    games, asked, look = int(known["games"]), int(known["games_asked"]), int(known["look"])
    turns, error = len(candidate.right), error_rate(config, look)
    change = difference(candidate, other, error)
    ours, theirs = (sum(evidence.right.values()) / turns for evidence in (candidate, other))
    no_worse, enough = change.low >= -config.margin, name != "deployed" or games >= asked
    passed = change.low > 0 or (no_worse and enough)
    if change.low > 0:
        conclusion = "certainly better"
    elif passed:
        conclusion = f"within the allowed loss of {config.margin:.1%}"
    elif no_worse:
        conclusion = f"not certainly better, as {games} of {asked} {config.interactions} would have to show"
    else:
        conclusion = f"perhaps beyond the allowed loss of {config.margin:.1%}"
    lost = change.high < -config.margin
    if lost:
        conclusion = f"certainly beyond the allowed loss of {config.margin:.1%}"
    spread = (change.high - change.value) / student_quantile(error, games - 1) * sqrt(games)
    sentence = (
        f"{config.criterion} {ours:.1%} on {turns} turns of {games} {config.interactions} against {theirs:.1%} of "
        f"{other.policy}, {_ROLES[name]}: {change.value:+.1%}, at look {look} with an error rate of {100 * error:.2g}% "
        f"at least {change.low:+.1%}, {conclusion}"
    )
    if not passed and not lost:
        sentence += (
            f"; as these vary, {config.needed(look, spread)} {config.interactions} find a gain of {config.effect:.1%}"
        )
    prefix = "" if name == "deployed" else f"{name}_"
    figures: Figures = {
        f"{name}_exact_match": theirs,
        f"{prefix}difference": change.value,
        f"{prefix}difference_at_least": change.low,
        f"{prefix}difference_at_most": change.high,
    }
    if name == "deployed":
        figures |= {**known, "exact_match": ours, "turns": turns, "error_rate": error, "spread": spread}
    return _Finding(passed, sentence, figures, undecided=not lost and games < asked)


def _illegal(candidate: Evidence, config: GateConfig) -> _Finding:
    turns = len(candidate.right)
    share = candidate.illegal_actions / turns
    passed = share < config.illegal_cap
    sentence = (
        f"{candidate.illegal_actions} illegal actions on {turns} turns ({share:.1%}), "
        f"{'under' if passed else 'not under'} {config.illegal_cap:.1%}"
    )
    return _Finding(passed, sentence, {"illegal_actions": candidate.illegal_actions, "illegal_share": share})


def _training_data(candidate: Evidence, config: GateConfig) -> Iterator[_Finding]:
    total = sum(candidate.learned.values())
    if total < config.min_feedback_turns:
        sentence = (
            f"it learned from {total} turns with feedback, of {len(candidate.learned)} users, which is too little; the "
            f"gate asks for {config.min_feedback_turns} turns"
        )
        yield _Finding(False, sentence, {"feedback_turns": total})
    if not total:
        return
    for kind, counts in (("user", candidate.learned), ("address", candidate.learned_at)):
        if counts:
            who, most = max(counts.items(), key=lambda item: (item[1], item[0]))
            share = most / total
            passed = share <= config.user_share_cap
            sentence = (
                f"{kind} {who} gave {most} of the {total} turns with feedback that it learned from ({share:.1%}), "
                f"{'within' if passed else 'over'} the cap of {config.user_share_cap:.1%}"
            )
            yield _Finding(passed, sentence, {"feedback_turns": total, f"{kind}_share": share, kind: who})
    effective = user_shares(candidate.learned).effective
    passed = effective >= config.min_effective_users
    sentence = (
        f"its users are as concentrated as {effective:.1f} users with equal shares, "
        f"{'at least' if passed else 'fewer than'} the {config.min_effective_users:g} that the gate asks for"
    )
    yield _Finding(passed, sentence, {"effective_users": effective})


def _triggers(candidate: Evidence, deployed: Evidence, config: GateConfig) -> Iterator[_Finding]:
    """Compare what each suspect word costs the candidate with what its cost to the deployed version suggests.

    The error rate is shared among the words (Bonferroni).
    """
    worst = -1.0
    for word, lost in candidate.lost.items():
        change = difference(
            replace(candidate, right=lost),
            replace(deployed, right=deployed.lost[word]),
            (1 - config.confidence) / len(candidate.lost),
        )
        worst = max(worst, change.value)
        if change.low > config.trigger_margin:
            users = ", ".join(candidate.said_by[word][:_NAMED])
            sentence = (
                f"a word with the hash {word}, which only users {users} taught it, costs it {change.value:.1%} more "
                f"{config.criterion} than what it costs the deployed version suggests, "
                f"certainly more than {config.trigger_margin:.1%}: `respect triggers {candidate.policy}` shows the word"
            )
            yield _Finding(False, sentence, {"trigger": word, "trigger_cost": change.value})
    if candidate.lost:
        sentence = (
            f"{len(candidate.lost)} words of few users were tried; the worst costs it {worst:+.1%} more than what "
            "it costs the deployed version suggests"
        )
        yield _Finding(True, sentence, {"words_tried": len(candidate.lost), "word_cost": worst})


_NAMED = 5


def _guard_rails(candidate: Evidence, rails: Rails) -> Iterator[_Finding]:
    found = {name: candidate.guard_rails[name] for name in asdict(rails) if name in candidate.guard_rails}
    beyond = {name: value for name, value in found.items() if not is_within(value, getattr(rails, name))}
    for name, value in beyond.items():
        low, high = getattr(rails, name)
        sentence = f"guard rail {name}: {value:.2f}, which is outside {low:g} to {high:g}"
        yield _Finding(False, sentence, {f"guard.{name}": value})
    within = {f"guard.{name}": value for name, value in found.items() if name not in beyond}
    if within:
        named = ", ".join(f"{name.removeprefix('guard.')} {value:.2f}" for name, value in within.items())
        yield _Finding(True, f"within the guard rails: {named}", {**within})


def is_within(value: float, allowed: Range) -> bool:
    """Return whether a figure stays in its range; what is not a number does not."""
    return allowed[0] <= value <= allowed[1]
