"""The strength of each family that generates best: the trials of a regularizer's options, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ...leaderboard.baselines import baselines
from ...leaderboard.collapse import no_active_channel
from ...leaderboard.rows import Column
from ...records.labels import number_in, options_in
from ...records.record import Record
from . import style
from .board import Board, Entry, caution, in_words, most, table_of
from .findings import Finding
from .interaction import complete


@dataclass(frozen=True)
class Trial:
    """A row of a family with its entry of each generator."""

    entries: dict[str, Entry]

    @property
    def first(self) -> Entry:
        return next(iter(self.entries.values()))

    @property
    def mean(self) -> float:
        """The geometric mean of the distances over the generators."""
        return float(np.exp(np.mean([np.log(entry.mean) for entry in self.entries.values()])))

    @property
    def inactive(self) -> bool:
        return no_active_channel(self.first.row)

    @property
    def options(self) -> dict[str, str]:
        return options_in(self.first.regularizer)


def finding(records: Sequence[Record] | Board) -> Finding | None:
    """None without a family that has several rows, which differ in options."""
    board = Board.of(records)
    trials = _trials(board)
    families = {name: group for name, group in trials.items() if len(group) > 1}
    if not families or board.column is None:
        return None
    generators = list(next(iter(families.values()))[0].entries)
    taken = {name: best(group) for name, group in families.items()}
    ends = [name for name, trial in taken.items() if trial is not None and at_the_end(trial, families[name])]
    none_active = [name for name, trial in taken.items() if trial is None]
    one = len(ends) == 1
    answer = f"Several strengths were tried of {', '.join(families)}. "
    answer += (
        f"{in_words(ends, 30)} {'is' if one else 'are'} best at the end of what was tried." if ends else ""
    )
    answer += f" No strength of {in_words(none_active)} left an active channel." if none_active else ""
    psnr = most(board.rows, lambda column: column.name == "PSNR")
    return Finding(
        "strengths",
        "Strengths of each family",
        "Which strength of each regularizer generates best over the generators?",
        answer.rstrip() + caution(board.seeds),
        f"{board.measure}, at each row's best guidance; the mean is geometric over {in_words(generators)}. A "
        "family's rows differ in options. Taken is the row of the least mean among those with an active "
        "channel in all seeds. A row is at the end if an option that was tried at three values or more has "
        "its least or greatest one.",
        table_of(
            _line(name, trial, trial is taken.get(name), at_the_end(trial, group), psnr)
            for name, group in trials.items()
            for trial in group
        ),
        _figure(trials, taken, board.quality),
    )


def _trials(board: Board) -> dict[str, list[Trial]]:
    """The rows by family, each with the generators that half of the rows have; baselines are left out."""
    last = baselines(board.rows)
    block = complete([entry for entry in board.entries if entry.generator not in last])
    families: dict[str, list[Trial]] = {}
    for label in block.labels if block.generators else ():
        trial = Trial({generator: block.entries[label, generator] for generator in block.generators})
        name = board.label(trial.first.tokenizer, style.family(trial.first.regularizer))
        families.setdefault(name, []).append(trial)
    return families


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the least mean among those with an active channel; None if there is none."""
    return min((trial for trial in trials if not trial.inactive), key=lambda trial: trial.mean, default=None)


def at_the_end(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether an option that was tried at three numbers or more has its least or greatest one."""
    for name, text in trial.options.items():
        tried = {number_in(other.options.get(name, "")) for other in trials} - {None}
        if len(tried) > 2 and number_in(text) in (min(tried), max(tried)):  # type: ignore[type-var]
            return True
    return False


def _line(name: str, trial: Trial, taken: bool, end: bool, psnr: Column | None) -> dict[str, object]:
    row = trial.first.row
    note = "no active channel" if trial.inactive else "at the end" if taken and end else ""
    return {
        "family": name,
        "regularizer": trial.first.label,
        **({psnr.described: row.mean(psnr)} if psnr else {}),
        **{generator: entry.mean for generator, entry in trial.entries.items()},
        "mean": trial.mean,
        "taken": "yes" if taken else "",
        "note": note,
    }


def _figure(trials: dict[str, list[Trial]], taken: dict[str, Trial | None], quality: str) -> Figure:
    """A line for each family, the best on top, with a point for each of its rows; the taken one is filled."""
    names = sorted(trials, key=lambda name: -min(trial.mean for trial in trials[name]))
    figure = Figure(figsize=(style.WIDTH, 0.24 * len(names) + 0.8), layout="constrained")
    figure.patch.set_alpha(0)
    ax = figure.subplots()
    style.plain(ax)
    for place, name in enumerate(names):
        means = [trial.mean for trial in trials[name]]
        ax.plot([min(means), max(means)], [place, place], color=style.FAINT, lw=0.8)
        for trial in trials[name]:
            fill = style.ACCENT if trial is taken.get(name) else "white"
            edge = style.FAINT if trial.inactive else style.ACCENT
            above = 3 if trial is taken.get(name) else 2  # the filled point covers equal ones
            ax.plot(trial.mean, place, "x" if trial.inactive else "o", mfc=fill, mec=edge, ms=5, zorder=above)
        chosen = taken.get(name)
        if chosen is not None and chosen.options:
            style.write(ax, chosen.mean, place, ", ".join(chosen.options.values()), size=5.5)
    style.logarithmic(ax, "x", [trial.mean for group in trials.values() for trial in group])
    style.categories(ax.yaxis, names)
    style.captions(ax, "", f"geometric mean of {quality} over the generators")
    looks = {"taken": style.ACCENT, "tried": "white", "no active channel": ""}
    style.key(
        figure,
        {
            text: {
                "color": style.ACCENT if fill else style.FAINT,
                "marker": "o" if fill else "x",
                "markerfacecolor": fill or "none",
                "linestyle": "",
            }
            for text, fill in looks.items()
        },
    )
    return figure
