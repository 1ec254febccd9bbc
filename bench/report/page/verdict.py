"""What a page says first: which regularizer, for which generator, at what cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...leaderboard.columns import cells, first_score, guidance_of, ranked, scored
from ...leaderboard.cost_table import spending
from ...leaderboard.guidance import judged, told
from ...leaderboard.numbers import number
from ...leaderboard.ranking import Ranking, rank_texts, rankings, seeds_to_separate
from ...leaderboard.rows import Column, Row, Value, grouped
from ...leaderboard.training_cost import generator_gflop, tokenizer_gflop

BASELINE = "none"
FEW = 3  # of a tie, named beside the first; the others are counted


@dataclass(frozen=True)
class Verdict:
    """One generator's line, or that of a dataset without any."""

    dataset: str
    generator: str  # empty for tokenizers, where nothing was generated
    name: str  # the best in the mean
    ties: list[str]  # the others that may be the best
    metric: str
    value: str
    interval: str  # with what error it counts
    rank: str  # only where seeds stand behind it
    guidance: str
    seconds: str  # of training
    operations: str  # of training, priors included
    times: str  # both, over the baseline's
    sure: str  # a sentence
    detectable: str  # the difference that these seeds would show with 80 % power
    chosen: str  # how the guidance of its dataset's rows was chosen
    level: str  # "sure", "tie", "unknown"
    real: str  # the number of as many held-out images, if there is one

    @property
    def named(self) -> list[str]:
        return self.ties if len(self.ties) <= FEW + 1 else self.ties[:FEW]


def verdicts(rows: Sequence[Row], trained: Sequence[Row], budget: Mapping[str, Any]) -> list[Verdict]:
    """Of one dataset's rows, a line per generator; of its tokenizers if nothing was generated."""
    scope = "generator" if any(scored(row, "generator") for row in rows if not row.real) else "tokenizer"
    mine = [row for row in (rows if scope == "generator" else trained) if scored(row, scope)]
    column = next(iter(first_score(mine, scope)), None)
    if column is None:
        return []
    real = next((cells(row, [column])[0] for row in rows if row.real and column in row.values), "")
    choices = judged(mine)
    chosen = told(mine, choices.items())
    ours = [mine[place] for place in choices if column in mine[place].values]
    ours = ranked([row for row in ours if row.values[column].mean is not None], scope)
    return [_verdict(group, column, budget, real, chosen) for group in grouped(ours, ("generator",)).values()]


def _verdict(rows: list[Row], column: Column, budget: Mapping[str, Any], real: str, chosen: str) -> Verdict:
    several = len({row.tokenizer for row in rows}) > 1
    held = rankings(rows, [column])
    first = rows[held[0].places[0] if held else 0]
    ties, sure, level = _certainty(rows, column, held[0] if held else None, several)
    sound = bool(held) and held[0].basis == "seeds"
    rank = rank_texts(rows, held, [column])[held[0].places[0]] if sound else ""
    mine, base = spending(first), _baseline(rows, first)
    seconds, operations = _seconds(mine), _operations(mine, budget, first.generator)
    factors = {
        "seconds": _ratio(seconds, _seconds(base)),
        "GFLOP": _ratio(operations, _operations(base, budget, first.generator)),
    }
    return Verdict(
        dataset=first.dataset,
        generator=first.generator,
        name=_name(first, several),
        ties=ties,
        metric=f"{column.name} {column.better}",
        value=cells(first, [column])[0],
        interval=_interval(first.values[column]),
        rank=f"{rank} of {len(rows)}" if rank else "",
        guidance=guidance_of(first),
        seconds=f"{number(seconds)} s" if seconds else "",
        operations=f"{number(operations)} GFLOP" if operations else "",
        times=", ".join(f"{text} {what}" for what, text in factors.items() if text),
        sure=sure,
        detectable=held[0].detectable if sound else "",  # of one seed nobody knows the training variance
        chosen=chosen,
        level=level,
        real=real,
    )


def _certainty(
    rows: list[Row], column: Column, contest: Ranking | None, several: bool
) -> tuple[list[str], str, str]:
    """Who ties with the best, a sentence about it, and how sure it is."""
    if len(rows) < 2:
        return [], "There is nothing to compare it with.", "unknown"
    if contest is None:
        return [], "One seed, no resamples: no winner can be named.", "unknown"
    seeds = min(rows[i].values[column].n for i in contest.places)
    if contest.basis != "seeds":
        few = "One seed" if seeds == 1 else "One tokenizer seed"
        return [], f"{few}: no winner can be named. The order is that of this run.", "unknown"
    tied = [i for i, mark in zip(contest.places, contest.marks, strict=True) if mark == "tied"]
    ties = [_name(rows[i], several) for i in tied if i != contest.places[0]]
    if "best" in contest.marks:
        others = len(contest.places) - 1
        return ties, f"{seeds} seeds tell it from {_all(others)} (95 %, Holm-corrected).", "sure"
    counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
    text = f"Tie: {counted} can't tell {len(ties) + 1} of {len(contest.places)} apart."
    rival = seeds_to_separate(rows, contest)
    if rival and rival[1] is not None:
        text += f" About {rival[1]} would tell it from {_name(rival[0], several)}."
    return ties, text, "tie"


def _interval(value: Value) -> str:
    """With what it counts: of one seed the images alone, of one tokenizer's generators not the tokenizer."""
    if not value.interval:
        return ""
    trained = {observation.seed.split(".")[0] for observation in value.observations}
    few = "sampling noise only" if value.n == 1 else "one tokenizer only"
    return f"{'95 %' if len(trained) > 1 else few}: {' to '.join(map(number, value.interval))}"


def _all(others: int) -> str:
    return "the other" if others == 1 else f"all {others} others"


def _name(row: Row, several: bool) -> str:
    return f"{row.tokenizer} · {row.regularizer}" if several else row.regularizer


def _baseline(rows: list[Row], row: Row) -> dict[str, float]:
    """What the same tokenizer without a regularizer takes; nothing if that is the row itself."""
    same = [other for other in rows if other.tokenizer == row.tokenizer and other.regularizer == BASELINE]
    return spending(same[0]) if same and same[0] is not row else {}


def _seconds(spent: Mapping[str, float]) -> float | None:
    if "tokenizer_seconds" not in spent:
        return None
    return sum(spent.get(f"{stage}_seconds", 0.0) for stage in ("prior", "tokenizer", "generator"))


def _operations(spent: Mapping[str, float], budget: Mapping[str, Any], generator: str) -> float | None:
    """GFLOP of training the tokenizer with its regularizer and priors, and the generator if there is one."""
    tokenizer = tokenizer_gflop(spent, budget)
    generated = generator_gflop(spent, budget) if generator else 0.0
    return None if tokenizer is None or generated is None else tokenizer + generated


def _ratio(one: float | None, other: float | None) -> str:
    return f"×{one / other:.2f}" if one and other else ""
