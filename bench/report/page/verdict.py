"""The first table of a page: the best regularizer for each generator, its cost, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...leaderboard.collapse import MARK, collapse, marked
from ...leaderboard.columns import cells
from ...leaderboard.cost_table import row_costs
from ...leaderboard.notes import taught_note
from ...leaderboard.numbers import number, plural
from ...leaderboard.ranking import Ranking
from ...leaderboard.results import Leaderboard, Results
from ...leaderboard.rows import Column, Row, Value, tokenizer_seed
from ...leaderboard.training_cost import generator_gflop, tokenizer_gflop
from ...options.words import listed
from ...records.record import Record

BASELINE = "none"
HELD_OUT = {"real": "held-out images", "decoded": "decoded held-out latents"}
FEW = 3  # rows of a tie that are named beside the first; more are counted


@dataclass(frozen=True)
class Verdict:
    """The best row of one generator, or of a dataset's tokenizers."""

    dataset: str
    generator: str  # empty for tokenizers, where nothing was generated
    name: str  # the best in the mean
    ties: list[str]  # the others that may be the best
    metric: str
    value: str
    interval: str  # with the error that it includes
    rank: str  # only if it rests on seeds
    guidance: str
    seconds: str  # of training
    operations: str  # of training, priors included
    times: str  # seconds and operations relative to the baseline's
    sure: str  # a sentence
    detectable: str  # the difference that these seeds would show with 80 % power
    chosen: str  # how the guidance of its dataset's rows was chosen
    taught: str  # what a sign at the value says
    level: str  # "sure", "tie", "unknown"
    real: str  # `held-out images: 1.2`, the value of as many of them, if there is one

    @property
    def named(self) -> list[str]:
        return self.ties if len(self.ties) <= FEW + 1 else self.ties[:FEW]


def verdicts(results: Results) -> list[Verdict]:
    """A verdict per generator of one dataset; one of its tokenizers if nothing was generated."""
    generated = any(row.scored("generator") for row in results.rows if not row.real)
    board = (results.generation if generated else results.reconstruction).scored
    if not board.deciding:
        return []
    column, budget = board.deciding[0], _budget(results.records)
    held_out = next((row for row in results.rows if row.real and column in row.values), None)
    real = "" if held_out is None else f"{HELD_OUT[held_out.held_out]}: {cells(held_out, [column])[0]}"
    rankings = {ranking.generator: ranking for ranking in board.standings([column]).rankings}
    by_generator: dict[str, list[Row]] = {}
    for place in sorted(board.guidance):
        row = board.rows[place]
        if row.mean(column) is not None:
            by_generator.setdefault(row.generator, []).append(row)
    return [
        _verdict(rows, column, rankings.get(generator), budget, real, board)
        for generator, rows in by_generator.items()
    ]


def _budget(records: list[Record]) -> Mapping[str, Any]:
    """The budget of all records; empty if they differ, for then operations don't compare."""
    budgets = [record.provenance.get("budget") for record in records]
    known = [budget for budget in budgets if isinstance(budget, dict)]
    return known[0] if known and all(budget == known[0] for budget in known) else {}


def _verdict(
    rows: list[Row],
    column: Column,
    ranking: Ranking | None,
    budget: Mapping[str, Any],
    real: str,
    board: Leaderboard,
) -> Verdict:
    """The verdict on rows of one generator, best first."""
    several = len({row.tokenizer for row in rows}) > 1
    best = ranking.rows[ranking.best] if ranking else rows[0]
    ties, sure, level = _certainty(rows, ranking, several)
    rank, detectable = "", ""
    if ranking and ranking.basis == "seeds":  # of one seed nobody knows the training variance
        first = ranking.ranks[ranking.best]
        rank = (
            f"{first.low} of {len(rows)}"
            if first.low == first.high
            else f"{first.low}–{first.high} of {len(rows)}"
        )
        detectable = ranking.detectable
    if reason := collapse(best):
        sure += f" {MARK} {reason[0].upper()}{reason[1:]}."
    costs, baseline = row_costs(best), _baseline(rows, best)
    seconds, operations = _seconds(costs), _operations(costs, budget, best.generator)
    factors = [
        _times(seconds, _seconds(baseline), "seconds"),
        _times(operations, _operations(baseline, budget, best.generator), "GFLOP"),
    ]
    return Verdict(
        dataset=best.dataset,
        generator=best.generator,
        name=_name(best, several),
        ties=ties,
        metric=f"{column.name} {column.better}",
        value=cells(best, [column])[0],
        interval=_interval(best.values[column]),
        rank=rank,
        guidance=board.guidance_texts[board.rows.index(best)],
        seconds=f"{number(seconds)} s" if seconds else "",
        operations=f"{number(operations)} GFLOP" if operations else "",
        times=", ".join(filter(None, factors)),
        sure=sure,
        detectable=detectable,
        chosen=board.guidance_note,
        taught=taught_note([best], [column]),
        level=level,
        real=real,
    )


