"""The rows whose tokenizer takes about as long to train as `none`'s: which of them generate best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from ...leaderboard.cost_table import row_costs, training_seconds
from ...leaderboard.rows import Column, Row
from ...records.record import Record
from ..verdict import BASELINE
from . import style
from .board import Board, Entry, caution, table_of
from .contest import Contest, contest
from .findings import Finding

MOST = 1.2  # times the control's seconds
LEAST = 3  # rows within them, of which one is the control: fewer say nothing


class Field(NamedTuple):
    """The rows of one generator, the best first, and those that train about as long as the control."""

    entries: list[Entry]
    ratios: dict[str, float]  # seconds over those of the control, by label
    cheap: Contest

    @property
    def generator(self) -> str:
        return self.entries[0].generator


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without the control, or where no row or every row trains longer than it."""
    board = Board.of(records)
    if (column := board.column) is None:
        return None
    fields = [one for g in board.generators() if (one := _field(board, g, column)) is not None]
    if not fields:
        return None
    return Finding(
        "matched_cost",
        "Generation at matched cost",
        f"Among rows that train about as long as {BASELINE}, which are best for generation?",
        f"The lowest {board.quality} among rows whose tokenizer takes at most {MOST:g} times the seconds of "
        f"{BASELINE}'s: {'; '.join(map(_answer, fields))}." + caution(board.seeds),
        f"{board.measure}, at each row's best guidance. Seconds are of training the tokenizer and its prior, "
        "the mean over seeds; other work on the same machine disturbs them. Ranks are tested by Holm's "
        "correction over the pairs of rows within the limit, with the error of all rows of the generator.",
        table_of(line for field in fields for line in _lines(field, column)),
        _figure(board, fields),
        shown=("generator", "regularizer", "seconds over the control's", column.name, "rank"),
    )


def _seconds(row: Row) -> float | None:
    return training_seconds(row_costs(row), "prior", "tokenizer")


def _field(board: Board, generator: str, column: Column) -> Field | None:
    rows = [row for row in board.rows if row.regularizer == BASELINE]
    controls = {row.tokenizer: seconds for row in rows if (seconds := _seconds(row))}
    ratios, entries = {}, []
    for entry in sorted(board.with_generator(generator), key=lambda entry: entry.mean):
        own, control = _seconds(entry.row), controls.get(entry.tokenizer)
        if own is not None and control is not None:
            ratios[entry.label] = own / control
            entries.append(entry)
    cheap = [entry for entry in entries if ratios[entry.label] <= MOST]
    if len(cheap) < LEAST or len(cheap) == len(entries):
        return None
    return Field(entries, ratios, contest(cheap, entries, column))


def _answer(field: Field) -> str:
    count = f"{len(field.cheap.entries)} of {len(field.entries)} rows"
    return f"with {field.generator} {field.cheap.winner} ({count})"


def _lines(field: Field, column: Column) -> list[dict[str, object]]:
    texts = {entry.label: rank.text for entry, rank in zip(*field.cheap, strict=True)}
    return [
        {
            "generator": entry.generator,
            "regularizer": entry.label,
            "seconds": _seconds(entry.row),
            "seconds over the control's": field.ratios[entry.label],
            column.name: entry.mean,
            f"{column.name} std": entry.value.std,
            "rank": texts.get(entry.label, ""),
        }
        for entry in field.entries
    ]


def _figure(board: Board, fields: Sequence[Field]) -> Figure:
    """All rows by cost and quality; the best row within the limit and those that tie with it have names."""
    figure, axes = style.panels_of_many(len(fields), [entry.label for entry in board.entries])
    for ax, field in zip(axes, fields, strict=True):
        dots = [style.Dot(e.label, field.ratios[e.label], e.mean, None, e.value.std) for e in field.entries]
        style.logarithmic(ax, "x", [dot.x for dot in dots])
        ax.axvline(MOST, color=style.FAINT, lw=0.8, ls=":", zorder=0)
        style.draw_many(ax, dots, {field.cheap.entries[0].label, *field.cheap.tied})
        style.captions(ax, field.generator, f"seconds over {BASELINE}'s", f"{board.quality} ↓")
    style.key_of_many(figure, f"the lowest within {MOST:g} times, and ties")
    return figure
