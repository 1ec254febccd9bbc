"""What a page says first: which regularizer, for which generator, at what cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..markdown import spending
from ..rows import ARROWS, Column, Row, grouped
from ..standings import Contest, contests, rank_texts, seeds_to_separate
from ..tables import cells, first_score, guidance_of, number, ranked, scored

BASELINE = "none"
FEW = 3  # of a tie, named beside the first; the others are counted


@dataclass(frozen=True)
class Verdict:
    """One generator's line, or that of a dataset without any."""

    dataset: str
    generator: str  # empty for tokenizers, where nothing was generated
    name: str  # the best in the mean
    ties: list[str]  # those that can't be told from it
    metric: str
    value: str
    interval: str
    rank: str
    guidance: str
    seconds: str  # of training
    operations: str
    times: str  # both, over the baseline's
    sure: str  # a sentence
    detectable: str  # the difference that these seeds would show with 80 % power
    level: str  # "sure", "tie", "unknown"
    real: str  # the number of as many held-out images, if there is one

    @property
    def named(self) -> list[str]:
        return self.ties if len(self.ties) <= FEW + 1 else self.ties[:FEW]


def verdicts(rows: Sequence[Row], trained: Sequence[Row], budget: Mapping[str, float]) -> list[Verdict]:
    """Of one dataset's rows, a line per generator; of its tokenizers if nothing was generated."""
    scope = "generator" if any(scored(row, "generator") for row in rows if not row.real) else "tokenizer"
    mine = [row for row in (rows if scope == "generator" else trained) if scored(row, scope)]
    column = next(iter(first_score(mine, scope)), None)
    if column is None:
        return []
    real = next((cells(row, [column])[0] for row in rows if row.real and column in row.values), "")
    ours = [r for r in ranked(mine, scope) if not r.real and column in r.values]
    ours = [r for r in ours if r.values[column].mean is not None]
    return [
        _verdict([_best(same, column) for same in grouped(group, LABELS).values()], column, budget, real)
        for group in grouped(ours, ("generator",)).values()
    ]


LABELS = ("tokenizer", "regularizer")


def _best(rows: list[Row], column: Column) -> Row:
    """Of one cell's guidances, the best in the mean."""
    sign = -1 if column.better == ARROWS["higher"] else 1
    return min(rows, key=lambda row: sign * (row.values[column].mean or 0.0))


def _verdict(rows: list[Row], column: Column, budget: Mapping[str, float], real: str) -> Verdict:
    several = len({row.tokenizer for row in rows}) > 1
    held = contests(rows, [column])
    order = held[0].places if held else range(len(rows))
    first = rows[order[0]]
    value = first.values[column]
    ties, sure, level = _certainty(rows, column, held[0] if held else None, several)
    ranks = rank_texts(rows, held, [column])
    mine, base = spending(first), _baseline(rows, first)
    seconds, operations = _seconds(mine), _operations(mine, budget)
    factors = {
        "seconds": _ratio(seconds, _seconds(base)),
        "GFLOP": _ratio(operations, _operations(base, budget)),
    }
    return Verdict(
        dataset=first.dataset,
        generator=first.generator,
        name=_name(first, several),
        ties=ties,
        metric=f"{column.name} {column.better}",
        value=cells(first, [column])[0],
        interval=" to ".join(map(number, value.interval)) if value.interval else "",
        rank=f"{ranks[order[0]]} of {len(rows)}" if ranks[order[0]] else "",
        guidance=guidance_of(first),
        seconds=f"{number(seconds)} s" if seconds else "",
        operations=f"{number(operations)} GFLOP" if operations else "",
        times=", ".join(f"{text} {what}" for what, text in factors.items() if text),
        sure=sure,
        detectable=_detectable(held[0]) if held else "",
        level=level,
        real=real,
    )


def _certainty(
    rows: list[Row], column: Column, contest: Contest | None, several: bool
) -> tuple[list[str], str, str]:
    """Who ties with the best, a sentence about it, and how sure it is."""
    if len(rows) < 2:
        return [], "There is nothing to compare it with.", "unknown"
    if contest is None:
        return [], "One seed, no resamples: no winner can be named.", "unknown"
    tied = [i for i, rank in zip(contest.places, contest.ranks, strict=True) if rank.tied][1:]
    ties = [_name(rows[i], several) for i in tied]
    seeds = min(rows[i].values[column].n for i in contest.places)
    if contest.basis != "seeds":
        few = "One seed" if seeds == 1 else "One tokenizer seed"
        return ties, f"{few}: no winner can be named. The order is that of this run.", "unknown"
    if not ties:
        others = len(contest.places) - 1
        return ties, f"{seeds} seeds tell it from {_all(others)} (95 %, Holm-corrected).", "sure"
    text = f"Tie: {seeds} seeds can't tell {len(ties) + 1} of {len(contest.places)} apart."
    rival = seeds_to_separate(rows, contest)
    if rival and rival[1] is not None:
        text += f" About {rival[1]} would tell it from {_name(rival[0], several)}."
    return ties, text, "tie"


def _detectable(contest: Contest) -> str:
    """Empty with one seed, whose training variance nobody knows."""
    difference = contest.detectable if contest.basis == "seeds" else None
    return number(difference) if difference else ""


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


def _operations(spent: Mapping[str, float], budget: Mapping[str, float]) -> float | None:
    """GFLOP of training the tokenizer with its regularizer, and the generator; not of a prior."""
    if "tokenizer_gflop_per_image" not in spent or not {"batch", "tokenizer_steps"} <= set(budget):
        return None
    image = spent["tokenizer_gflop_per_image"] + spent.get("regularizer_gflop_per_image", 0.0)
    latent = spent.get("generator_gflop_per_latent", 0.0)
    steps = image * budget["tokenizer_steps"] + latent * budget.get("generator_steps", 0)
    return steps * budget["batch"]


def _ratio(one: float | None, other: float | None) -> str:
    return f"×{one / other:.2f}" if one and other else ""
