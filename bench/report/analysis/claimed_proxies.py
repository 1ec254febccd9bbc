"""Claims of papers about cheap predictors of generation quality, set against the numbers of a matrix."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ...leaderboard.numbers import plural
from ...records.record import Record
from ...statistics.significance import ALPHA
from . import style
from .board import Board, caution, in_words, table_of
from .claims import CLAIMS, PAPERS, Claim, is_number
from .findings import Finding
from .proxies import measure
from .proxy_measures import Estimate, Fidelity, Study, rounded

HOLDS = "holds"
CONTRADICTED = "contradicted"
WEAKER = "weaker than claimed"
UNTOLD = "can't be told"
UNKNOWN = Estimate(math.nan, None)
UNMEASURED = "not measured here"
SHOWN = ("number", "better", "claimed by", "claimed r", "r here", "r low", "r high", "rows", "verdict")
FEWEST = 10  # rows; intervals of fewer are too rough to exclude a claimed value
DEFINITION = (
    f"“{HOLDS}”: the interval of r excludes 0 on the claimed side, and τ is beyond chance there (Holm's p < "
    f"{ALPHA}). “{CONTRADICTED}”: the same on the other side. “{WEAKER}”: the interval of r lies below the "
    f"claimed value, with {FEWEST} rows or more, and the claim doesn't hold. “{UNTOLD}”: everything else, "
    "with the sign that the rows have."
)


@dataclass(frozen=True)
class Outcome:
    """A claim, and what the rows here say about its number; estimates are positive on the claimed side."""

    claim: Claim
    fidelity: Fidelity | None

    @property
    def r(self) -> Estimate:
        f = self.fidelity
        return on_claimed_side(f.r, f, self.claim.sign) if f else UNKNOWN

    @property
    def tau(self) -> Estimate:
        f = self.fidelity
        return on_claimed_side(f.tau, f, self.claim.sign) if f else UNKNOWN

    @property
    def verdict(self) -> str:
        """The words of `DEFINITION` that are true of the rows here."""
        if self.fidelity is None:
            return UNMEASURED
        r, tau = self.r, self.tau.value
        if not math.isfinite(r.value):
            return f"{UNTOLD}: a value is a bound"
        low, high = r.interval or (r.value, r.value)
        if self.fidelity.corrected < ALPHA:
            if low > 0 and tau > 0:
                return HOLDS
            if high < 0 and tau < 0:
                return CONTRADICTED
        if self.claim.value is not None and high < self.claim.value and self.fidelity.rows >= FEWEST:
            return WEAKER
        side = "the claimed sign" if r.value > 0 else "the other sign"
        return f"{UNTOLD} with {plural(self.fidelity.rows, 'row')}: {side}"


def outcomes(fidelities: Sequence[Fidelity], target: str) -> list[Outcome]:
    """All claims with the fidelity of their number, by the network that judges generation; measured first."""
    of_target = [f for f in fidelities if f.target == target]
    found = [Outcome(claim, fidelity_of(claim.signal, of_target)) for claim in CLAIMS]
    return sorted(found, key=lambda outcome: outcome.fidelity is None)


def fidelity_of(number: str, fidelities: Sequence[Fidelity]) -> Fidelity | None:
    """The fidelity of a number by the network that judges generation, else by the first other by name."""
    named = [f for f in fidelities if is_number(number, f.signal.name)]
    return min(named, key=lambda f: ("[" in f.signal.shared_name, f.signal.name), default=None)


def on_claimed_side(estimate: Estimate, fidelity: Fidelity, sign: float) -> Estimate:
    """The estimate, positive where quality goes with more (sign 1) or with less (-1) of the number."""
    if sign == (fidelity.signal.sign or 1.0):  # as the metric declares it
        return estimate
    turned = estimate.interval and (-estimate.interval[1], -estimate.interval[0])
    return Estimate(-estimate.value, turned, estimate.p)


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without four rows that have a generation distance and some claim's number."""
    return describe(measure((Board.of(records),)))


