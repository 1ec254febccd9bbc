"""How well a signal foretells generation quality: tau, r, and rho given reconstruction, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...statistics.correlation import (
    partial,
    partial_p,
    pearson,
    signs,
    spearman_of_signs,
    tau_b,
    tau_of_signs,
    tau_p,
)
from ...statistics.correlation_power import rows_needed
from ...statistics.observations import Array
from ...statistics.significance import ALPHA, holm
from ...statistics.two_levels import Resamples, correlation_interval, resample
from . import style
from .board import Board
from .proxy_signals import LEAST, ByRow, Comparison, Quality, Signal

RESAMPLES = 999
BEYOND = 1e6  # in place of an infinite value, times the largest finite one


@dataclass(frozen=True)
class Estimate:
    """A correlation, positive where the better goes with the better; its interval is over rows and seeds."""

    value: float
    interval: tuple[float, float] | None  # None where all resamples agree, as of a perfect order
    p: float = math.nan


@dataclass(frozen=True)
class Fidelity:
    """The correlations of one signal with the quality of one generator or of all."""

    signal: Signal
    target: str
    tau: Estimate  # like all others within shapes alone if numbers of several don't compare
    r: Estimate  # NaN where a value is infinite
    given_reconstruction: Estimate  # Spearman's rho; NaN of the reconstruction itself and with too few rows
    within: Estimate | None  # tau of pairs of rows with latents of one shape; None if all have the same
    shapes: int  # of latents, the most in one folder
    without_one: tuple[float, float]  # lowest and highest tau with one family of regularizers left out
    rows: int
    seeds: int  # the most of a row
    folders: int = 1
    tests: int = 1  # signals of this target, which Holm's correction is over
    corrected: float = math.nan  # tau's p, by Holm over the signals of the target
    all_tests: int = 1
    corrected_over_all: float = math.nan  # by Holm over the signals of all targets

    @property
    def sure(self) -> bool:
        """Whether tau is beyond chance, by Holm."""
        return self.corrected < ALPHA

    @property
    def within_alone(self) -> bool:
        """Whether only rows of one shape of latents are compared, as the signal asks for."""
        return self.signal.one_shape and self.shapes > 1

    @property
    def needed(self) -> int | None:
        """The rows with which this tau, if true, is told from 0 with 80 % power at Holm's first level."""
        return rows_needed(self.tau.value, ALPHA / self.tests)


@dataclass(frozen=True)
class Study:
    """The fidelities of all signals of one or several boards, whose rows are compared within each alone."""

    boards: tuple[Board, ...]
    compared: tuple[dict[str, Comparison], ...]  # of each board, by target
    fidelities: list[Fidelity]
    target: str  # all generators, or the only one


@dataclass(frozen=True)
class _Number:
    """A number of n rows: first as it is, then in each of B resamples."""

    order: Array  # (1 + B, n), higher is better; any monotone function of it has the same tau
    level: Array  # (1 + B, n), whose r is taken


@dataclass(frozen=True)
class _Block:
    """The rows of one results folder: nothing is compared across folders."""

    labels: list[str]
    shapes: list[str]
    counts: Array  # (1 + B, n): how often each row is taken
    signal: _Number
    quality: _Number
    reconstruction: _Number | None
    seeds: int


def measured(folders: Sequence[Comparison]) -> list[Fidelity]:
    """The fidelity of each signal that isn't constant and that at least four rows have, by Holm over all."""
    named: dict[str, list[tuple[Quality, Signal]]] = {}
    for quality, signals in folders:
        for signal in signals:
            name = signal.name if len(folders) == 1 else signal.shared_name
            named.setdefault(name, []).append((quality, signal))
    fidelities = [f for pairs in named.values() if (f := fidelity(pairs)) is not None]
    if len(folders) > 1:
        fidelities = [replace(f, signal=replace(f.signal, name=f.signal.shared_name)) for f in fidelities]
    corrected = holm([f.tau.p for f in fidelities]).tolist()
    tests = len(fidelities)
    return [replace(f, tests=tests, corrected=p) for f, p in zip(fidelities, corrected, strict=True)]


