"""The kernel distance and the metrics of neighbours of the same features, in one pass over their pairs.

Products of features take most of the time of either: the kernel is a function of the distances' bounds.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..api import Estimate
from .kernel import (
    Between,
    Discrepancy,
    Pairs,
    Within,
    cubic_of_bounds,
    discrepancy,
    estimate_of,
    kd_weightings,
    slices,
)
from .neighbours import Overlap, estimates_of, halves, interleaved, overlap, radii
from .pairwise import Squares, Watch
from .reuse import once


def kernel_and_overlap_estimates(
    kernel_name: str,
    names: dict[str, str],
    generated: Tensor,
    real: Tensor,
    labels: tuple[Tensor, Tensor] | None = None,
) -> tuple[dict[str, Estimate], Tensor]:
    """The results of `kernel_estimate` and `overlap_estimates` for features (n, F) and (m, F).

    Args:
        kernel_name: the full name of KD.
        names: as `overlap_estimates` takes them; the images are 6 on either side at least.
    """
    chosen = halves(names["recall"], len(generated))
    classes, mmd, shares = kernel_and_overlap(generated, real, labels, chosen)
    estimates, nearest = estimates_of(names, shares, chosen, labels)
    return {kernel_name: estimate_of(kernel_name, mmd, classes), **estimates}, nearest


def kernel_and_overlap(
    generated: Tensor,
    real: Tensor,
    labels: tuple[Tensor, Tensor] | None = None,
    choices: Tensor | None = None,
) -> tuple[list[str], Discrepancy, Overlap]:
    """The classes, the MMDs by `kd_weightings`, and the `overlap`, which is the same as without the MMDs.

    The kernel's argument x.y / F + 1 is the difference of numbers up to (|x|^2 + |y|^2) / F. Its error by
    rounding is at most that of the bounds (see `Squares`) over 2 F, and two units in the last place of these.
    """
    classes, left, right = kd_weightings(len(generated), len(real), labels)
    real_radii, others = _reference(real, right)
    order = interleaved(len(generated))
    own, between = Within(left[:, order]), Between(left, right)
    shares = overlap(
        generated, real, labels, choices, real_radii=real_radii, among=_adding(own), between=_adding(between)
    )
    return classes, discrepancy(_in_order(own.pairs(), order), others, between), shares


@once
def _reference(real: Tensor, weights: Tensor) -> tuple[Tensor, Pairs]:
    """The radii of real features (m, F), and their kernel by weights (R, m)."""
    order = interleaved(len(real))
    within = Within(weights[:, order])
    return radii(real, _adding(within)), _in_order(within.pairs(), order)


def _in_order(pairs: Pairs, order: Tensor) -> Pairs:
    """Sums (n,) of images as they are, from those of images in an order (n,)."""
    return pairs._replace(sums=pairs.sums[order.argsort()])


def _adding(sums: Within | Between) -> Watch:
    """Adds the kernel of pairs whose bounds a pass shows; within a set, those of the upper triangle."""

    def watch(squares: Squares) -> Callable[[slice, slice, Tensor], None]:
        kernel = cubic_of_bounds(squares)

        def show(rows: slice, shown: slice, below: Tensor) -> None:
            start = rows.start if isinstance(sums, Within) else shown.start
            for columns in slices(start, shown.stop):
                block = below[:, columns.start - shown.start : columns.stop - shown.start]
                sums.add(rows, columns, kernel(rows, columns, block))

        return show

    return watch
