"""The parts of a row's distance: lost by reconstruction, by noise in the latent, by generation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...leaderboard.rows import Column, tokenizer_seed
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, extractor_of, head, in_words, table_of
from .findings import Finding


class Cause(NamedTuple):
    """A part of the distance: its name, the verdict on rows whose largest part it is, and its colour."""

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
    agreeing: int = 0  # seeds whose largest gap is the mean's
    seeds: int = 0

    @property
    def parts(self) -> dict[str, float]:
        parts = {"reconstruction": self.clean, "noise": self.noise, "generation": self.generation}
        return {name: value for name, value in parts.items() if value is not None}

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
    rows = [gaps for entry in board.entries if (gaps := decompose(entry, measures)) is not None]
    if not rows:
        return None
    return Finding(
        "gaps",
        "Where quality is lost",
        "Is a row's quality lost in reconstruction, in a decoder that latent noise breaks, or in latents "
        "that the generator cannot model?",
        _answer(rows, measures) + caution(board.seeds),
        _method(measures) + board.pictured_text,
        table_of(_line(gaps, measures) for gaps in rows),
        _figure([gaps for gaps in rows if gaps.entry in board.pictured], measures),
    )


def _measures(board: Board) -> Measures | None:
    clean = board.companion("rFI?D")
    if clean is None or board.column is None:
        return None
    # The least noise: more than a generator's errors would hide what it adds.
    noise = min(_noises(board, clean), key=_level, default=None)
    # The generation distance at the reconstructions' n, where records have it.
    generated = board.companion(rf"gFI?D@{clean.entry['n']}") or board.column
    floor = board.real.mean(generated) if board.real else None
    return Measures(clean, noise, generated, floor)


def _noises(board: Board, clean: Column) -> list[Column]:
    """The columns of the reconstruction distance under latent noise: rFD_noise_0.2[x]."""
    pattern = rf"{re.escape(head(clean))}_noise_[\d.]+"
    columns = dict.fromkeys(c for row in board.rows for c in row.values if re.fullmatch(pattern, head(c)))
    return [c for c in columns if extractor_of(c) == extractor_of(clean) and _level(c) > 0]


def _level(noise: Column) -> float:
    """The noise in standard deviations of the latent: the number that the column's name ends in."""
    return float(head(noise).rpartition("_")[2])


def decompose(entry: Entry, measures: Measures) -> Gaps | None:
    """None where the entry lacks one of the numbers."""
    row, floor = entry.row, measures.floor or 0.0
    clean, generated = row.mean(measures.clean), row.mean(measures.generated)
    noisy = row.mean(measures.noise) if measures.noise else None
    if clean is None or generated is None or (measures.noise and noisy is None):
        return None
    gaps = _gaps(entry, clean, noisy, generated - floor)
    causes = _causes_by_seed(entry, measures, floor)
    return replace(gaps, agreeing=Counter(causes)[gaps.cause], seeds=len(causes))


def _gaps(entry: Entry, clean: float, noisy: float | None, generated: float) -> Gaps:
    if noisy is None:
        return Gaps(entry, clean, None, generated - clean)
    return Gaps(entry, clean, noisy - clean, generated - noisy)


def _causes_by_seed(entry: Entry, measures: Measures, floor: float) -> list[str]:
    values = entry.row.values
    clean = values[measures.clean].by_seed
    noisy = values[measures.noise].by_seed if measures.noise else {}
    causes = []
    for seed, generated in values[measures.generated].by_seed.items():
        first = tokenizer_seed(seed)
        if first not in clean or (measures.noise and first not in noisy):
            continue
        causes.append(_gaps(entry, clean[first], noisy.get(first), generated - floor).cause)
    return causes