def describe(study: Study) -> Finding | None:
    """The text, table and figure of a study; None if no claim's number is in the study."""
    fidelities, target = study.fidelities, study.target
    found = outcomes(fidelities, target)
    if all(outcome.fidelity is None for outcome in found):
        return None
    measures = in_words(list(dict.fromkeys(board.measure for board in study.boards)))
    papers = "; ".join(f"arXiv {number}, {title}" for number, title in PAPERS.items())
    tests = next(f.tests for f in fidelities if f.target == target)
    return Finding(
        "claimed_proxies",
        "What papers say predicts generation quality",
        "Do the predictors that papers name predict the rows' order here?",
        _answer(found, target) + caution(max(board.seeds for board in study.boards)),
        f"Here: Pearson's r and Kendall's τ-b with {measures} ({target}), as in the analysis of cheap "
        "predictors, positive where the claim says so; Holm's p is over "
        f"{plural(tests, 'signal')}. A claimed r is |r| with gFID, of far larger networks and other images: "
        f"only the direction can be expected to be the same. {DEFINITION} Papers: {papers}.",
        table_of(_line(outcome) for outcome in found),
        _figure([o for o in found if math.isfinite(o.r.value)], target),
        shown=SHOWN,
    )


def _line(outcome: Outcome) -> dict[str, object]:
    f, r, tau = outcome.fidelity, outcome.r, outcome.tau
    low, high = r.interval or (None, None)
    tau_low, tau_high = tau.interval or (None, None)
    return {
        "number": outcome.claim.title,
        "better": outcome.claim.better,
        "claimed by": outcome.claim.source_text,
        "claimed r": outcome.claim.value,
        "r here": rounded(r.value),
        "r low": rounded(low),
        "r high": rounded(high),
        "τ here": rounded(tau.value),
        "τ low": rounded(tau_low),
        "τ high": rounded(tau_high),
        "p (Holm)": rounded(f.corrected) if f else None,
        "rows": f.rows if f else 0,
        "verdict": outcome.verdict,
        "signal": f.signal.name if f else outcome.claim.signal,
        "the claimed value is": outcome.claim.how,
    }


def _answer(found: Sequence[Outcome], target: str) -> str:
    known = [o for o in found if o.fidelity is not None]
    rows = max(o.fidelity.rows for o in known if o.fidelity)
    counts = Counter(o.verdict.partition(":")[0].partition(" with ")[0] for o in known)
    text = (
        f"Of {plural(len(found), 'claim')}, {len(known)} can be set against numbers here "
        f"({target}, {plural(rows, 'row')}): "
    )
    parts = []
    for verdict in (HOLDS, CONTRADICTED, WEAKER):
        named = [_named(o) for o in known if o.verdict == verdict]
        if named:
            parts.append(f"{verdict}: {in_words(named, len(named))}")
    if counts[UNTOLD]:
        alike = sum("claimed sign" in o.verdict for o in known)
        parts.append(f"{counts[UNTOLD]} {UNTOLD} ({alike} with the claimed sign)")
    text += "; ".join(parts) + "."
    missing = list(dict.fromkeys(o.claim.signal for o in found if o.fidelity is None))
    return text + (f" Not measured: {in_words(missing, len(missing))}." if missing else "")


def _named(outcome: Outcome) -> str:
    low, high = outcome.r.interval or (outcome.r.value,) * 2
    claimed = f"claimed {outcome.claim.value:.2f}, " if outcome.claim.value else ""
    return f"{outcome.claim.title} ({claimed}r = {outcome.r.value:.2f}, 95 % {low:.2f} to {high:.2f})"


def _figure(found: Sequence[Outcome], target: str) -> Figure | None:
    """The claimed r of each number, and the one of the rows here with its interval."""
    if not found:
        return None
    figure, (ax,) = style.panels(1, 0.6 + 0.24 * len(found))
    figure.set_figwidth(style.WIDTH)
    ax.axvline(0, color=style.FAINT, lw=0.8, zorder=0)
    for y, outcome in enumerate(found):
        r = outcome.r
        if r.interval:
            ax.plot(r.interval, (y, y), color=style.ACCENT, lw=1.2)
        sure = outcome.verdict in (HOLDS, CONTRADICTED)
        ax.plot(r.value, y, "o", color=style.ACCENT, mfc=style.ACCENT if sure else "none", ms=5)
        if outcome.claim.value is not None:
            ax.plot(outcome.claim.value, y, "D", color=style.INK, mfc="none", ms=5)
    style.categories(ax.yaxis, [f"{o.claim.title} ({o.claim.source_text})" for o in found])
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_xlim(-1.05, 1.05)
    style.captions(ax, "", f"r with quality ({target}), positive as claimed")
    dot = {"marker": "o", "color": style.ACCENT, "ls": "-"}
    looks = {"r here, 95 % interval": {**dot, "mfc": "none"}, "beyond chance (Holm)": {**dot, "ls": ""}}
    if any(o.claim.value is not None for o in found):
        looks["claimed |r|"] = {"marker": "D", "color": style.INK, "mfc": "none", "ls": ""}
    style.key(figure, looks)
    return figure