def over_all(fidelities: Sequence[Fidelity]) -> list[Fidelity]:
    """The fidelities of all targets with p by Holm over all of them, too."""
    corrected, tests = holm([f.tau.p for f in fidelities]).tolist(), len(fidelities)
    return [
        replace(f, corrected_over_all=p, all_tests=tests) for f, p in zip(fidelities, corrected, strict=True)
    ]


def fidelity(pairs: Sequence[tuple[Quality, Signal]]) -> Fidelity | None:
    """One signal's correlations with quality, within the folders that have both.

    None without a folder with four rows, and if the signal or the quality is constant in all.
    """
    blocks = [b for i, (quality, signal) in enumerate(pairs) if (b := _block(quality, signal, i)) is not None]
    if not blocks:
        return None
    counts = np.hstack([b.counts for b in blocks])
    folders = np.repeat(np.arange(len(blocks)), [len(b.labels) for b in blocks])
    named = [f"{folder} {shape}" for folder, b in enumerate(blocks) for shape in b.shapes]
    by_shape = np.unique(named, return_inverse=True)[1]
    quality, signal = pairs[0]
    strata = by_shape if signal.one_shape else folders
    x, y = (_joined([getattr(b, name) for b in blocks]) for name in ("signal", "quality"))
    pairs_x, pairs_y = _signs(x, strata), _signs(y, strata)
    tau = _estimate(tau_of_signs(pairs_x, pairs_y, counts))
    if not math.isfinite(tau.value):
        return None
    within = None
    if len(set(named)) > len(blocks):
        same = (by_shape[:, None] == by_shape).astype(np.float32)
        within = _estimate(tau_of_signs(pairs_x * same, pairs_y * same, counts))
        if math.isfinite(within.value):
            within = replace(within, p=tau_p(x.order[0], y.order[0], by_shape))
    return Fidelity(
        signal,
        quality.target,
        replace(tau, p=tau_p(x.order[0], y.order[0], strata)),
        _estimate(pearson(x.level, y.level, counts, strata)),
        _given(blocks, pairs_x, pairs_y, counts, strata),
        within,
        max(len(set(b.shapes)) for b in blocks),
        _without_one(blocks, x, y, strata),
        len(folders),
        max(b.seeds for b in blocks),
        len(blocks),
    )


def rounded(value: float | None) -> float | None:
    """Four digits, of which tables and files need no more; None for no number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _estimate(values: Array) -> Estimate:
    """The first value, and the interval of the others."""
    value = float(values[0])
    return Estimate(value, correlation_interval(value, values[1:]) if math.isfinite(value) else None)


def _signs(number: _Number, strata: NDArray[np.int64]) -> NDArray[np.float32]:
    """The signs of all pairs, (n, n) where the number is the same in all resamples, else (1 + B, n, n)."""
    constant = bool((number.order == number.order[0]).all())
    return signs(number.order[0] if constant else number.order, strata)


def _given(
    blocks: Sequence[_Block],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    counts: Array,
    strata: NDArray[np.int64],
) -> Estimate:
    """Spearman's rho given the distance of reconstructions; NaN if some folder has none."""
    numbers = [b.reconstruction for b in blocks if b.reconstruction is not None]
    if len(numbers) < len(blocks):
        return Estimate(math.nan, None)
    z = _signs(_joined(numbers), strata)
    rho = partial(*(spearman_of_signs(a, b, counts) for a, b in ((x, y), (x, z), (y, z))))
    p = partial_p(float(rho[0]), len(strata), len(np.unique(strata)))
    return replace(_estimate(rho), p=p) if math.isfinite(p) else Estimate(math.nan, None)