def _line(gaps: Gaps, measures: Measures) -> dict[str, object]:
    values = gaps.entry.row.values
    generated, noise = measures.generated, measures.noise
    return {
        "generator": gaps.entry.generator,
        "regularizer": gaps.entry.label,
        "guidance": gaps.entry.guidance,
        measures.clean.name: gaps.clean,
        **({noise.name: values[noise].mean} if noise else {}),
        generated.name: values[generated].mean,
        f"{generated.name} std": values[generated].std,
        f"{generated.name} of held-out images": measures.floor,
        "lost by reconstruction": gaps.clean,
        "lost by latent noise": gaps.noise,
        "lost by generation": gaps.generation,
        "largest": CAUSES[gaps.cause].verdict,
        "seeds that agree": f"{gaps.agreeing} of {gaps.seeds}",
    }


def _answer(rows: Sequence[Gaps], measures: Measures) -> str:
    parts = []
    for cause in CAUSES:
        names = [f"{g.entry.label} with {g.entry.generator}" for g in rows if g.cause == cause]
        if names:
            share = f"{len(names)} of {plural(len(rows), 'row')}"
            parts.append(f"{CAUSES[cause].verdict}: {share} ({in_words(names, 3)})")
    split = sum(gaps.agreeing < gaps.seeds for gaps in rows)
    doubt = f" In {plural(split, 'row')} the seeds don't agree on it." if split else ""
    return f"Rows by their largest loss: {'; '.join(parts)}.{doubt}"


def _method(measures: Measures) -> str:
    generated, clean, noise, floor = measures.generated, measures.clean, measures.noise, measures.floor
    noise_text = "Latent noise isn't separated (no evaluator `robustness`): it is in generation."
    if noise:
        level = f"{_level(noise):g} standard deviations of the latent"
        noise_text = f"Latent noise: {noise.name} (protocol {noise.protocol}; {level}) minus that."
    floor_text = f"; held-out images have no {generated.name} to subtract, so it looks worse than it is."
    if floor is not None:
        floor_text = f"and minus the {number(floor)} that held-out images have."
    counts = "equally many" if generated.entry["n"] == clean.entry["n"] else "different numbers of"
    return (
        f"Reconstruction is {clean.described}, to held-out images. {noise_text} "
        f"Generation is {generated.described}, at each row's best guidance, to training images, minus "
        f"those two {floor_text} All are distances of the same features, over {counts} images, but to two "
        "sets of images, and Fréchet distances don't add up: compare a part between rows, and parts with "
        "each other by their size alone. A negative part undoes what an earlier one lost."
    )


def _figure(rows: Sequence[Gaps], measures: Measures) -> Figure:
    generators = list(dict.fromkeys(g.entry.generator for g in rows))
    most = max(Counter(g.entry.generator for g in rows).values())
    longest = max(len(gaps.entry.label) for gaps in rows)
    figure, axes = style.panels(len(generators), 0.75 + 0.2 * most, columns=1 if longest > 24 else 2)
    for ax, generator in zip(axes, generators, strict=True):
        bars = [g for g in rows if g.entry.generator == generator]
        bars.sort(key=lambda g: sum(g.parts.values()))
        for y, gaps in enumerate(bars):
            right, left = 0.0, 0.0
            for name, value in gaps.parts.items():
                start = right if value >= 0 else left
                ax.barh(y, value, left=start, height=0.62, color=CAUSES[name].colour, lw=0)
                right, left = right + max(value, 0.0), left + min(value, 0.0)
        style.categories(ax.yaxis, [g.entry.label for g in bars])
        ax.set_ylim(most - 0.5, -0.5)
        if any(value < 0 for gaps in bars for value in gaps.parts.values()):
            ax.axvline(0, color=style.INK, lw=0.8)
        above = " above held-out images" if measures.floor is not None else ""
        style.captions(ax, generator, f"{head(measures.generated)}{above}")
    shown = [name for name in CAUSES if any(name in gaps.parts for gaps in rows)]
    look = {"marker": "s", "ls": "", "markersize": 7}
    style.key(figure, {CAUSES[name].part: {**look, "color": CAUSES[name].colour} for name in shown})
    return figure