def _certainty(rows: list[Row], ranking: Ranking | None, several: bool) -> tuple[list[str], str, str]:
    """The rows that tie with the best, a sentence about it, and how sure it is."""
    if len(rows) < 2:
        return [], "There is nothing to compare it with.", "unknown"
    if ranking is None:
        return [], "One seed, no resamples: no winner can be named.", "unknown"
    known = [row for row, rank in zip(ranking.rows, ranking.ranks, strict=True) if rank.basis != "none"]
    seeds = min(row.values[ranking.column].n for row in known)
    if ranking.basis != "seeds":
        few = "One seed" if seeds == 1 else "One tokenizer seed"
        return [], f"{few}: no winner can be named. The order is that of this run.", "unknown"
    tied = [row for row, mark in zip(ranking.rows, ranking.marks, strict=True) if mark == "tied"]
    ties = [_name(row, several) for row in tied if row is not ranking.rows[ranking.best]]
    if "best" in ranking.marks:
        others = len(ranking.rows) - 1
        rest = "the other" if others == 1 else f"all {others} others"
        return ties, f"{seeds} seeds tell it from {rest} (95 %, Holm-corrected).", "sure"
    alone = [_name(row, several) for row in ranking.rows if row not in known]
    if alone and not ties:
        return ties, f"{seeds} seeds tell it from all but {listed(alone, FEW)}, of one seed.", "tie"
    text = f"Tie: {plural(seeds, 'seed')} can't tell {len(ties) + 1} of {len(ranking.rows)} apart."
    if alone:
        text += f" Of {listed(alone, FEW)} there is one seed, which says nothing of its error."
    rival = ranking.seeds_to_separate()
    if rival and rival[1] is not None:
        text += f" About {rival[1]} would tell it from {_name(rival[0], several)}."
    return ties, text, "tie"


def _interval(value: Value) -> str:
    """The interval, labelled by the error that it includes."""
    if not value.interval:
        return ""
    label = "sampling noise only" if value.n == 1 else "one tokenizer only"
    if len({tokenizer_seed(observation.seed) for observation in value.observations}) > 1:
        label = "95 %"
    return f"{label}: {' to '.join(map(number, value.interval))}"


def _name(row: Row, several: bool) -> str:
    return f"{row.tokenizer} · {marked(row)}" if several else marked(row)


def _baseline(rows: list[Row], row: Row) -> dict[str, float]:
    """The costs of the same tokenizer without a regularizer; none if that is the row itself."""
    same = [other for other in rows if other.tokenizer == row.tokenizer and other.regularizer == BASELINE]
    return row_costs(same[0]) if same and same[0] is not row else {}


def _seconds(costs: Mapping[str, float]) -> float | None:
    if "tokenizer_seconds" not in costs:
        return None
    return sum(costs.get(f"{stage}_seconds", 0.0) for stage in ("prior", "tokenizer", "generator"))


def _operations(costs: Mapping[str, float], budget: Mapping[str, Any], generator: str) -> float | None:
    """GFLOP of training the tokenizer with its regularizer and priors, and the generator if there is one."""
    tokenizer = tokenizer_gflop(costs, budget)
    generated = generator_gflop(costs, budget) if generator else 0.0
    return None if tokenizer is None or generated is None else tokenizer + generated


def _times(value: float | None, baseline: float | None, unit: str) -> str:
    return f"×{value / baseline:.2f} {unit}" if value and baseline else ""
