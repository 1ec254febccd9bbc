"""Cheap numbers of rows that might foretell generation quality, and the quality that they are set against.

signal     a number of each row and seed that is known before a generator is trained to its end
quality    the generation distance of each row and seed, of one generator or of several
unit       a seed of a tokenizer's training, or of a generator's where all share one tokenizer: a signal and
           the quality of a unit come from the same training
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...leaderboard.columns import COSTS
from ...leaderboard.rows import Column, Value, grouped
from ...records.record import Record
from ...statistics.observations import Observation, mean
from .board import Board, Entry

LEAST = 4  # rows; with three, tau has four values
POOLED = "all generators"
SIDES = {"above": math.inf, "below": -math.inf}  # of a limit
DISTANCES = re.compile(r"(r|i|prior_)FI?D(_.*)?")  # positive and skewed: r is of their logarithms
# Metrics of trained generators that cost no samples worth judging: signals for that generator alone.
OF_GENERATORS = ("straightness", "efficiency", "matched_loss")
# Numbers that depend on the numbers of tokens and channels by their definition.
ONE_SHAPE = re.compile(r"VIV(_one_class)?|SIGReg|SWD_normal|(prior|kNN)_.*|generator loss .*")

ByRow = Mapping[str, Mapping[str, float]]  # {row label: {unit: value}}


@dataclass(frozen=True)
class Signal:
    """A number of rows and seeds; of several generators, as parts, whose ranks are averaged."""

    name: str
    sign: float | None  # 1 if higher is declared to be better, -1 if lower; None: no direction
    parts: tuple[ByRow, ...]
    shared_name: str = ""  # in several folders, whose generation is judged by networks of their own

    @property
    def logarithmic(self) -> bool:
        """Whether r is of the logarithm: of Fréchet distances that are all positive and finite."""
        values = [value for part in self.parts for seeds in part.values() for value in seeds.values()]
        return bool(DISTANCES.fullmatch(_base(self.name))) and all(0 < v < math.inf for v in values)

    @property
    def one_shape(self) -> bool:
        """Whether numbers of latents of different shapes don't compare, by the signal's definition."""
        return bool(ONE_SHAPE.fullmatch(_base(self.name)))

    def labels(self) -> list[str]:
        """The rows that all parts have."""
        return [label for label in self.parts[0] if all(label in part for part in self.parts)]


@dataclass(frozen=True)
class Quality:
    """The generation distance of rows, lower is better, with one generator or, as parts, with several."""

    target: str
    parts: tuple[ByRow, ...]
    shapes: Mapping[str, str] = field(default_factory=dict)  # of latents, by row label
    reconstruction: Signal | None = None  # the distance of reconstructions, which other signals are given

    def labels(self) -> list[str]:
        """The rows that all parts have."""
        return [label for label in self.parts[0] if all(label in part for part in self.parts)]


Comparison = tuple[Quality, list[Signal]]


def comparisons(board: Board, only: str | None = None) -> dict[str, Comparison]:
    """The quality of each target with at least four rows, and its signals, by the target's name.

    The last is of all generators, if there are several and not `only` one is asked for.
    """
    of_seed = _Units(board)
    shapes, latents = latent_shapes(board), _latent_signals(board, of_seed)
    column = board.companion("rFI?D")
    name = column.name if column is not None else ""
    reconstruction = next((s for s in latents if s.name.partition(" (")[0] == name), None)
    found: dict[str, Comparison] = {}
    for generator in board.generators():
        entries = board.with_generator(generator)
        if len(entries) >= LEAST and only in (None, generator):
            rows = {e.label: of_seed.means(e.value, e.label) for e in entries}
            own = [*_path_signals(entries, of_seed), *_loss_signals(board, generator, of_seed)]
            found[generator] = Quality(generator, (rows,), shapes, reconstruction), [*latents, *own]
    if len(found) > 1:
        parts = complete([quality.parts[0] for quality, _ in found.values()])
        named: dict[str, list[Signal]] = {}
        for _, signals in found.values():
            for signal in signals[len(latents) :]:
                named.setdefault(signal.name, []).append(signal)
        pooled = [
            Signal(name, same[0].sign, complete([s.parts[0] for s in same]), name)
            for name, same in sorted(named.items())
        ]
        found[POOLED] = Quality(POOLED, parts, shapes, reconstruction), [*latents, *pooled]
    return found


def complete(parts: Sequence[ByRow]) -> tuple[ByRow, ...]:
    """The generators that have half of the rows of the one with most, for the ranks' mean over generators."""
    most = max(map(len, parts))
    return tuple(part for part in parts if 2 * len(part) >= most)


def latent_shapes(board: Board) -> dict[str, str]:
    """The shape of each row's latents, `16 × 8` for 16 tokens of 8 channels, by its label.

    Records of older versions don't have the shape; rows of one tokenizer share one, so it is named instead.
    """
    shapes = {}
    for record in board.records:
        label = board.label(record.cell["tokenizer"], record.cell["regularizer"])
        shape = record.provenance.get("latent")
        known = f"{shape['tokens']} × {shape['channels']}" if isinstance(shape, dict) else ""
        shapes[label] = known or f"latents of {record.cell['tokenizer']}"
    return shapes


