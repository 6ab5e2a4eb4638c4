"""Make the report's tables that are not in the paper: comparisons, decoders, drift, users, costs, changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from respect_core.measuring.cell import Decoded, PolicyRound
from respect_core.measuring.decoder_metrics import LabelFigures
from respect_core.measuring.evidence import Comparison, Evidence
from respect_core.measuring.judge import Words
from respect_core.measuring.metrics import Estimate
from respect_core.reporting.candidates import DASH, FEW, too_little
from respect_core.reporting.changes import Changes
from respect_core.reporting.figures.confusions import decoded_policy
from respect_core.reporting.tables import PAPER, Grid, Plain

_MOST_REASONS, _LONGEST_REASON = 12, 100


def follow_ups(evidence: Evidence) -> Plain | None:
    """Tabulate what follow-ups were decoded as, by round and by the version that acted."""
    return _plain(
        "What follow-ups were decoded as, in percent of the turns with a decoded one. Versions are named as the log "
        "names the model that answered. The intervals resample users, as the follow-ups of one user depend on each "
        "other.",
        ("round", "policy", "version", "users", "follow-ups", "negative", "neutral", "positive"),
        (
            (
                *(str(each.round), each.policy.upper(), each.name),
                *(f"{each.follow_ups.users:,}", f"{each.follow_ups.turns:,}"),
                percent(each.follow_ups.negative_follow_ups),
                percent(each.follow_ups.neutral_follow_ups),
                percent(each.follow_ups.positive_follow_ups),
            )
            for each in evidence.versions
        ),
    )


def set_aside(evidence: Evidence) -> Plain | None:
    """Tabulate by reason what was set aside, in round and in all; the rarest reasons are added up."""
    reasons = list(evidence.set_aside.items())
    rounds = sorted({number for _, by_round in reasons for number in by_round})
    others = [by_round for _, by_round in reasons[_MOST_REASONS:]]
    rest = {number: sum(each.get(number, 0) for each in others) for number in rounds}
    listed = [*reasons[:_MOST_REASONS], *([(f"{len(others)} other reasons", rest)] if others else [])]
    return _plain(
        "Records, or parts of them, that were not used, by reason and round. Where they are and what to do about each "
        "is in the store's folder set_aside.",
        ("reason", *(f"round {number}" for number in rounds), "in all"),
        (
            (
                reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…",
                *(f"{by_round.get(number, 0):,}" for number in rounds),
                f"{sum(by_round.values()):,}",
            )
            for reason, by_round in listed
        ),
    )


def comparisons(results: Sequence[Comparison], words: Words = PAPER) -> Plain | None:
    """Compare policies on contexts that both played."""
    return _plain(
        "Policies compared on the same contexts, with 95% intervals of the differences; wins and losses are contexts "
        "that one alone won (or more often, where contexts were played more than once), p is that of the exact sign "
        "test.",
        ("round", "policies", "contexts", "success, points", f"turns per {words.interaction}", "wins / losses", "p"),
        (
            (
                str(each.round),
                f"{each.policy.upper()} over {each.other.upper()}",
                str(each.result.contexts),
                points(each.result.success),
                number(each.result.turns_per_game, signed=True),
                f"{each.result.wins} / {each.result.losses}",
                "< 0.001" if each.result.p < 0.001 else f"{each.result.p:.3f}",
            )
            for each in results
        ),
    )


def agreement(evidence: Evidence) -> Plain | None:
    """Tabulate agreement of three or more annotators (appendix A.2), by round and policy, and overall."""
    cells = [
        (str(round), policy.upper(), cell.agreement)
        for policy, round, cell in _cells(evidence)
        if cell.agreement is not None
    ]
    return _plain(
        "Agreement of all annotators, in percent, over turns that three or more annotated (appendix A.2).",
        ("round", "policy", "turns", "correctness", "action", "satisfaction"),
        (
            (
                round,
                policy,
                str(shares.turns),
                *(percent(each) for each in (shares.correctness, shares.action, shares.satisfaction)),
            )
            for round, policy, shares in [*cells, *([("all", "all", evidence.agreement)] if evidence.agreement else [])]
            if shares.turns
        ),
    )


def decoders(evidence: Evidence) -> Plain | None:
    """Tabulate precision, recall and calibration for the policy that figure 6 shows."""
    subject = decoded_policy(evidence.cells)
    if not evidence.words.paper:
        return _plain(
            f"The decoders on turns of {(subject or '').upper()}, in percent of the turns that were decoded as a label "
            "(precision), or that have it (recall).",
            ("round", "decoder", "labels by", "turns", *LABEL_COLUMNS, "calibration error"),
            (
                (
                    *(str(round), decoder, str(decoded.against), str(decoded.confusion.turns)),
                    *by_label(decoded),
                    percent(decoded.calibration.ece if decoded.calibration else None),
                )
                for policy, round, cell in _cells(evidence)
                if policy == subject
                for decoder, decoded in cell.decoded.items()
                if decoded.confusion is not None
            ),
        )
    return _plain(
        f"The decoders on turns of {(subject or '').upper()}, in percent. Strict: only right turns count as positive; "
        "with partly right: those count too. Calibration error of the scores as probabilities.",
        ("round", "decoder", "turns", "+ / 0 / -", "precision", "with partly right", "recall", "calibration error"),
        (
            (
                str(round),
                decoder,
                str(decoded.confusion.turns),
                f"{decoded.positive} / {decoded.neutral} / {decoded.negative}",
                percent(decoded.confusion.precision_strict),
                percent(decoded.confusion.precision_lenient),
                percent(decoded.confusion.recall_strict),
                percent(decoded.calibration.ece if decoded.calibration else None),
            )
            for policy, round, cell in _cells(evidence)
            if policy == subject
            for decoder, decoded in cell.decoded.items()
            if decoded.confusion is not None
        ),
    )


def reviewed(evidence: Evidence) -> Plain | None:
    """Tabulate what people who reviewed follow-ups say of the decoders, by round."""
    return _plain(
        "What people who reviewed follow-ups say of the decoders, in percent, with 95% intervals that resample users. "
        "The audit is a uniform sample; with the queue, each label counts by the inverse of its chance to be asked "
        "for. The next round learned from people's labels.",
        ("round", "decoder", "labels", "otherwise", "of", *LABEL_COLUMNS),
        (
            (str(round), decoder, f"{each.labels:,}", f"{each.replaced:,}", name, *label_figures(figures))
            for round, by_decoder in evidence.reviewed.items()
            for decoder, each in by_decoder.items()
            for name, figures in ((f"audit ({each.audited:,})", each.audit), ("with the queue", each.weighted))
        ),
    )


LABEL_COLUMNS = ("negatives: precision", "recall", "positives: precision", "recall")


def by_label(decoded: Decoded) -> Iterator[str]:
    """Yield the cells of `LABEL_COLUMNS`, with a note where they are of too few turns."""
    return label_figures(decoded.by_label)


def label_figures(figures: Mapping[int, LabelFigures]) -> Iterator[str]:
    """Yield the cells of `LABEL_COLUMNS` of figures by label."""
    for label in (-1, 1):
        found = figures.get(label)
        for share, of in ((found.precision, found.decoded), (found.recall, found.actual)) if found else [(None, 0)] * 2:
            note = f" {too_little(of)}" if share and of < FEW else ""
            yield f"{percent(share)}{note}"


def drifts(evidence: Evidence) -> tuple[Plain | None, Plain | None]:
    """Tabulate drift of language and of feedback between rounds; None if there is only one round."""
    if evidence.drift is None:
        return None, None
    policy = evidence.drift.policy.upper()
    language = _plain(
        f"How the language of the users of {policy} moved between rounds: Jensen-Shannon divergence of words in bits, "
        f"beside what {evidence.words.interactions} dealt at random to the two rounds would give; "
        "change of length in words; "
        "share of words that the earlier round does not have.",
        ("rounds", "divergence", "by chance", "p", "length", "new words"),
        (
            (
                f"{each.earlier} → {each.later}",
                f"{each.divergence:.3f}",
                f"{each.by_chance:.3f}",
                "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
                number(each.length, signed=True),
                f"{100 * each.unseen:.1f}%",
            )
            for each in evidence.drift.language
        ),
    )
    feedback = _plain(
        f"How decoded feedback of {policy} moved between rounds, in points of its share."
        f"{'' if evidence.words.paper else ' The intervals resample users.'}",
        ("rounds", "decoder", "positive", "neutral", "negative"),
        (
            (
                f"{each.earlier} → {each.later}",
                decoder,
                points(each.positive),
                points(each.neutral) if decoder == "ternary" else DASH,
                points(each.negative),
            )
            for decoder, moves in evidence.drift.feedback.items()
            for each in moves
        ),
    )
    return language, feedback


def users(evidence: Evidence) -> Plain | None:
    """Tabulate how evenly the turns are spread over users."""
    return _plain(
        "Shares of the turns of the user, and of the five users, with most; Gini coefficient; number of users with "
        "equal shares that would be as concentrated.",
        ("round", "policy", "users", "turns", "top user", "top five", "Gini", "effective users"),
        (
            (
                str(round),
                policy.upper(),
                str(cell.users.users),
                f"{cell.users.turns:,}",
                *(f"{100 * cell.users.top[k]:.1f}%" for k in (1, 5)),
                f"{cell.users.gini:.2f}",
                f"{cell.users.effective:.1f}",
            )
            for policy, round, cell in _cells(evidence)
            if cell.users is not None
        ),
    )


def costs(evidence: Evidence) -> Plain | None:
    """Tabulate what each round took, as far as it was recorded."""
    return _plain(
        "What learning from each round took, as far as the run recorded it: turns and tokens decoded, tokens trained "
        "on, and seconds of training over all variants and seeds.",
        ("round", "turns decoded", "tokens", "seconds", "tokens trained on", "training seconds by device"),
        (
            (
                str(each.round),
                _whole(each.turns_decoded),
                _whole(each.decode_tokens),
                _whole(each.decode_seconds),
                _whole(each.train_tokens),
                ", ".join(f"{device}: {seconds:,.0f}" for device, seconds in (each.train_seconds or {}).items())
                or DASH,
            )
            for each in evidence.costs
            if each.turns_decoded or each.train_seconds
        ),
    )


def changed(changes: Changes, grids: Sequence[Grid]) -> Plain | None:
    """Tabulate cells that moved beyond their intervals."""
    by_number = {grid.number: grid for grid in grids}

    return _plain(
        "Cells that moved beyond the intervals; counts that changed.",
        ("table", "row", "column", "before", "after"),
        (
            (
                f"{f'{table}: ' if by_number[table].numbered else ''}"
                f"{by_number[table].title.split('(')[0].split(',')[0].strip().rstrip('.')}",
                by_number[table].label(row),
                column,
                by_number[table].cell(each.before),
                by_number[table].cell(each.now),
            )
            for each in changes.beyond
            for table, row, column in [each.key]
            if table in by_number
        ),
    )


def percent(share: Estimate | None) -> str:
    """Format a share in percent with its interval."""
    if share is None:
        return DASH
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def points(difference: Estimate) -> str:
    """Format a difference of shares in percentage points with its interval."""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def number(value: Estimate, *, signed: bool = False) -> str:
    """Format a number with its interval."""
    form = "+.2f" if signed else ".2f"
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _cells(evidence: Evidence) -> Iterable[tuple[str, int, PolicyRound]]:
    for policy, by_round in evidence.cells.items():
        for round, cell in sorted(by_round.items()):
            yield policy, round, cell


def _plain(caption: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Plain | None:
    filled = tuple(rows)
    return Plain(caption, columns, filled) if filled else None
