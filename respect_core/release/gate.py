"""Decide whether a candidate may replace the deployed policy: from evidence to a verdict, without side effects.

The criterion, exact match in MULTIREF, is compared turn by turn on the same validation games. The turns of a game
depend on each other, so the bootstrap resamples games: a candidate is refused when it loses more than the margin with
the given confidence, and not because a few turns of a small set happened to come out differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from respect_core.interaction import TurnKey
from respect_core.scenario import EXACT_MATCH, Scenario, scenario
from respect_core.stats import Estimate, by_game, ratio

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
    margin: float = 0.0  # loss of the criterion that is allowed even when it is certain
    confidence: float = 0.95  # one-sided, that a loss is real
    resamples: int = 10_000  # of the validation games
    min_games: int = 10  # fewer validation games say nothing
    min_feedback_turns: int = 100  # with feedback that it learned from; with fewer, what it learned is chance
    illegal_cap: float = 0.01  # illegal greedy actions per validation turn: less than this
    user_share_cap: float = 0.2  # of the turns with feedback that it learned from, by any one user: at most this
    rails: Rails = Rails()  # of free text
    seed: int = 0  # of the resampling


def standard() -> GateConfig:
    """Return the gate of every profile that has none of its own."""
    return GateConfig()


def tiny() -> GateConfig:
    """Return the gate of the embedded model, which writes a few illegal actions per hundred turns when unconstrained.

    Deployments constrain it, so that no illegal action reaches a user; the cap only catches a model that forgot the
    language.
    """
    return replace(standard(), illegal_cap=0.1)


def chat() -> GateConfig:
    """Return the gate of conversations, whose curated replies have no exact match."""
    return replace(standard(), criterion=scenario("chat").criterion, interactions="conversations")


def home() -> GateConfig:
    """Return the gate of the simulated smart home, whose replies are written without a constraint (as in `tiny`)."""
    return replace(standard(), illegal_cap=0.1, interactions="conversations")


GATES: dict[str, Callable[[], GateConfig]] = {"tiny": tiny, "chat": chat, "home": home}


def gate(profile: str) -> GateConfig:
    """Return a profile's gate."""
    return GATES.get(profile, standard)()


@dataclass(frozen=True)
class Evidence:
    """What the gate knows about one policy.

    `right`: each validation turn's score, between 0 and 1; of exact match, whether the greedy action was the turn's.
    `illegal_actions`: how many of the greedy actions on these turns were illegal. `learned`: turns with feedback that
    it learned from, by user. `guard_rails`: figures by name; empty where actions are no free text. `unusable`: why the
    adapter does not load or act, or that there is no record of what it learned from; empty where all is well.
    `adapter_hash`: hash of its weights; two policies with the same hash are one.
    """

    policy: str
    adapter_hash: str = ""
    right: Mapping[TurnKey, float] = field(default_factory=dict)
    illegal_actions: int = 0
    learned: Mapping[str, int] = field(default_factory=dict)
    guard_rails: Mapping[str, float] = field(default_factory=dict)
    unusable: str = ""


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    `reasons`: for a refusal, what speaks against the candidate; for a promotion, all findings.
    """

    promote: bool
    reasons: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True)
class _Finding:
    passed: bool
    sentence: str
    figures: Figures


def judge(candidate: Evidence, deployed: Evidence, config: GateConfig) -> Verdict:
    """Judge whether the candidate may be deployed, and why.

    Raises:
        ValueError: the policies were not validated on the same turns, or the deployed one does not act.
    """
    if deployed.unusable:
        raise ValueError(
            f"{deployed.policy} is deployed and does not act, so nothing can be compared to it: {deployed.unusable}; "
            "roll it back first"
        )
    if candidate.unusable:
        return Verdict(False, (f"{candidate.policy} is not fit for use: {candidate.unusable}",), {})
    if candidate.right.keys() != deployed.right.keys() or not candidate.right:
        raise ValueError(
            f"{candidate.policy} was validated on {len(candidate.right)} turns and {deployed.policy} on "
            f"{len(deployed.right)}, which must be the same and some; validate both on one game set"
        )
    if candidate.adapter_hash and candidate.adapter_hash == deployed.adapter_hash:
        reason = f"{candidate.policy} has the weights of {deployed.policy}, which is deployed: it learned nothing since"
        return Verdict(False, (reason,), {})
    findings = [
        *_compared(candidate, deployed, config),
        *([_illegal(candidate, config)] if config.criterion == EXACT_MATCH else []),
        *_training_data(candidate, config),
        *_guard_rails(candidate, config.rails),
    ]
    promote = all(finding.passed for finding in findings)
    reasons = tuple(finding.sentence for finding in findings if promote or not finding.passed)
    return Verdict(promote, reasons, {name: value for finding in findings for name, value in finding.figures.items()})


def difference(candidate: Evidence, deployed: Evidence, config: GateConfig) -> Estimate:
    """Return the candidate's criterion minus that of the deployed policy, per turn.

    Each end of its interval bounds the difference from one side with `config.confidence`.
    """
    differences = [(right - deployed.right[turn], 1) for turn, right in candidate.right.items()]
    sums, turns = by_game([game for game, _ in candidate.right], differences).T
    level = 2 * config.confidence - 1  # two-sided: each tail holds 1 - confidence
    return ratio(sums, turns, resamples=config.resamples, seed=config.seed, level=level)


def _compared(candidate: Evidence, deployed: Evidence, config: GateConfig) -> Iterator[_Finding]:
    games, turns = len({game for game, _ in candidate.right}), len(candidate.right)
    if games < config.min_games:
        sentence = (
            f"{games} validation {config.interactions} are too few to compare policies; the gate asks for "
            f"{config.min_games}"
        )
        yield _Finding(False, sentence, {"validation_games": games})
        return
    ours, theirs = (sum(evidence.right.values()) / turns for evidence in (candidate, deployed))
    change = difference(candidate, deployed, config)
    passed = change.high >= -config.margin
    sentence = (
        f"{config.criterion} {ours:.1%} on {turns} turns of {games} {config.interactions} against {theirs:.1%} "
        f"of {deployed.policy}: {change.value:+.1%}, "
        f"with {config.confidence:.0%} confidence at most {change.high:+.1%}, "
        f"{'within' if passed else 'beyond'} the allowed loss of {config.margin:.1%}"
    )
    figures: Figures = {
        "exact_match": ours,
        "deployed_exact_match": theirs,
        "difference": change.value,
        "difference_at_least": change.low,
        "difference_at_most": change.high,
        "validation_turns": turns,
        "validation_games": games,
    }
    yield _Finding(passed, sentence, figures)


def _illegal(candidate: Evidence, config: GateConfig) -> _Finding:
    turns = len(candidate.right)
    share = candidate.illegal_actions / turns
    passed = share < config.illegal_cap
    sentence = (
        f"{candidate.illegal_actions} illegal actions on {turns} validation turns ({share:.1%}), "
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
    user, most = max(candidate.learned.items(), key=lambda item: (item[1], item[0]))
    share = most / total
    passed = share <= config.user_share_cap
    sentence = (
        f"user {user} gave {most} of the {total} turns with feedback that it learned from ({share:.1%}), "
        f"{'within' if passed else 'over'} the cap of {config.user_share_cap:.1%}"
    )
    yield _Finding(passed, sentence, {"feedback_turns": total, "user_share": share, "user": user})


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