class _Units:
    """The unit of each seed, and observations by it."""

    def __init__(self, board: Board) -> None:
        by_label: dict[str, set[str]] = {}
        for entry in board.entries:
            for observation in entry.value.observations:
                by_label.setdefault(entry.label, set()).add(observation.seed)
        several = any(len({seed.split(".")[0] for seed in seeds}) > 1 for seeds in by_label.values())
        self.depth = 1 if several else 2
        self.by_label = {
            label: dict.fromkeys(map(self.unit, sorted(seeds))) for label, seeds in by_label.items()
        }

    def unit(self, seed: str) -> str:
        return ".".join(seed.split(".")[: self.depth])

    def means(self, value: Value, label: str) -> dict[str, float]:
        """The mean of each unit's observations; a limit that the value lies beyond is infinite.

        A tokenizer's number is that of all generator seeds that share the tokenizer.
        """
        groups: dict[str, list[Observation]] = {}
        for observation in value.observations:
            groups.setdefault(self.unit(observation.seed), []).append(observation)
        means = {unit: mean(group) for unit, group in groups.items()}
        means |= {unit: SIDES[o.bound] for unit, group in groups.items() for o in group if o.bound}
        for unit in self.by_label.get(label, {}):
            tokenizer = unit.split(".")[0]
            if unit not in means and tokenizer in means:
                means[unit] = means[tokenizer]
        known = self.by_label.get(label)
        return {unit: m for unit, m in means.items() if known is None or unit in known} or means


def _latent_signals(board: Board, of_seed: _Units) -> list[Signal]:
    """All scores of tokenizers, but for those of fresh reference samples, which aren't the row's."""
    columns: dict[Column, None] = {c: None for row in board.tokenizers for c in row.values}
    names = [c.name for c in columns]
    judge = board.column.name.partition("[")[2] if board.column is not None else ""
    signals = []
    for column in columns:
        if column.entry.get("unit") in COSTS or "_real" in column.base or column.scope != "tokenizer":
            continue
        name = column.name if names.count(column.name) == 1 else f"{column.name} ({column.protocol})"
        rows = {}
        for row in board.tokenizers:
            if row.mean(column) is not None:
                label = board.label(row.tokenizer, row.regularizer)
                rows[label] = of_seed.means(row.values[column], label)
        shared = name.removesuffix(f"[{judge}") if judge else name
        signals.append(Signal(name, _sign(column), (rows,), shared))
    return signals


def _path_signals(entries: Sequence[Entry], of_seed: _Units) -> list[Signal]:
    """Numbers of a generator's own paths, at the row's best guidance or at the one that has them."""
    columns: dict[Column, None] = {}
    for entry in entries:
        for row in entry.rows.values():
            columns |= {c: None for c in row.values if c.base in OF_GENERATORS and c.scope == "generator"}
    signals = []
    for column in columns:
        rows = {}
        for entry in entries:
            at = [r for r in (entry.row, *entry.rows.values()) if r.mean(column) is not None]
            if at:
                rows[entry.label] = of_seed.means(at[0].values[column], entry.label)
        signals.append(Signal(column.name, _sign(column), (rows,), column.name))
    return signals


def _sign(column: Column) -> float | None:
    return {"higher": 1.0, "lower": -1.0}.get(column.entry.get("better") or "")


def _loss_signals(board: Board, generator: str, of_seed: _Units) -> list[Signal]:
    """A generator's own loss early and at the end of its training."""
    early: dict[str, dict[str, float]] = {}
    final: dict[str, dict[str, float]] = {}
    records = [r for r in board.records if r.cell["generator"] == generator and r.curves.get("generator")]
    for labels, group in grouped(records, ("tokenizer", "regularizer")).items():
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for record in group:
            if (loss := _loss(record)) is not None:
                found.setdefault(of_seed.unit(record.cell["seed"]), []).append(loss)
        for unit, curves in found.items():
            label = board.label(*labels)
            first = [loss[(0.1 <= at) & (at <= 0.25)].mean() for at, loss in curves]
            early.setdefault(label, {})[unit] = float(np.mean(first))
            final.setdefault(label, {})[unit] = float(
                np.mean([loss[at >= 0.9].mean() for at, loss in curves])
            )
    names = {"generator loss at 10–25 % of its steps": early, "generator loss at the end": final}
    return [Signal(name, -1.0, (rows,), name) for name, rows in names.items() if rows]


def _loss(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Shares of the steps, and the loss's summed terms there; None without early or without finite terms."""
    curve = record.curves["generator"]
    terms = np.array([values for name, values in curve.items() if name != "step"], dtype=float)  # None is nan
    if not terms.size or np.isnan(terms).any():
        return None
    at = np.array(curve["step"], dtype=float) / curve["step"][-1]
    if not ((0.1 <= at) & (at <= 0.25)).any():
        return None
    return at, terms.sum(0)


def _base(name: str) -> str:
    """A signal's name without its extractor and protocol."""
    return name if name.startswith("generator loss") else re.split(r"[@\[ ]", name)[0]
