"""The rows of like reconstruction: which of them generate best, decibel by decibel of PSNR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from ...leaderboard.rows import Column
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, most, table_of
from .contest import Contest, contest
from .findings import Finding

LEAST = 3  # rows of a band, and two such bands of a generator: fewer say nothing


class Band(NamedTuple):
    """The rows of one generator whose PSNR is in [low, low + 1) dB."""

    generator: str
    low: int
    contest: Contest

    @property
    def name(self) -> str:
        return f"{self.low} to {self.low + 1} dB"


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without a generator that has two bands of three rows."""
    board = Board.of(records)
    psnr = most(board.rows, lambda column: column.name == "PSNR")
    if psnr is None or board.column is None:
        return None
    by_generator = {g: bands(board.with_generator(g), psnr, board.column) for g in board.generators()}
    found = {generator: of_one for generator, of_one in by_generator.items() if len(of_one) > 1}
    if not found:
        return None
    return Finding(
        "matched",
        "Generation at matched reconstruction",
        "Among rows that reconstruct alike, which are best for generation?",
        f"The lowest {board.quality} by PSNR: {'; '.join(map(_answer, found.values()))}."
        + caution(board.seeds),
        f"{board.measure}, at each row's best guidance, among rows whose {psnr.described} lies within the "
        f"same decibel; of {LEAST} rows or more. Ranks are tested by Holm's correction over the pairs of the "
        "band, with the error of all rows of the generator. Rows of a band may still differ by almost 1 dB.",
        table_of(
            line for of_one in found.values() for band in of_one for line in _lines(band, psnr, board.column)
        ),
        _figure(board, found, psnr),
        shown=("generator", "PSNR band", "regularizer", psnr.name, board.column.name, "rank in the band"),
    )


def bands(entries: Sequence[Entry], psnr: Column, column: Column) -> list[Band]:
    """The bands that have enough rows, the best reconstruction first."""
    known = [entry for entry in entries if entry.row.mean(psnr) is not None]
    by_band: dict[int, list[Entry]] = {}
    for entry in known:
        by_band.setdefault(math.floor(entry.row.mean(psnr) or 0.0), []).append(entry)
    return [
        Band(chosen[0].generator, low, contest(chosen, known, column))
        for low, chosen in sorted(by_band.items(), reverse=True)
        if len(chosen) >= LEAST
    ]


def _answer(of_one: Sequence[Band]) -> str:
    parts = [f"at {b.name} {b.contest.winner} (of {len(b.contest.entries)})" for b in of_one]
    return f"with {of_one[0].generator} {', '.join(parts)}"


def _lines(band: Band, psnr: Column, column: Column) -> list[dict[str, object]]:
    return [
        {
            "generator": band.generator,
            "PSNR band": band.name,
            "regularizer": entry.label,
            psnr.name: entry.row.mean(psnr),
            f"{psnr.name} std": entry.row.values[psnr].std,
            column.name: entry.mean,
            f"{column.name} std": entry.value.std,
            "rank in the band": rank.text,
            "rows": len(band.contest.entries),
        }
        for entry, rank in zip(*band.contest, strict=True)
    ]


def _figure(board: Board, found: dict[str, list[Band]], psnr: Column) -> Figure:
    """All rows by PSNR and quality; of each band the best one has its name."""
    figure, axes = style.panels_of_many(len(found), [entry.label for entry in board.entries])
    for ax, (generator, of_one) in zip(axes, found.items(), strict=True):
        entries = [e for e in board.with_generator(generator) if e.row.mean(psnr) is not None]
        dots = [
            style.Dot(e.label, e.row.mean(psnr) or 0.0, e.mean, e.row.values[psnr].std, e.value.std)
            for e in entries
        ]
        for edge in range(math.floor(min(d.x for d in dots)), math.ceil(max(d.x for d in dots)) + 1):
            ax.axvline(edge, color=style.FAINT, lw=0.4, ls=":", zorder=0)
        style.draw_many(ax, dots, {band.contest.entries[0].label for band in of_one})
        style.captions(ax, generator, f"{psnr.name}, dB", f"{board.quality} ↓")
    style.key_of_many(figure, "the lowest of its decibel")
    return figure
