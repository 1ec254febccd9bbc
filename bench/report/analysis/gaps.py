"""Where quality is lost on the way: by reconstructing, by noise in the latent, by modelling the latent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from ...leaderboard.numbers import number
from ...leaderboard.rows import Column
from ...records.record import Record
from . import style
from .board import Board, Entry, by_seed, caution, head, listed, mean_of, plural, tokenizer_seed
from .findings import Finding


class Cause(NamedTuple):
    """What a part of the distance is called, what it says of a row whose largest it is, and its colour."""

    part: str
    verdict: str
    colour: str


CAUSES = {
    "reconstruction": Cause("reconstruction", "reconstruction loses most", "#8a6fc9"),
    "noise": Cause("latent noise", "decoder brittle", "#d99a00"),
    "generation": Cause("generation", "latent hard to model", "#2f8fbf"),
}


@dataclass(frozen=True)
class Gaps:
    """Shares of one entry's distance, in units of that distance; a later step can undo an earlier one."""

    entry: Entry
    clean: float  # rFD
    noise: float | None  # rFD under latent noise, minus rFD
    generation: float  # gFD above the held-out images' own, minus the above
    agreeing: int  # seeds whose largest gap is the mean's
    seeds: int

    @property
    def parts(self) -> dict[str, float]:
        found = {"reconstruction": self.clean, "noise": self.noise, "generation": self.generation}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def cause(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Measures:
    """The columns that a decomposition is made of."""

    clean: Column
    noise: Column | None
    generated: Column
    floor: float | None  # the held-out images' value of `generated`


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without a generation distance and the reconstruction distance of the same features."""
    board = Board.of(records)
    measures = _measures(board)
    if measures is None:
        return None
    found = [gaps for entry in board.entries if (gaps := decompose(entry, measures)) is not None]
    if not found:
        return None
    table = pd.DataFrame([_line(gaps, measures) for gaps in found]).dropna(axis="columns", how="all")
    return Finding(
        "gaps",
        "Where quality is lost",
        "Does a row lose quality by reconstruction, by a decoder that breaks under latent noise, or by a "
        "latent that its generator doesn't model?",
        _answer(found, measures) + caution(board.seeds),
        _method(measures),
        table,
        _figure(found, measures),
    )


def _measures(board: Board) -> Measures | None:
    clean = board.companion("rFI?D")
    if clean is None or board.column is None:
        return None
    # The least noise: more than a generator's errors would hide what it adds.
    noise = min(_noises(board, clean), key=_level, default=None)
    # The generation distance at the reconstructions' n, where it is there.
    same_n = board.companion(rf"gFI?D@{clean.entry['n']}")
    generated = same_n or board.column
    floor = mean_of(board.real, generated) if board.real else None
    return Measures(clean, noise, generated, floor)


def _noises(board: Board, clean: Column) -> list[Column]:
    """The columns of the reconstruction distance under latent noise: rFD_noise_0.2[x]."""
    pattern = rf"{re.escape(head(clean))}_noise_[\d.]+"
    extractor = clean.name.partition("[")[2]
    seen = {c: None for row in board.rows for c in row.values if re.fullmatch(pattern, head(c))}
    return [
        c for c in seen if c.name.partition("[")[2] == extractor and float(head(c).rpartition("_")[2]) > 0
    ]


def _level(noise: Column) -> float:
    """In standard deviations of the latent: the number that the column's name ends in."""
    return float(head(noise).rpartition("_")[2])


def decompose(entry: Entry, measures: Measures) -> Gaps | None:
    """None where the entry lacks one of the numbers."""
    row, floor = entry.row, measures.floor or 0.0
    clean, generated = mean_of(row, measures.clean), mean_of(row, measures.generated)
    noisy = mean_of(row, measures.noise) if measures.noise else None
    if clean is None or generated is None or (measures.noise and noisy is None):
        return None
    before = clean if noisy is None else noisy
    whole = Gaps(entry, clean, None if noisy is None else noisy - clean, generated - floor - before, 0, 0)
    causes = _causes_by_seed(entry, measures, floor)
    return Gaps(entry, whole.clean, whole.noise, whole.generation, Counter(causes)[whole.cause], len(causes))


def _causes_by_seed(entry: Entry, measures: Measures, floor: float) -> list[str]:
    values = entry.row.values
    clean = by_seed(values[measures.clean])
    noisy = by_seed(values[measures.noise]) if measures.noise else {}
    causes = []
    for seed, generated in by_seed(values[measures.generated]).items():
        first = tokenizer_seed(seed)
        if first not in clean or (measures.noise and first not in noisy):
            continue
        before = noisy.get(first, clean[first])
        noise = noisy[first] - clean[first] if first in noisy else None
        causes.append(Gaps(entry, clean[first], noise, generated - floor - before, 0, 0).cause)
    return causes


def _line(gaps: Gaps, measures: Measures) -> dict[str, object]:
    values = gaps.entry.row.values
    return {
        "generator": gaps.entry.generator,
        "regularizer": gaps.entry.label,
        "guidance": gaps.entry.guidance,
        measures.clean.name: gaps.clean,
        measures.noise.name if measures.noise else "rFD_noise": (
            values[measures.noise].mean if measures.noise else None
        ),
        measures.generated.name: values[measures.generated].mean,
        f"{measures.generated.name} std": values[measures.generated].std,
        f"{measures.generated.name} of held-out images": measures.floor,
        "lost by reconstruction": gaps.clean,
        "lost by latent noise": gaps.noise,
        "lost by generation": gaps.generation,
        "largest": CAUSES[gaps.cause].verdict,
        "seeds that agree": f"{gaps.agreeing} of {gaps.seeds}",
    }


def _answer(found: Sequence[Gaps], measures: Measures) -> str:
    parts = []
    for cause in CAUSES:
        mine = [f"{g.entry.label} with {g.entry.generator}" for g in found if g.cause == cause]
        if mine:
            of = f"{len(mine)} of {plural(len(found), 'row')}"
            parts.append(f"{CAUSES[cause].verdict}: {of} ({listed(mine, 3)})")
    split = sum(gaps.agreeing < gaps.seeds for gaps in found)
    doubt = f" In {plural(split, 'row')} the seeds don't agree on it." if split else ""
    return f"By the largest part, {'; '.join(parts)}.{doubt}"


def _method(measures: Measures) -> str:
    generated, clean, noise, floor = measures.generated, measures.clean, measures.noise, measures.floor
    same_n = generated.entry["n"] == clean.entry["n"]
    return " ".join(
        (
            f"Reconstruction: {clean.name} (protocol {clean.protocol}, n = {clean.entry['n']:,}), to "
            "held-out images.",
            f"Latent noise: {noise.name} (protocol {noise.protocol}; {_level(noise):g} standard deviations "
            "of the latent) minus that."
            if noise
            else "Latent noise isn't separated (no evaluator `robustness`): it is in generation.",
            f"Generation: {generated.name} (protocol {generated.protocol}, n = {generated.entry['n']:,}), "
            "at each row's best guidance, to training images, minus those two",
            f"and minus the {number(floor)} that held-out images have."
            if floor is not None
            else f"; held-out images have no {generated.name} to subtract, so it looks worse than it is.",
            "All are distances of the same features, over "
            f"{'equally many' if same_n else 'different numbers of'} images, but to two sets of images, "
            "and Fréchet distances don't add up: compare a part between rows, and parts with each other "
            "by their size alone. A negative part undoes what an earlier one lost.",
        )
    )


def _figure(found: Sequence[Gaps], measures: Measures) -> Figure:
    generators = list(dict.fromkeys(g.entry.generator for g in found))
    most = max(Counter(g.entry.generator for g in found).values())
    figure, axes = style.panels(len(generators), 0.75 + 0.2 * most, columns=2)
    for ax, generator in zip(axes, generators, strict=True):
        mine = sorted(
            (g for g in found if g.entry.generator == generator), key=lambda g: sum(g.parts.values())
        )
        for y, gaps in enumerate(mine):
            right, left = 0.0, 0.0
            for name, value in gaps.parts.items():
                ax.barh(
                    y, value, left=right if value >= 0 else left, height=0.62, color=CAUSES[name].colour, lw=0
                )
                right, left = right + max(value, 0.0), left + min(value, 0.0)
        style.categories(ax.yaxis, [g.entry.label for g in mine])
        ax.set_ylim(most - 0.5, -0.5)
        if any(value < 0 for gaps in mine for value in gaps.parts.values()):
            ax.axvline(0, color=style.INK, lw=0.8)
        above = " above held-out images" if measures.floor is not None else ""
        style.captions(ax, generator, f"{head(measures.generated)}{above}")
    shown = [name for name in CAUSES if any(name in gaps.parts for gaps in found)]
    look = {"marker": "s", "ls": "", "markersize": 7}
    style.key(figure, {CAUSES[name].part: {**look, "color": CAUSES[name].colour} for name in shown})
    return figure
