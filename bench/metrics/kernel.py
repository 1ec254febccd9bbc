"""Kernel distances between sets of features, with replicates: KD (KID's estimator) and CMMD."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..api import Estimate, Unfit
from .bootstrap import counts, narrowed
from .bootstrap import memory_bytes as bootstrap_bytes
from .pairwise import Squares
from .reuse import once

PAIRS = 50_000  # largest number of training images for metrics over pairs of images
KD_SUBSETS, KD_SEED = 100, 2020  # torch-fidelity's defaults
CMMD_SIGMA = 10.0
ROWS = 512  # rows and columns of a kernel at a time, which fit a cache: sums in single precision are short

Kernel = Callable[[Tensor, Tensor], Tensor]


def memory_bytes(n: int, m: int, width: int, classes: int = 0, double: bool = False) -> int:
    """Bytes that a kernel distance of n features to m takes at its peak, beside the features.

    Kernels are computed in small blocks. The subsets' weights aren't small, nor are copies of the features in
    double precision.
    """
    weights = (1 if double else KD_SUBSETS) + classes
    copies = 8 * width * (n + m) if double else 0
    return copies + (8 + 8 + 4) * weights * (n + m) + bootstrap_bytes(n)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The value of `kernel_estimate`, without replicates."""
    subsets = _subsets(len(a), len(b))
    return _discrepancy(_cubic, a.detach().cpu(), b.detach().cpu(), *subsets).unbiased.mean().item()


def kernel_estimate(
    name: str,
    a: Tensor,
    b: Tensor,
    paired: bool = False,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Estimate:
    """Squared MMD with the kernel (x.y / F + 1)^3, the mean over subsets (Binkowski et al., 2018).

    Unbiased, so it may fall below zero; the subsets are those that torch-fidelity draws. Given labels (n,)
    and (m,), each class has the MMD of its images. Paired, it is over all pairs of different images instead:
    a subset would hold images with their own reconstructions, which are nearer than chance.

    Replicates are to the first order in the weights of a and, paired, of b with it, narrowed, and as wide
    as drawing subsets makes values. On digits: 0.9 to 1.2 times as wide as values of new ones.
    """
    a, b = a.detach().cpu(), b.detach().cpu()
    if paired:
        return _paired_estimate(name, a, b)
    classes, left, right = kd_weightings(len(a), len(b), labels)
    return estimate_of(name, _discrepancy(_cubic, a, b, left, right), classes)


def kd_weightings(
    n: int, m: int, labels: tuple[Tensor, Tensor] | None = None
) -> tuple[list[str], Tensor, Tensor]:
    """The classes, and the images of either side in each subset and then in each class: (R, n), (R, m).

    Raises:
        Unfit: there are fewer than 4 images on a side.
    """
    return _weightings(_subsets(n, m), labels)


def estimate_of(name: str, mmd: Discrepancy, classes: list[str]) -> Estimate:
    """The kernel distance of n images with its replicates, from the MMDs by `kd_weightings`."""
    parts, by_class = mmd.unbiased.split([KD_SUBSETS, len(classes)])
    value = parts.mean().item()
    change = narrowed(mmd.change, mmd.second, parts.var().item() / KD_SUBSETS)
    values = dict(zip(classes, by_class.tolist(), strict=True)) or None
    return Estimate(value, value + (counts(name, len(change)) - 1) @ change, values)


def cmmd_estimate(name: str, a: Tensor, b: Tensor, labels: tuple[Tensor, Tensor] | None = None) -> Estimate:
    """1,000 times the squared MMD with a Gaussian kernel of width 10 (Jayasumana et al., 2024).

    Biased, as published: pairs of an image with itself count. Replicates and classes as in `kernel_estimate`.
    """
    a, b = a.detach().cpu().double(), b.detach().cpu().double()  # kernels are all about 1
    everyone = torch.ones(1, len(a)).double(), torch.ones(1, len(b)).double()
    classes, left, right = _weightings(everyone, labels)
    mmd = _discrepancy(_normal, a, b, left, right)
    within_a, within_b = mmd.within
    biased = 1000 * (mmd.unbiased + (1 - within_a) / left.sum(1) + (1 - within_b) / right.sum(1))
    value, by_class = biased[0].item(), biased[1:].tolist()
    change = 1000 * narrowed(mmd.change, mmd.second)
    values = dict(zip(classes, by_class, strict=True)) or None
    return Estimate(value, value + (counts(name, len(a)) - 1) @ change, values)


def _paired_estimate(name: str, a: Tensor, b: Tensor) -> Estimate:
    n = len(a)
    if n < 2:
        raise Unfit(f"the kernel distance of pairs needs 2 of them, not {n}")
    pairs = _within(_paired_cubic, torch.cat([a, b], 1), torch.ones(1, n).double())
    value, change = pairs.means.item(), narrowed(2 / n * pairs.sums / (n - 1), pairs.second())
    return Estimate(value, value + (counts(name, n) - 1) @ change)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / F + 1)^3, torch-fidelity's default."""
    return torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1]).pow_(3)


