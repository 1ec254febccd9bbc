"""Lower bounds of all pairwise squared distances by one matrix product; exact values only where needed.

A comparison of distances needs the exact ones only of pairs that the bound leaves undecided. Exact distances
are of differences, in double precision: a product of large numbers would lose the distance of near copies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..runtime.onednn import linear

WIDE = 64  # features, above which the product is in single precision, as it takes most of the time
SPARE = 8  # candidates for the nearest k besides the first k by the bound
MANY = 16  # undecided rows (e.g. of collapsed samples), above which bounds in double precision are tried
GROUP = 32  # numbers of a row whose lowest is looked at first
MOST_FOUND = 2**18  # pairs that are kept before the lowest of them are
MOST = 2**20  # numbers of points at a time that exact distances are taken of


# Takes what a pass has the distances of, and then the bounds of slices of rows and columns before their use.
Watch = Callable[["Squares"], Callable[[slice, slice, Tensor], None]]


def memory_bytes(n: int, m: int, width: int) -> int:
    """Bytes of `Squares` of n points and m others, while the larger set is made."""
    number = 4 if width > WIDE else 8
    return number * (n + m) * (width + 2) + 8 * max(n, m) * width


def memory_bytes_among(n: int, k: int, width: int) -> int:
    """Bytes of `Squares` of a copy of n points, and of `Lowest` with its pairs, of which k are looked for."""
    each = (4 if width > WIDE else 8) + 8
    lowest = 2 * each * n * (k + SPARE) + 3 * (each + 8) * MOST_FOUND
    return memory_bytes(n, n, width) + 4 * n * width + lowest


def exact(points: Tensor, others: Tensor) -> Tensor:
    """(…, n, F), (…, m, F) -> (…, n, m) distances in double precision, the same for a pair in any set."""
    return torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


class Squares:
    """Squared distances of points (n, F) to others (m, F): `below(rows)` are at most the true ones.

    With x and y relative to the mean of the others, |x|^2 + |y|^2 - 2 x.y is one product of F + 2 numbers
    each. It differs from the square of the distance that `exact` computes, in units of half an epsilon times
    |x|^2 + |y|^2 and to the first order, by at most

        2 (F + 2) for its sum, in any order (Higham, 2002, section 3.1), as 2 |x.y| <= |x|^2 + |y|^2,
        2 for rounding x and y, F + 4 for the squares of their norms,
        2 (F + 4) for rounding in `exact`, of a square of at most 2 (|x|^2 + |y|^2),
        2 for rounding the square of a distance that it is compared with.

    `error`, which is subtracted, is above the sum of these, 5 F + 20, by a fifth.
    """

    def __init__(self, points: Tensor, others: Tensor, dtype: torch.dtype | None = None) -> None:
        self.points, self.others = points.detach().cpu(), others.detach().cpu()
        width = self.points.shape[1]
        self.dtype = dtype = dtype or (torch.float32 if width > WIDE else torch.float64)
        self.error = 3 * (width + 4) * torch.finfo(dtype).eps
        centre = self.others.double().mean(0)
        self._right, y = self._lifted(self.others, centre, dtype)
        same = points is others
        self._left, x = (self._right.clone(), y) if same else self._lifted(self.points, centre, dtype)
        self.norms = x, y
        self._left[:, :width] *= -2
        self._left[:, width], self._right[:, width + 1] = (1 - self.error) * x, (1 - self.error) * y

    @staticmethod
    def _lifted(points: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(n, F) -> (n, F + 2) relative to the centre, then ones, and the squared norms (n,) in float64."""
        lifted = torch.ones(len(points), len(centre) + 2, dtype=dtype)
        centred = points - centre  # in double precision
        lifted[:, : len(centre)] = centred
        return lifted, torch.linalg.vector_norm(centred, dim=1).square_()

    def below(self, rows: Tensor | slice, columns: slice = slice(None)) -> Tensor:
        """Lower bounds (r, m) for the points with indices (r,), or in a slice, to others in a slice."""
        return linear(self._left[rows], self._right[columns])

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """(n,), (m,) float64 whose sum x + y is x.y + below / 2, for points as they are, up to rounding."""
        sets = zip((self.points, self.others), self.norms, strict=True)
        squares = ((torch.linalg.vector_norm(some.double(), dim=1).square(), norms) for some, norms in sets)
        x, y = ((square - self.error * norms) / 2 for square, norms in squares)
        return x, y

    def nearest(self, rows: Tensor, below: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Distances to the k nearest others, in order, and their indices, (r, k) each; of equals, the first.

        Candidates are the nearest by the bound. Where the last of them may be nearer than the k-th, the row
        is undecided, and all others are compared.

        Args:
            below: `below(rows)`, infinite where a pair doesn't count.
        """
        lowest, who = _lowest(below, min(k + SPARE, below.shape[1]))
        distances, who, undecided = self.closest(rows, lowest, who, k)
        if len(undecided):
            closest = self.closest_of_all(rows[undecided], below[undecided], k)
            distances[undecided], who[undecided] = closest
        return distances, who

    def closest(self, rows: Tensor, lowest: Tensor, who: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the k nearest of candidates, who they are, and which rows others may be nearer to.

        Args:
            lowest: (r, K) the lowest bounds of the points with indices (r,), infinite where a pair doesn't
                count; `who` (r, K) they are of. No other bound is lower.
        """
        bound, (who, order) = lowest.amax(1), who.sort()
        parts = zip(rows.split(self._few(who.shape[1])), who.split(self._few(who.shape[1])), strict=True)
        distances = torch.cat([self._exact(i, j) for i, j in parts])
        distances = distances.masked_fill_(lowest.gather(1, order).isinf(), torch.inf)
        distances, order = distances.sort(stable=True)
        distances, who = distances[:, :k], who.gather(1, order)[:, :k]
        return distances, who, (distances[:, -1].square() >= bound).nonzero()[:, 0]

    def closest_of_all(self, rows: Tensor, below: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The results of `nearest` for rows whose candidates don't decide it."""
        if len(rows) > MANY and self.dtype != torch.float64:
            closer = Squares(self.points[rows], self.others, torch.float64)
            all_rows = torch.arange(len(rows))
            bounds = closer.below(all_rows).masked_fill_(below.isinf(), torch.inf)
            return closer.nearest(all_rows, bounds, k)
        pairs = zip(self.points[rows], below, strict=True)
        found = [self._row_of_all(point, bounds, k) for point, bounds in pairs]
        distances, who = (torch.stack(parts) for parts in zip(*found, strict=True))
        return distances, who

    def _row_of_all(self, point: Tensor, below: Tensor, k: int) -> tuple[Tensor, Tensor]:
        counts = below.isfinite()
        copies = (counts & (self.others == point).all(1)).nonzero()[:k, 0]
        if len(copies) == k:  # none is nearer
            return torch.zeros(k, dtype=torch.float64), copies
        far = exact(point[None], self.others)[0].masked_fill_(~counts, torch.inf)
        ascending, order = far.sort(stable=True)
        return ascending[:k], order[:k]

    def beside(self, marks: Tensor, below: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Distances of pairs (p,), which lie on the same side of marks (p, K) as the exact ones.

        They are exact only where a mark is within the error of the bound `below` (p,).
        """
        slack = 2 * self.error * (self.norms[0][i] + self.norms[1][j])
        low, squares = below.double(), marks.square()
        distances = (low + slack / 2).clamp_(min=0).sqrt_()
        open_ = ((squares >= low[:, None]) & (squares <= (low + slack)[:, None])).any(1).nonzero()[:, 0]
        for pairs in open_.split(self._few(1)):
            distances[pairs] = exact(self.points[i[pairs], None], self.others[j[pairs], None])[:, 0, 0]
        return distances

    def _exact(self, rows: Tensor, who: Tensor) -> Tensor:
        """Distances of points (r,) to others (r, k) of each."""
        others = self.others.index_select(0, who.flatten()).unflatten(0, who.shape)
        return exact(self.points[rows, None], others)[:, 0]

    def _few(self, others: int) -> int:
        """How many rows, of so many other points each, are compared at a time."""
        return max(1, MOST // (others * self.points.shape[1]))


class Lowest:
    """The k lowest numbers of each of n points, from blocks of pairs, and whom each is with: (n, k) each."""

    def __init__(self, n: int, k: int, dtype: torch.dtype) -> None:
        self.k, self.who = k, torch.zeros(n, k, dtype=torch.int64)
        self.numbers = torch.full((n, k), torch.inf, dtype=dtype)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []  # points, others, numbers

    def set_rows(self, rows: slice, columns: slice, block: Tensor) -> None:
        """The lowest of a block (r, c), for points that have no numbers yet."""
        lowest, who = _lowest(block, width := min(self.k, block.shape[1]))
        self.numbers[rows, :width], self.who[rows, :width] = lowest, who + columns.start

    def add_columns(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Adds the numbers of a block (r, c) that are lower than those of the points in its columns."""
        limits = self.numbers[columns].amax(1)
        lower = torch.nextafter(limits, limits.new_tensor(-torch.inf)).where(limits.isfinite(), limits)
        row, column = pairs_within(block, lower[None])
        self._found.append((column + columns.start, row + rows.start, block[row, column]))
        if sum(len(points) for points, *_ in self._found) > MOST_FOUND:
            self.merge()

    def merge(self) -> None:
        """Has the numbers count that `add_columns` has found so far."""
        if not self._found:
            return
        points, others, numbers = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found = []
        points, order = points.sort(stable=True)
        some, row, counts = points.unique_consecutive(return_inverse=True, return_counts=True)
        if not len(some):
            return
        place = self.k + torch.arange(len(points)) - (counts.cumsum(0) - counts)[row]
        beside = (len(some), int(counts.max()))
        low = torch.cat([self.numbers[some], numbers.new_full(beside, torch.inf)], 1)
        who = torch.cat([self.who[some], others.new_zeros(beside)], 1)
        low[row, place], who[row, place] = numbers[order], others[order]
        self.numbers[some], at = low.topk(self.k, largest=False)
        self.who[some] = who.gather(1, at)


def _lowest(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k lowest of each row of (r, m), in any order, and their places: (r, k) each.

    The k-th lowest of the minima of groups bounds the k-th lowest number from above, and few others lie below
    it. `topk` of all takes three times as long, and torch's minima and comparisons some times NumPy's.
    """
    rows, groups = len(numbers), numbers.shape[1] // GROUP
    if groups < 2 * k:
        return numbers.topk(k, largest=False)
    minima = numbers.numpy()[:, : groups * GROUP].reshape(rows, GROUP, groups).min(1)
    row, column = pairs_within(numbers, torch.from_numpy(np.partition(minima, k - 1)[:, k - 1 : k]))
    counts = row.bincount(minlength=rows)
    if not k <= int(counts.min()) <= int(counts.max()) <= 4 * k:  # many are equal, infinite, or no numbers
        return numbers.topk(k, largest=False)
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    low = numbers.new_full((rows, int(counts.max())), torch.inf)
    columns = torch.zeros(low.shape, dtype=torch.int64)
    low[row, place], columns[row, place] = numbers[row, column], column
    lowest, at = low.topk(k, largest=False)
    return lowest, columns.gather(1, at)


def pairs_within(numbers: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """The places (p,), (p,) of the numbers of (r, m) that are at most their limits, row by row."""
    found = np.flatnonzero(numbers.numpy() <= limits.numpy())
    row, column = np.divmod(found, numbers.shape[1])
    return torch.from_numpy(row), torch.from_numpy(column)
