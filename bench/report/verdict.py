"""A report's first table: the best regularizer for each generator, its reconstruction, and how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..leaderboard.baselines import baselines
from ..leaderboard.collapse import MARK, collapse, marked
from ..leaderboard.columns import TAUGHT, cells
from ..leaderboard.cost_table import row_costs, training_seconds
from ..leaderboard.notes import taught_note
from ..leaderboard.numbers import number, plural
from ..leaderboard.ranking import Ranking
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import Column, Row, Value, tokenizer_seed
from ..leaderboard.training_cost import generator_gflop, tokenizer_gflop
from ..options.words import listed
from ..records.record import Record

BASELINE = "none"  # the regularizer that the others are compared with
HELD_OUT = {"real": "Held-out images themselves have", "decoded": "Decoded held-out latents have"}
FEW = 3  # rows of a tie that are named beside the first; more are counted
RECONSTRUCTION = ("rFID", "rFD")  # distances of reconstructions from images


@dataclass(frozen=True)
class Verdict:
    """The best row of one generator, or of a dataset's tokenizers.

    Where rows are named, a part that all of them share is left out: the tokenizer, or the regularizer of rows
    without a generator.
    """

    best: Row
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
    needed: str  # a sentence on the seeds that would end a tie, and on what is unusual
    detectable: str  # the difference that these seeds, or images, would show with 80 % power
    basis: str  # of its rank: "seeds", or "images" where nothing was trained
    chosen: str  # how the guidance of its dataset's rows was chosen
    taught: str  # what a sign at the value says
    level: str  # "sure", "tie", "unknown"
    real: str  # `Held-out images themselves have 1.2`, for as many of them, if there is a value
    reconstruction: dict[str, str]  # its tokenizer's means, by `PSNR ↑` and the like
    baseline: bool  # whether its generator is fitted in closed form, as others of the dataset aren't
    rows: int  # that were compared
    tokenizers: int  # of these rows

    @property
    def header(self) -> str:
        """The metric without its network, as the header of a narrow column."""
        return re.sub(r"\[.*\]", "", self.metric)

    @property
    def named(self) -> list[str]:
        return self.ties if len(self.ties) <= FEW + 1 else self.ties[:FEW]


def verdicts(results: Results) -> list[Verdict]:
    """A verdict per generator of one dataset; one of its tokenizers if nothing was generated.

    Generators of several rows come first, those of a single row next, and baselines last.
    """
    generated = any(row.scored("generator") for row in results.rows if not row.real)
    board = (results.generation if generated else results.reconstruction).scored
    if not board.deciding:
        return []
    column, last = board.deciding[0], baselines(board.rows)
    held_out = next((row for row in results.rows if row.real and column in row.values), None)
    facts = _Facts(
        board,
        column,
        _budget(results.records),
        "" if held_out is None else f"{HELD_OUT[held_out.held_out]} {cells(held_out, [column])[0]}",
        reconstruction_columns(results) if generated else [],
        last,
    )
    rankings = {ranking.generator: ranking for ranking in board.standings([column]).rankings}
    by_generator: dict[str, list[Row]] = {}
    for place in sorted(board.guidance):
        row = board.rows[place]
        if row.mean(column) is not None:
            by_generator.setdefault(row.generator, []).append(row)
    found = [_verdict(rows, rankings.get(generator), facts) for generator, rows in by_generator.items()]
    return sorted(found, key=lambda verdict: (verdict.baseline, verdict.rows < 2))


def reconstruction_columns(results: Results) -> list[Column]:
    """The metric that decides between tokenizers, and the distance of reconstructions from images."""
    board = results.reconstruction
    first = board.deciding[:1]
    distances = [c for c in board.columns if c.base in RECONSTRUCTION and "@" not in c.name]
    return list(dict.fromkeys([*first, *distances[:1]]))


@dataclass(frozen=True)
class _Facts:
    """The facts that the verdicts of one dataset share."""

    board: Leaderboard
    column: Column  # that decides
    budget: Mapping[str, Any]
    real: str
    reconstruction: list[Column]
    baselines: set[str]


def _budget(records: list[Record]) -> Mapping[str, Any]:
    """The budget of all records; empty if they differ, for then operations don't compare."""
    budgets = [record.provenance.get("budget") for record in records]
    known = [budget for budget in budgets if isinstance(budget, dict)]
    return known[0] if known and all(budget == known[0] for budget in known) else {}


