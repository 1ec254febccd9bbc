"""Guidance in an interval of times, and autoguidance, beside plain guidance of the same generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...leaderboard.numbers import number, plural
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, spread, table_of
from .findings import Finding

PLAIN = "plain"
COLOURS = (style.INK, "#0080c6", "#d95f02", "#1b9e77", "#9467bd", "#b8860b")  # of kinds, the plain one first


@dataclass(frozen=True)
class Guided:
    """A row with its kind of guidance, and the row that is guided plainly but otherwise alike, if any."""

    entry: Entry
    kind: str  # `plain`, `interval 0.3–1`, `by small after 200 steps`
    family: str  # the label of the generator that is guided plainly
    plain: Entry | None

    @property
    def gains(self) -> list[float]:
        """How far each seed lies below the same seed of the plain row; empty without one."""
        if self.plain is None or self.plain is self.entry:
            return []
        own, plain = of_seeds(self.entry), of_seeds(self.plain)
        return [plain[seed] - value for seed, value in own.items() if seed in plain]


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None where no row has an interval or autoguidance."""
    board = Board.of(records)
    rows = guided_rows(board)
    if not rows or board.column is None:
        return None
    return Finding(
        "guidance_kinds",
        "Kinds of guidance",
        "Does guidance in an interval of times, or by a worse model, improve on plain guidance?",
        _answer(rows, board) + caution(board.seeds),
        f"{board.measure}. Rows are compared with the row of the same tokenizer, regularizer and training "
        "that is sampled alike, but guided plainly: by the absence of a label, with one w at all times. Each "
        "row is at its own best w, by the other seeds' samples where it is scored at several. `below plain` "
        "is the mean difference of equal seeds, with its standard deviation over seeds.",
        table_of(_line(row, board.column.name) for row in rows),
        _figure(rows, board.column.name),
    )


def guided_rows(board: Board) -> list[Guided]:
    """The rows of families with several kinds, by family, row and kind; empty without an unusual kind."""
    known = {
        record.cell["generator"]: record.provenance["guided"]
        for record in board.records
        if record.provenance.get("guided")
    }
    entries = {(e.tokenizer, e.regularizer, e.generator): e for e in board.entries}
    rows = []
    for entry in board.entries:
        guided = known.get(entry.generator, {})
        family = guided.get("like") or entry.generator
        plain = (
            entries.get((entry.tokenizer, entry.regularizer, family)) if guided.get("like", family) else None
        )
        rows.append(Guided(entry, kind_text(guided, entry.generator), family, plain))
    families = [row.family for row in rows if row.kind != PLAIN]
    kept = [row for row in rows if row.family in families]
    first = {name: place for place, name in enumerate(dict.fromkeys(row.family for row in kept))}
    return sorted(kept, key=lambda r: (first[r.family], r.entry.label, r.kind != PLAIN, r.kind))


def kind_text(guided: dict[str, Any], generator: str) -> str:
    """A kind of guidance in words, from the `guided` of a record's provenance."""
    parts = []
    if "interval" in guided:
        parts.append("interval {:g}–{:g}".format(*guided["interval"]))
    if "by" in guided:
        model = "its own weights" if guided["by"] == generator else guided["by"]
        after = f" after {guided['snapshot']:,} steps" if "snapshot" in guided else ""
        parts.append(f"by {model}{after}")
    return ", ".join(parts) or PLAIN


def of_seeds(entry: Entry) -> dict[str, float]:
    """Each seed's value, at the guidance that the other seeds choose where there are several."""
    if not entry.choice.by_seed:
        return entry.value.by_seed
    return {seed: entry.values[w].by_seed[seed] for seed, w in entry.choice.by_seed.items()}


def _line(row: Guided, quality: str) -> dict[str, object]:
    values, gains = [*of_seeds(row.entry).values()], row.gains
    return {
        "generator": row.family,
        "regularizer": row.entry.label,
        "guidance": row.kind,
        "row": row.entry.generator,
        "w": f"{row.entry.guidance:g}",
        quality: float(np.mean(values)),
        f"{quality} std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        "below plain": float(np.mean(gains)) if gains else None,
        "below plain std": float(np.std(gains, ddof=1)) if len(gains) > 1 else None,
    }


