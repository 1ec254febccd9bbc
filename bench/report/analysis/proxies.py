"""Cheap signals that order the rows as generation quality does: Kendall's tau-b and Pearson's r."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pandas as pd

from ...leaderboard.numbers import plural
from ...records.record import Record
from ...statistics.correlation_power import least_tau, rows_needed
from ...statistics.significance import ALPHA
from .board import Board, caution, in_words, p_text, table_of
from .findings import Finding
from .proxy_figures import SCATTERS, overview, scatters
from .proxy_measures import RESAMPLES, Fidelity, Study, measured, over_all, rounded
from .proxy_signals import POOLED, comparisons, latent_shapes

SHOWN = ("generator", "signal", "better", "τ", "τ low", "τ high", "p (Holm)", "r", "rows")  # in texts
STRONG = 0.6  # a tau whose number of rows is told


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without four rows that have a generation distance and a signal."""
    study = measure((Board.of(records),))
    return describe(study) if study.fidelities else None


@lru_cache(maxsize=1)  # two analyses of a report have the same signals
def measure(boards: tuple[Board, ...], only: str | None = None) -> Study:
    """The fidelity of each signal to each target: all generators first, the best first within a target.

    Rows of several boards are compared within each alone. `only` is the one generator that is asked for.
    """
    compared = tuple(comparisons(board, only) for board in boards)
    if len(boards) > 1 and only is None:  # a folder with one generator is among those with all of theirs
        for found in compared:
            if len(found) == 1:
                [(quality, signals)] = found.values()
                found[POOLED] = replace(quality, target=POOLED), signals
    fidelities: list[Fidelity] = []
    for target in dict.fromkeys(target for found in compared for target in found):
        fidelities += measured([found[target] for found in compared if target in found])
    targets = [f.target for f in fidelities]
    main = POOLED if POOLED in targets or not targets else targets[0]
    fidelities.sort(key=lambda f: (f.target != main, f.target, -_merit(f)))
    return Study(boards, compared, over_all(fidelities), main)


def describe(study: Study, folders: Sequence[str] = ("",), most: int = SCATTERS) -> Finding:
    """The text, table and figures of a study; folders are named where there are several."""
    fidelities, target, boards = study.fidelities, study.target, study.boards
    return Finding(
        "proxies",
        "Cheap predictors of generation quality",
        "Does a number that needs no generator, or only the start of its training, predict the rows' order?",
        _answer(fidelities, target) + caution(max(board.seeds for board in boards)),
        " ".join(_method(fidelities, target, boards)),
        table_of(_line(f) for f in fidelities).astype({"rows needed": "Int64"}),
        overview(fidelities, target),
        shown=SHOWN,
        more_figures=scatters(study, folders, most),
    )


def _merit(f: Fidelity) -> float:
    """The rank of a signal, which without a direction is as good with either sign of tau."""
    return f.tau.value if f.signal.sign else abs(f.tau.value)


def _line(f: Fidelity) -> dict[str, object]:
    """A line of the CSV."""

    def ends(name: str, interval: tuple[float, float] | None) -> dict[str, object]:
        low, high = interval or (None, None)
        return {f"{name} low": rounded(low), f"{name} high": rounded(high)}

    given, within = f.given_reconstruction, f.within
    line = {
        "generator": f.target,
        "signal": f.signal.name,
        "better": {1.0: "higher", -1.0: "lower", None: "—"}[f.signal.sign],
        "τ": rounded(f.tau.value),
        **ends("τ", f.tau.interval),
        "without one: lowest": rounded(f.without_one[0]),
        "without one: highest": rounded(f.without_one[1]),
        "p": rounded(f.tau.p),
        "p (Holm)": rounded(f.corrected),
        "tests": f.tests,
        "p (Holm, all)": rounded(f.corrected_over_all),
        "all tests": f.all_tests,
        "rows": f.rows,
        "seeds": f.seeds,
        "folders": f.folders if f.folders > 1 else None,
        "r": rounded(f.r.value),
        **ends("r", f.r.interval),
        "r of log": "yes" if f.signal.logarithmic else "",
        "ρ given rFD": rounded(given.value),
        **ends("ρ given rFD", given.interval),
        "p given rFD": rounded(given.p),
        "shapes": f.shapes,
        "rows needed": f.needed or pd.NA,
    }
    if within is not None:
        line |= {"τ within shapes": rounded(within.value), **ends("τ within shapes", within.interval)}
        line |= {"p within shapes": rounded(within.p)}
    line["across shapes"] = "not comparable" if f.within_alone else None
    return line