def _verdict(rows: list[Row], ranking: Ranking | None, facts: _Facts) -> Verdict:
    """The verdict on rows of one generator, best first."""
    board, column = facts.board, facts.column
    named = _Names.of(rows)
    best = ranking.rows[ranking.best] if ranking else rows[0]
    ties, sure, level = _certainty(rows, ranking, named)
    needed = [_needed(ranking, named) if ranking and level == "tie" else ""]
    rank, detectable = "", ""
    if ranking and ranking.whole:  # of one training nobody knows the training variance
        rank, detectable = f"{ranking.ranks[ranking.best].text} of {len(rows)}", ranking.detectable
    if reason := collapse(best):
        needed.append(f"{MARK} {reason[0].upper()}{reason[1:]}.")
    costs, baseline = row_costs(best), _baseline(rows, best)
    seconds, operations = _seconds(costs), _operations(costs, facts.budget, best.generator)
    factors = [
        _times(seconds, _seconds(baseline), "seconds"),
        _times(operations, _operations(baseline, facts.budget, best.generator), "GFLOP"),
    ]
    return Verdict(
        best=best,
        dataset=best.dataset,
        generator=best.generator,
        name=named(best),
        ties=ties,
        metric=f"{column.name} {column.better}",
        value=cells(best, [column])[0],
        interval=_interval(best, best.values[column]),
        rank=rank,
        guidance=board.guidance_texts[board.rows.index(best)],
        seconds=f"{number(seconds)} s" if seconds else "",
        operations=f"{number(operations)} GFLOP" if operations else "",
        times=", ".join(filter(None, factors)),
        sure=sure,
        needed=" ".join(filter(None, needed)),
        detectable=detectable,
        basis=ranking.basis if ranking else "none",
        chosen=board.guidance_note,
        taught=taught_note([best], [column]),
        level=level,
        real=facts.real,
        reconstruction={
            " ".join(filter(None, (c.base, c.better))): number(mean)
            + (f" {TAUGHT}" if best.taught_by(c) else "")
            for c in facts.reconstruction
            if (mean := best.mean(c)) is not None
        },
        baseline=best.generator in facts.baselines,
        rows=len(rows),
        tokenizers=len({row.tokenizer for row in rows}),
    )


def _certainty(rows: list[Row], ranking: Ranking | None, named: _Names) -> tuple[list[str], str, str]:
    """The rows that tie with the best, a sentence about it, and how sure it is."""
    if len(rows) < 2:
        return [], "There is nothing to compare it with.", "unknown"
    if ranking is None:
        return [], "There is one seed and no resampling of its images, so no winner can be named.", "unknown"
    known = [row for row, rank in zip(ranking.rows, ranking.ranks, strict=True) if rank.basis != "none"]
    seeds = min(row.values[ranking.column].n for row in known)
    if not ranking.whole:
        few = "one seed" if seeds == 1 else "one seed of the tokenizer"
        text = f"There is {few}, so no winner can be named."
        return [], text, "unknown"
    tied = [row for row, mark in zip(ranking.rows, ranking.marks, strict=True) if mark == "tied"]
    ties = [named(row) for row in tied if row is not ranking.rows[ranking.best]]
    given = f"{ranking.column.entry['n']:,} images" if ranking.basis == "images" else plural(seeds, "seed")
    if "best" in ranking.marks:
        others = len(ranking.rows) - 1
        rest = {1: "the other one", 2: "both others"}.get(others) or f"all {others} others"
        return ties, f"{given} separate it from {rest} (95 %, corrected for all pairs).", "sure"
    alone = [named(row) for row in ranking.rows if row not in known]
    if alone and not ties:
        text = (
            f"{seeds} seeds separate it from all but {listed(alone, FEW)}, of which there is one seed only."
        )
        return ties, text, "tie"
    tie, of = len(ties) + 1, len(ranking.rows)
    those = ("both rows" if of == 2 else f"all {of} rows") if tie == of else f"{tie} of the {of} rows"
    text = f"A tie: {given} cannot separate {those}."
    if alone:
        text += f" Rows of one seed have an unknown error: {listed(alone, FEW)}."
    return ties, text, "tie"


def _needed(ranking: Ranking, named: _Names) -> str:
    """A sentence on the number of seeds that would separate the best row from the next."""
    rival = ranking.seeds_to_separate()
    if rival is None or rival[1] is None:
        return ""
    return f"About {rival[1]} seeds would separate it from {named(rival[0])}."


def _interval(row: Row, value: Value) -> str:
    """The interval, labelled by the error that it includes."""
    if not value.interval:
        return ""
    label = "sampling noise only" if value.n == 1 else "one tokenizer only"
    if value.n == 1 and not row.trained and not row.generator:
        label = "95 % over images"
    if len({tokenizer_seed(observation.seed) for observation in value.observations}) > 1:
        label = "95 %"
    return f"{label}: {' to '.join(map(number, value.interval))}"


@dataclass(frozen=True)
class _Names:
    """Names of rows that are compared, by what differs between them."""

    tokenizers: bool  # whether they differ
    regularizers: bool

    @classmethod
    def of(cls, rows: list[Row]) -> _Names:
        tokenizers = len({row.tokenizer for row in rows}) > 1
        regularizers = len({row.regularizer for row in rows}) > 1
        alone = any(row.generator or row.trained for row in rows) or not tokenizers
        return cls(tokenizers, regularizers or alone)

    def __call__(self, row: Row) -> str:
        return " · ".join([row.tokenizer] * self.tokenizers + [marked(row)] * self.regularizers)


def _baseline(rows: list[Row], row: Row) -> dict[str, float]:
    """The costs of the same tokenizer without a regularizer; none if that is the row itself."""
    same = [other for other in rows if other.tokenizer == row.tokenizer and other.regularizer == BASELINE]
    return row_costs(same[0]) if same and same[0] is not row else {}


def _seconds(costs: Mapping[str, float]) -> float | None:
    return training_seconds(costs, "prior", "tokenizer", "generator")


def _operations(costs: Mapping[str, float], budget: Mapping[str, Any], generator: str) -> float | None:
    """GFLOP of training the tokenizer with its regularizer and priors, and the generator if there is one."""
    tokenizer = tokenizer_gflop(costs, budget)
    generated = generator_gflop(costs, budget) if generator else 0.0
    return None if tokenizer is None or generated is None else tokenizer + generated


def _times(value: float | None, baseline: float | None, unit: str) -> str:
    return f"×{value / baseline:.2f} {unit}" if value and baseline else ""
