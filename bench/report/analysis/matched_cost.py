"""The rows whose tokenizer takes about as long to train as `none`'s: which of them generate best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from ...leaderboard.cost_table import row_costs
from ...leaderboard.ranking import comparable, on_shared_images
from ...leaderboard.rows import Column, Row
from ...records.record import Record
from ...statistics.significance import Rank, ranks
from . import style
from .board import Board, Entry, caution, in_words, table_of
from .findings import Finding

CONTROL = "none"
MOST = 1.2  # times the control's seconds
LEAST = 3  # rows within them, of which one is the control: fewer say nothing


class Contest(NamedTuple):
    """The rows of one generator: how long each trains over the control, and the ranks of cheap ones."""

    generator: str
    ratios: dict[str, float]  # seconds over those of the control, by label
    entries: list[Entry]  # all that have a ratio, the best first
    cheap: list[Entry]
    ranks: list[Rank]  # of the cheap rows, among each other

    @property
    def tied(self) -> list[str]:
        """The cheap rows that seeds, where there are several, don't separate from the best one."""
        return [entry.label for entry, rank in zip(self.cheap[1:], self.ranks[1:], strict=True) if rank.tied]


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without the control, or where no row or every row trains longer than it."""
    board = Board.of(records)
    contests = [one for g in board.generators() if (one := _contest(board, g)) is not None]
    if not contests or board.column is None:
        return None
    return Finding(
        "matched_cost",
        "Generation at matched cost",
        f"Among rows that train about as long as {CONTROL}, which are best for generation?",
        f"The lowest {board.quality} among rows whose tokenizer takes at most {MOST:g} times the seconds of "
        f"{CONTROL}'s: {'; '.join(map(_answer, contests))}." + caution(board.seeds),
        f"{board.measure}, at each row's best guidance. Seconds are of training the tokenizer and its prior, "
        "the mean over seeds; other work on the same machine disturbs them. Ranks are tested by Holm's "
        "correction over the pairs of rows within the limit, with the error of all rows of the generator.",
        table_of(line for contest in contests for line in _lines(contest, board.column)),
        _figure(board, contests),
        shown=("generator", "regularizer", "seconds over the control's", board.column.name, "rank"),
    )


def seconds(row: Row) -> float | None:
    """The seconds of training a row's tokenizer and its prior; None if they weren't measured."""
    costs = row_costs(row)
    own = costs.get("tokenizer_seconds")
    return None if own is None else own + costs.get("prior_seconds", 0.0)


def _contest(board: Board, generator: str) -> Contest | None:
    controls: dict[str, float] = {}
    for row in board.rows:
        if row.regularizer == CONTROL and (of_control := seconds(row)):
            controls.setdefault(row.tokenizer, of_control)
    known = []
    for entry in sorted(board.with_generator(generator), key=lambda entry: entry.mean):
        own, control = seconds(entry.row), controls.get(entry.tokenizer)
        if own is not None and control is not None:
            known.append((entry, own / control))
    ratios = {entry.label: ratio for entry, ratio in known}
    cheap = [entry for entry, ratio in known if ratio <= MOST]
    if len(cheap) < LEAST or len(cheap) == len(known) or board.column is None:
        return None
    entries = [entry for entry, _ in known]
    among, _ = comparable([entry.value.observations for entry in entries], board.column)
    own_values = [among[entries.index(entry)] for entry in cheap]
    ranked = ranks(own_values, False, on_shared_images(board.column), among=among)
    return Contest(generator, ratios, entries, cheap, ranked)


def _answer(contest: Contest) -> str:
    tied = f", tied with {in_words(contest.tied, 2)}" if contest.tied else ""
    count = f"{len(contest.cheap)} of {len(contest.entries)} rows"
    return f"with {contest.generator} {contest.cheap[0].label}{tied} ({count})"


def _lines(contest: Contest, column: Column) -> list[dict[str, object]]:
    texts = {entry.label: rank.text for entry, rank in zip(contest.cheap, contest.ranks, strict=True)}
    return [
        {
            "generator": contest.generator,
            "regularizer": entry.label,
            "seconds": seconds(entry.row),
            "seconds over the control's": contest.ratios[entry.label],
            column.name: entry.mean,
            f"{column.name} std": entry.value.std,
            "rank": texts.get(entry.label, ""),
        }
        for entry in contest.entries
    ]


def _figure(board: Board, contests: Sequence[Contest]) -> Figure:
    """All rows by cost and quality; the best row within the limit and those that tie with it have names."""
    figure, axes = style.panels_of_many(len(contests), [entry.label for entry in board.entries])
    for ax, contest in zip(axes, contests, strict=True):
        dots = [
            style.Dot(e.label, contest.ratios[e.label], e.mean, None, e.value.std) for e in contest.entries
        ]
        style.logarithmic(ax, "x", [dot.x for dot in dots])
        ax.axvline(MOST, color=style.FAINT, lw=0.8, ls=":", zorder=0)
        style.draw_many(ax, dots, {contest.cheap[0].label, *contest.tied})
        style.captions(ax, contest.generator, f"seconds over {CONTROL}'s", f"{board.quality} ↓")
    style.key_of_many(figure, f"the lowest within {MOST:g} times, and ties")
    return figure
