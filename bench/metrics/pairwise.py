"""Squared distances of all pairs of two sets from below, by one matrix product, and the exact ones of few.

A comparison of distances needs the exact ones only of pairs that the bound leaves open. Those are of
differences, in double precision: a product of large numbers would lose the distance between near copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.onednn import linear

WIDE = 64  # features, above which the product is in single precision, as it takes most of the time
SPARE = 8  # candidates for the nearest k besides the first k by the bound
MANY = 16  # rows that the bound leaves open, as where samples collapsed, for which a closer one is made
MOST = 2**20  # numbers of points at a time that exact distances are taken of


def exact(points: Tensor, others: Tensor) -> Tensor:
    """(…, n, F), (…, m, F) -> (…, n, m) distances in double precision, the same for a pair in any set."""
    return torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


class Squares:
    """Squared distances of points (n, F) to others (m, F): `below(rows)` are at most the true ones.

    Of x and y from the mean of the others, |x|^2 + |y|^2 - 2 x.y is one product of F + 2 numbers each. It
    differs from the square of the distance that `exact` computes, in units of half an epsilon times
    |x|^2 + |y|^2 and to the first order, by at most

        2 (F + 2) for its sum, in any order (Higham, 2002, section 3.1), as 2 |x.y| <= |x|^2 + |y|^2,
        2 for rounding x and y, F + 4 for the squares of their norms,
        2 (F + 4) for rounding in `exact`, of a square of at most 2 (|x|^2 + |y|^2),
        2 for rounding the square of a distance that it is compared with.

    `error`, which is taken off, is above the sum of these, 5 F + 20, by a fifth.
    """

    def __init__(self, points: Tensor, others: Tensor, dtype: torch.dtype | None = None) -> None:
        self.points, self.others = points.detach().cpu(), others.detach().cpu()
        width = self.points.shape[1]
        self.dtype = dtype = dtype or (torch.float32 if width > WIDE else torch.float64)
        self.error = 3 * (width + 4) * torch.finfo(dtype).eps
        centre = self.others.double().mean(0)
        (self._left, one), (self._right, two) = (
            self._lifted(some, centre, dtype) for some in (self.points, self.others)
        )
        self.norms = one, two
        self._left[:, :width] *= -2
        self._left[:, width], self._right[:, width + 1] = (1 - self.error) * one, (1 - self.error) * two

    @staticmethod
    def _lifted(some: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(n, F) -> (n, F + 2), from the centre and with ones behind, and (n,) squared norms in float64."""
        lifted = torch.ones(len(some), len(centre) + 2, dtype=dtype)
        centred = some - centre  # in double precision
        lifted[:, : len(centre)] = centred
        return lifted, torch.linalg.vector_norm(centred, dim=1).square_()

    def below(self, rows: Tensor) -> Tensor:
        """(r,) indices of points -> (r, m)."""
        return linear(self._left[rows], self._right)

    def nearest(self, rows: Tensor, below: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`below(rows)`, infinite where a pair doesn't count -> (r, k) distances, in order, and who they are.

        Of equally near ones, the first. Candidates are the nearest by the bound; if the last of them may be
        nearer than the k-th, all others are.
        """
        some = min(k + SPARE, below.shape[1])
        lowest, who = below.topk(some, largest=False)
        bound, who = lowest.amax(1), who.sort().values
        parts = zip(rows.split(self._few(some)), who.split(self._few(some)), strict=True)
        found = torch.cat([exact(self.points[i, None], self.others[j])[:, 0] for i, j in parts])
        found = found.masked_fill_(below.gather(1, who).isinf(), torch.inf)
        found, order = found.sort(stable=True)
        found, who = found[:, :k], who.gather(1, order)[:, :k]
        open_ = (found[:, -1].square() >= bound).nonzero()[:, 0]
        if len(open_) > MANY and self.dtype != torch.float64:
            closer = Squares(self.points[rows[open_]], self.others, torch.float64)
            every = torch.arange(len(open_))
            again = closer.below(every).masked_fill_(below[open_].isinf(), torch.inf)
            found[open_], who[open_] = closer.nearest(every, again, k)
            return found, who
        for row in open_.tolist():
            point, counts = self.points[rows[row]], below[row].isfinite()
            copies = (counts & (self.others == point).all(1)).nonzero()[:k, 0]
            if len(copies) == k:  # none is nearer
                found[row], who[row] = 0, copies
                continue
            far = exact(point[None], self.others)[0].masked_fill_(~counts, torch.inf)
            distances, order = far.sort(stable=True)
            found[row], who[row] = distances[:k], order[:k]
        return found, who

    def beside(self, marks: Tensor, below: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """(p,) distances of pairs by `below` (p,), on the same side of marks (p, K) as the exact ones.

        They are exact where a mark is within the error.
        """
        slack = 2 * self.error * (self.norms[0][i] + self.norms[1][j])
        low, squares = below.double(), marks.square()
        found = (low + slack / 2).clamp_(min=0).sqrt_()
        open_ = ((squares >= low[:, None]) & (squares <= (low + slack)[:, None])).any(1).nonzero()[:, 0]
        for some in open_.split(self._few(1)):
            found[some] = exact(self.points[i[some], None], self.others[j[some], None])[:, 0, 0]
        return found

    def _few(self, each: int) -> int:
        """Rows of `each` points at a time."""
        return max(1, MOST // (each * self.points.shape[1]))