def _normal(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 * 10^2)), CMMD's."""
    return torch.cdist(x, y).div_(CMMD_SIGMA).square_().div_(-2).exp_()


def _paired_cubic(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of pairs (a, b), (c, d), as rows (n, 2F), whose mean is MMD^2 (Gretton et al., 2012)."""
    (a, b), (c, d) = x.chunk(2, 1), y.chunk(2, 1)
    return (_cubic(a, c) - _cubic(a, d)).add_(_cubic(b, d)).sub_(_cubic(b, c))


def kd_subset_size(n: int, m: int) -> int:
    """Half of the smaller set, at most the usual 1,000."""
    return min(1000, min(n, m) // 2)


def _subsets(n: int, m: int) -> tuple[Tensor, Tensor]:
    """The images in each of the subsets that torch-fidelity draws: (subsets, n), (subsets, m) float64."""
    size = kd_subset_size(n, m)
    if size < 2:
        raise Unfit(f"the kernel distance needs 4 images on either side, not {n} and {m}")
    generator = np.random.RandomState(KD_SEED)
    left, right = torch.zeros(KD_SUBSETS, n).double(), torch.zeros(KD_SUBSETS, m).double()
    for subset in range(KD_SUBSETS):
        for chosen in (left, right):
            chosen[subset, generator.choice(chosen.shape[1], size, replace=False)] = 1
    return left, right


def _weightings(
    sets: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor] | None
) -> tuple[list[str], Tensor, Tensor]:
    """The classes with two images on either side, and both weightings with a row added for each class."""
    if labels is None:
        return [], *sets
    known = [c for c in labels[0].unique().tolist() if c >= 0]
    shared = [c for c in known if all((side == c).sum() > 1 for side in labels)]
    wanted = torch.tensor(shared, dtype=torch.int64)[:, None]
    members = [(side == wanted).double() for side in labels]
    left, right = (torch.cat(rows) for rows in zip(sets, members, strict=True))
    return [str(c) for c in shared], left, right


class Discrepancy(NamedTuple):
    """The squared MMD of two sets, without pairs of an image with itself, by R weightings of both."""

    unbiased: Tensor  # (R,)
    within: tuple[Tensor, Tensor]  # (R,) each, the mean kernel within the one and the other set
    change: Tensor  # (n,) of the one of all images, by an image's weight
    second: float  # its variance to the second order


def _discrepancy(kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Discrepancy:
    between = Between(left, right)
    for rows, columns in product(slices(0, len(a)), slices(0, len(b))):
        between.add(rows, columns, kernel(a[rows], b[columns]))
    return discrepancy(_within(kernel, a, left), _within_reference(kernel, b, right), between)


def discrepancy(own: Pairs, others: Pairs, between: Between) -> Discrepancy:
    """The squared MMD from the kernel within either set, weighted alike, and between them."""
    n, m = len(own.sums), len(others.sums)
    change = 2 / n * (own.sums / (n - 1) - between.sums / m)
    unbiased = own.means + others.means - 2 * between.means
    return Discrepancy(unbiased, (own.means, others.means), change, own.second())


class Pairs(NamedTuple):
    """A kernel over the pairs of different images of a set of n."""

    means: Tensor  # (R,) weighted
    sums: Tensor  # (n,) over the others
    squares: float  # the sum of its squares

    def second(self) -> float:
        """The variance of the mean over all pairs to the second order: U-centred (Szekely & Rizzo, 2014)."""
        n = len(self.sums)
        if n < 4:
            return 0.0
        shifts = 2 * self.sums.square().sum() / (n - 2) - self.sums.sum().square() / ((n - 1) * (n - 2))
        return 2 * max(self.squares - shifts.item(), 0.0) / (n * (n - 3)) / (n * (n - 1))


def _within(kernel: Kernel, a: Tensor, weights: Tensor) -> Pairs:
    """The kernel of pairs of a, weighted by (R, n); pairs of an image with itself don't count."""
    within = Within(weights)
    for rows in slices(0, len(a)):
        for columns in slices(rows.start, len(a)):
            within.add(rows, columns, kernel(a[rows], a[columns]))
    return within.pairs()


_within_reference = once(_within)


class Within:
    """A kernel's sums over the pairs of different images of a set, from the blocks of its upper triangle.

    Args:
        weights: (R, n) zeros and ones, the images that each of R means is over.
    """

    def __init__(self, weights: Tensor) -> None:
        self.chosen, self.sums = Chosen(weights), torch.zeros(weights.shape[1], dtype=torch.float64)
        self.total, self.squares = torch.zeros(len(weights), dtype=torch.float64), 0.0

    def add(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Adds a block (r, c), which this changes; columns start where rows do, or further on."""
        if columns.start == rows.start:
            block.triu_(1)
        weighted = self.chosen.sums(rows, block).mul_(self.chosen.weights[:, columns])
        self.total += 2 * weighted.sum(1, dtype=torch.float64)
        self.sums[rows] += block.sum(1)
        self.sums[columns] += block.sum(0)
        self.squares += 2 * torch.linalg.vector_norm(block, dim=1).double().square_().sum().item()

    def pairs(self) -> Pairs:
        numbers = self.chosen.numbers
        return Pairs(self.total / (numbers.square() - numbers), self.sums, self.squares)


class Between:
    """A kernel's sums over pairs of two sets, from its blocks.

    Args:
        left: (R, n) zeros and ones, the images of the one set that each of R means is over.
        right: (R, m) those of the other set.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = Chosen(left), Chosen(right)
        self.total = torch.zeros(len(left), dtype=torch.float64)
        self.sums = torch.zeros(left.shape[1], dtype=torch.float64)  # (n,) over the other set

    def add(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Adds a block (r, c)."""
        weighted = self.left.sums(rows, block).mul_(self.right.weights[:, columns])
        self.total += weighted.sum(1, dtype=torch.float64)
        self.sums[rows] += block.sum(1)

    @property
    def means(self) -> Tensor:
        return self.total / (self.left.numbers * self.right.numbers)


class Chosen:
    """The images that each of R means is over: weights (R, n) of zeros and ones, and their numbers (R,)."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.numbers = weights.float(), weights.sum(1, dtype=torch.float64)
        self._rows: slice | None = None

    def sums(self, rows: slice, block: Tensor) -> Tensor:
        """(R, c), the sums over the chosen of the images in rows of a block (r, c).

        A subset has few images: to sum their rows takes a quarter of the time of a product with weights.
        """
        if rows != self._rows:  # else of the block before
            mean, image = np.nonzero(self.weights[:, rows].numpy())
            starts = np.searchsorted(mean, np.arange(len(self.weights)))
            self._rows, self._bags = rows, (torch.from_numpy(image), torch.from_numpy(starts))
        return embedding_bag(self._bags[0], block, self._bags[1], mode="sum")


def cubic_of_bounds(squares: Squares) -> Callable[[slice, slice, Tensor], Tensor]:
    """`_cubic` of the pairs in slices of rows and columns, from the bounds (r, c) of their distances."""
    width, dtype = squares.points.shape[1], squares.dtype
    x, y = ((half / width).to(dtype) for half in squares.halves)

    def kernel(rows: slice, columns: slice, below: Tensor) -> Tensor:
        inner = torch.add(y[columns], below, alpha=-0.5 / width).add_(1 + x[rows, None])  # x.y / F + 1
        return inner.pow_(3)

    return kernel


def slices(start: int, stop: int) -> list[slice]:
    return [slice(at, min(at + ROWS, stop)) for at in range(start, stop, ROWS)]