def _without_one(
    blocks: Sequence[_Block], x: _Number, y: _Number, strata: NDArray[np.int64]
) -> tuple[float, float]:
    """The lowest and the highest tau with one family of regularizers, whose rows are alike, left out."""
    families = np.array([style.family(label.rpartition(" · ")[2]) for b in blocks for label in b.labels])
    left = np.array([families != family for family in dict.fromkeys(families)], dtype=float)
    taus = tau_b(x.order[0], y.order[0], left, strata)
    taus = taus[np.isfinite(taus)] if np.isfinite(taus).any() else np.array([math.nan])
    return float(taus.min()), float(taus.max())


def _joined(numbers: Sequence[_Number]) -> _Number:
    """Rows of several folders side by side."""
    return _Number(np.hstack([n.order for n in numbers]), np.hstack([n.level for n in numbers]))


def _block(quality: Quality, signal: Signal, seed: int) -> _Block | None:
    """The rows of a folder that have the signal and the quality; None if they are fewer than four."""
    both = set(signal.labels())
    labels = [label for label in quality.labels() if label in both]
    if len(labels) < LEAST:
        return None
    y = _table(quality.parts, labels)
    units = sorted({unit for part in quality.parts for label in labels for unit in part[label]})
    x = _table(signal.parts, labels, units)
    has: NDArray[np.bool_] = (~np.isnan(y)).sum(axis=0) > 0
    shared: NDArray[np.bool_] = has & ((~np.isnan(x)).sum(axis=0) > 0)
    draws = resample(np.where(shared.sum(axis=1)[:, None] > 0, shared, has), RESAMPLES, seed)
    other = quality.reconstruction
    z = None
    if other is not None and other.name != signal.name and set(labels) <= set(other.labels()):
        z = _number(_table(other.parts, labels, units), draws, other.sign or 1.0, other.logarithmic)
    return _Block(
        labels,
        [quality.shapes.get(label, "") for label in labels],
        np.vstack([np.ones(len(labels)), draws.rows]),
        _number(x, draws, signal.sign or 1.0, signal.logarithmic),
        _number(y, draws, -1.0, True),
        z,
        int(shared.sum(1).max()),
    )


def _table(parts: Sequence[ByRow], labels: Sequence[str], units: Sequence[str] = ()) -> Array:
    """(parts, rows, units): a number's values, NaN where there is none.

    A row that has none of the units' values has its mean in all of them.
    """
    units = units or sorted({unit for part in parts for label in labels for unit in part[label]})
    table = np.full((len(parts), len(labels), len(units)), np.nan)
    for g, part in enumerate(parts):
        for i, label in enumerate(labels):
            known = [part[label].get(unit, math.nan) for unit in units]
            common = float(np.mean(list(part[label].values())))
            table[g, i] = known if not np.isnan(known).all() else common
    return table


def _number(values: Array, draws: Resamples, sign: float, logarithmic: bool) -> _Number:
    """The rows' means (parts, n, units) -> (1 + B, n); of several parts the mean rank and standard score."""
    unbounded = np.isinf(values).any()
    if unbounded:
        finite = np.abs(values[np.isfinite(values)]).max(initial=0.0)
        values = np.nan_to_num(
            values, nan=np.nan, posinf=BEYOND * (1 + finite), neginf=-BEYOND * (1 + finite)
        )
    means = np.concatenate([np.nanmean(values, axis=-1)[:, None], draws.means(values)], axis=1)
    level = sign * (np.log(means) if logarithmic else means)
    if len(values) == 1:
        order = sign * means[0]
        level = level[0]
    else:
        order = np.mean([signs(sign * part).sum(-1) for part in means], axis=0)
        centre, scale = level[:, :1].mean(-1, keepdims=True), level[:, :1].std(-1, keepdims=True)
        level = np.mean((level - centre) / np.where(scale > 0, scale, 1), axis=0)
    return _Number(order, np.full_like(level, np.nan) if unbounded else level)