def _answer(rows: Sequence[Guided], board: Board) -> str:
    sentences = []
    for family in dict.fromkeys(row.family for row in rows):
        group = [row for row in rows if row.family == family]
        best = min(group, key=lambda row: float(np.mean([*of_seeds(row.entry).values()])))
        values = [*of_seeds(best.entry).values()]
        text = f"With {family} the lowest mean {board.quality} is {best.entry.label}'s with "
        text += f"{_called(best.kind)}, {spread(values)} (n = {len(values)})"
        if best.gains:
            text += f", {_below(best.gains)}"
        sentences += [f"{text}.", *_by_kind(group)]
    return " ".join(sentences)


def _called(kind: str) -> str:
    return f"{kind} guidance" if kind == PLAIN else f"guidance {kind}"


def _below(gains: Sequence[float]) -> str:
    side = "below" if np.mean(gains) >= 0 else "above"
    signed = [*gains] if side == "below" else [-gain for gain in gains]
    return f"{spread(signed)} {side} plain guidance"


def _by_kind(group: Sequence[Guided]) -> list[str]:
    """For each kind, in how many rows the mean lies below that of plain guidance, and in all their seeds."""
    found = []
    for kind in dict.fromkeys(row.kind for row in group if row.kind != PLAIN):
        gains = [row.gains for row in group if row.kind == kind and row.gains]
        if not gains:
            found.append(f"Guidance {kind} has no row with plain guidance beside it.")
            continue
        means = [float(np.mean(one)) for one in gains]
        lower, in_all = sum(mean > 0 for mean in means), sum(min(one) > 0 for one in gains)
        text = f"Guidance {kind} is better in {lower} of {plural(len(gains), 'row')}"
        if max(map(len, gains)) > 1:
            text += f" ({in_all} in all seeds)"
        median = float(np.median(means))
        side = "below" if median >= 0 else "above"
        found.append(f"{text}; the median row is {number(abs(median))} {side} plain guidance.")
    return found


def _figure(rows: Sequence[Guided], quality: str) -> Figure:
    """A panel for each generator: lines over w, coloured by kind, marked by row; a ring at the chosen w."""
    families = list(dict.fromkeys(row.family for row in rows))
    kinds = [PLAIN, *dict.fromkeys(row.kind for row in rows if row.kind != PLAIN)]
    colours = {kind: COLOURS[place % len(COLOURS)] for place, kind in enumerate(kinds)}
    figure, axes = style.panels(len(families), 2.5, columns=2)
    looks = style.row_looks(row.entry.regularizer for row in rows)
    for ax, family in zip(axes, families, strict=True):
        entries = [(row.entry, row.kind) for row in rows if row.family == family]
        for entry, kind in entries:
            ws = sorted(entry.values)
            look = {**looks[entry.regularizer], "color": colours[kind], "markersize": 4}
            if look["markerfacecolor"] != "none":
                look["markerfacecolor"] = colours[kind]
            means = [entry.values[w].mean or 0.0 for w in ws]
            spreads = [entry.values[w].std or 0.0 for w in ws]
            ax.errorbar(ws, means, yerr=spreads, lw=1.2, elinewidth=0.7, **look)
            ax.plot(entry.guidance, entry.mean, "o", ms=9, mfc="none", mec=style.INK, mew=0.8)
        style.logarithmic(ax, "y", [v.mean or 0.0 for entry, _ in entries for v in entry.values.values()])
        ax.set_xticks(sorted({w for entry, _ in entries for w in entry.values}))
        style.captions(ax, family, "guidance w", f"{quality} ↓")
    lines = {_called(kind): {"color": colour} for kind, colour in colours.items()}
    marks = {name: {**look, "color": style.INK, "markerfacecolor": "none"} for name, look in looks.items()}
    style.key(figure, lines | marks, columns=2 if len(families) == 1 else 4)
    return figure