def _answer(fidelities: Sequence[Fidelity], target: str) -> str:
    signals = [f for f in fidelities if f.target == target]
    count, rows = plural(len(signals), "signal"), max(f.rows for f in signals)
    sure = [f for f in signals if f.sure]
    across = f"{target}, {plural(rows, 'row')}"
    if sure:
        verb = "predicts" if len(sure) == 1 else "predict"
        text = f"{len(sure)} of {count} {verb} the order beyond chance ({across}): {_strongest(sure)}."
    else:
        text = f"None of {count} predicts the order beyond chance ({across}); "
        text += f"the nearest is {_text(signals[0])}."
    if rows < 6:
        chance = 2 / math.factorial(rows)
        text += f" Even a perfect order of {rows} rows has p = {chance:.2g}: this says very little."
    else:
        text += f" {_power(signals[0].tests, rows, max(f.folders for f in signals))}"
    alone = {f.target: [g for g in fidelities if g.target == f.target and g.sure] for f in fidelities}
    parts = [f"with {g} {_strongest(sure, 1)}" for g, sure in alone.items() if sure and g != target]
    return text + (f" For single generators: {'; '.join(parts)}." if parts else "")


def _power(tests: int, rows: int, folders: int) -> str:
    """How strong a relation has to be, and how many rows would show a strong one."""
    least, needed = least_tau(rows, ALPHA / tests), rows_needed(STRONG, ALPHA / tests)
    if folders > 1:
        return f"To find a true τ of {STRONG:g} with 80 % power takes {needed} rows of one folder."
    if least > 1:
        first = f"With {rows} rows no τ is beyond chance among {plural(tests, 'signal')}"
    elif least == 1:
        first = f"With {rows} rows only a perfect order is beyond chance among {plural(tests, 'signal')}"
    else:
        first = f"With {rows} rows the strongest of {plural(tests, 'signal')} must reach |τ| = {least:.2f}"
    return f"{first}; to find a true τ of {STRONG:g} with 80 % power takes {needed} rows."


def _method(fidelities: Sequence[Fidelity], target: str, boards: Sequence[Board]) -> list[str]:
    """The sentences that say how the table was computed."""
    tests, everything = max(f.tests for f in fidelities), len(fidelities)
    measures = in_words(list(dict.fromkeys(board.measure for board in boards)), len(boards))
    pooled = f"“{POOLED}”: with the mean rank (for r the mean standard score) over the generators. "
    several = (
        f"Only pairs of rows of one folder count ({len(boards)} folders), as no gFD compares across them; a "
        "regularizer that several folders have counts in each as if it were another. "
        if len(boards) > 1
        else ""
    )
    return [
        f"The table has Kendall's τ-b over rows (means over seeds) with {measures} at the row's best "
        "guidance. A positive τ says that a better signal goes with better generation; of a signal without a "
        "direction, a larger one.",
        f"{pooled if target == POOLED else ''}{several}r is Pearson's, with −log gFD as gFD is positive and "
        "skewed; of Fréchet distances among the signals r is of their logarithm, too (column “r of log”).",
        f"Intervals at 95 % are percentiles of {RESAMPLES} resamples of the rows and, within each row, of "
        "its seeds (signal and gFD of a seed together), moved by the resamples' bias. Noise over seeds pulls "
        "them towards 0. There is none for a perfect order.",
        "p is of τ if there is no relation. “p (Holm)” is corrected over the target's signals (up to "
        f"{tests}), “p (Holm, all)” over all {everything} lines. ρ given rFD is Spearman's partial "
        "correlation given the reconstruction distance, its p uncorrected. “Rows needed”: to tell this τ, if "
        "true, from 0 with 80 % power at Holm's first level.",
        _shapes(fidelities, boards),
        "“Without one” is the range of τ with one family of regularizers left out, as rows of a family "
        "aren't independent. Losses: all terms, means over 10–25 % and over the last 10 % of the steps.",
    ]


def _shapes(fidelities: Sequence[Fidelity], boards: Sequence[Board]) -> str:
    """Whether rows have latents of several shapes, and what that does to the table."""
    by_board = [set(latent_shapes(board).values()) for board in boards]
    if all(len(shapes) == 1 for shapes in by_board):
        [shape] = by_board[0]
        if len(boards) > 1:
            rows = "The rows of each folder have latents of one shape"
        elif "×" in shape:
            rows = f"All rows have latents of {shape} (tokens × channels)"
        else:
            rows = "All rows are of one tokenizer, so of one latent shape"
        return f"{rows}: τ within and across shapes is the same."
    within = list(dict.fromkeys(f.signal.name for f in fidelities if f.within_alone))
    text = (
        f"Rows have latents of up to {max(map(len, by_board))} shapes (rows of one tokenizer share a shape): "
        "τ is across them, “τ within shapes” counts only pairs of rows of one shape."
    )
    if within:
        text += (
            " By definition not comparable across shapes, so that all their numbers are of such pairs: "
            f"{in_words(within, len(within))}."
        )
    return text


def _strongest(fidelities: Sequence[Fidelity], most: int = 3) -> str:
    """The strongest signals, and a count of the others."""
    return in_words([_text(f) for f in sorted(fidelities, key=lambda f: -abs(f.tau.value))], most)


def _text(f: Fidelity) -> str:
    interval = f.tau.interval
    between = f", 95 % {interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
    wrong = ", the wrong way" if f.signal.sign and f.tau.value < 0 else ""
    return f"{f.signal.name} (τ = {f.tau.value:.2f}{wrong}{between}, Holm's p {p_text(f.corrected)})"
