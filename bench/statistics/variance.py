"""Variances: shares of seeds and images in a metric's variance, and how independent variances add up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .observations import LEVELS, Array, Observations, bound_of


def variance_shares(observations: Observations) -> dict[str, float] | None:
    """The shares of tokenizer, generator and sampling seeds, and of images within the last; their sum is 1.

    Nested analysis of variance with any numbers of seeds: mean squares are equated to their expectations
    (Searle, Casella & McCulloch, Variance Components, 1992, section 5.3); negative components are 0. A level
    that adds no seeds is left out, its variance is in the level above; None if one level is left.
    `images` is the mean variance of the replicates, at most the innermost component, which it is a part of.
    None with a bound, too, whose deviation isn't known.
    """
    groups = _nested_labels(observations)
    if (
        bound_of(observations)
        or len(groups) < 2
        or len(set(next(reversed(groups.values())))) < len(observations)
    ):
        return None
    values = np.array([o.value for o in observations])
    members = [np.ones((1, len(values)))]
    members += [np.array([[x == y for y in g] for x in dict.fromkeys(g)], float) for g in groups.values()]
    projectors = [(m / m.sum(1, keepdims=True)).T @ m for m in members]
    levels = [fine - coarse for coarse, fine in zip(projectors, projectors[1:], strict=False)]
    # E[y' Q y] = sum over levels of their variance * tr(Q M' M)
    expected = [[np.trace(q @ m.T @ m) for m in members[1:]] for q in levels]
    components = np.linalg.solve(expected, [values @ q @ values for q in levels]).clip(0)
    shares = dict(zip(groups, components.tolist(), strict=True))
    if all(len(o.replicates) > 1 for o in observations):
        innermost = next(reversed(shares))
        within = float(np.mean([np.var(o.replicates, ddof=1) for o in observations]))
        shares["images"] = min(within, shares[innermost])
        shares[innermost] -= shares["images"]
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else None


def _nested_labels(observations: Observations) -> dict[str, list[tuple[str, ...]]]:
    """Each observation's group at every level that has more groups than the levels above it."""
    seeds = [tuple(o.seed.split(".")) for o in observations]
    groups: dict[str, list[tuple[str, ...]]] = {}
    most = 1
    for depth, name in enumerate(LEVELS, 1):
        labels = [seed[:depth] for seed in seeds]
        if len(set(labels)) > most:
            groups[name], most = labels, len(set(labels))
    return groups


def image_covariance(replicates: Array) -> Array:
    """(k, n, R) -> (k, k): what the images that all units share add to the covariance of two rows' means.

    Units have errors of their own over the images, which spread over units contains already; so this is the
    mean covariance of different units, and of the same one where there is no other.
    """
    k, _, number = replicates.shape
    if number < 2:
        return np.zeros((k, k))
    present = ~np.isnan(replicates[:, :, 0])
    centred = (replicates - replicates.mean(-1, keepdims=True)) / np.sqrt(number - 1)
    centred[~present], count = 0.0, present.astype(float)
    sums = centred.sum(1)
    same, same_count = np.einsum("anr,bnr->ab", centred, centred), count @ count.T
    other, other_count = sums @ sums.T - same, np.outer(count.sum(1), count.sum(1)) - same_count
    return np.where(other_count > 0, other / np.maximum(other_count, 1), same / np.maximum(same_count, 1))


def difference_variances(covariance: NDArray[np.floating]) -> Array:
    """(k, k) covariance -> (k, k) variance of each difference."""
    variance = covariance.diagonal()
    return variance[:, None] + variance - 2 * covariance


def satterthwaite(*parts: tuple[Any, Any]) -> tuple[Any, Any]:
    """The sum of independent variances with their degrees of freedom, and its own (Satterthwaite, 1946)."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / np.maximum(df, 1) for variance, df in parts)
    known = (spread > 0) & np.isfinite(spread)  # neither no error nor an unknown one
    return total, np.where(known, total**2 / np.where(known, spread, 1), parts[0][1])
