"""Metrics of nearest neighbours among features: precision, recall, density, coverage, copies and classes.

Precision and recall are Kynkaanniemi et al.'s (2019), density and coverage Naeem et al.'s (2020).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..api import Estimate, seed_for
from . import pairwise
from .bootstrap import REPLICATES, class_means, counts, mean_estimate
from .names import base_name
from .pairwise import SPARE, WIDE, Lowest, Squares, Watch, pairs_within
from .precision_recall import NEIGHBORHOOD
from .reuse import once

NEAREST = 5  # k of density, coverage and the agreement of labels
ROWS = 256  # of distances at a time
PARTS = 4  # of points, among which neighbours are looked for
PAIRS = 2**16  # of images at a time
REACH = 24  # neighbours to keep so that the third in a random half is among them (fails once in 60,000)
WORD = 60  # choices in one integer, a bit each


def neighbour_protocol(name: str) -> dict[str, Any]:
    """The settings that a metric of neighbours depends on besides the features and their numbers."""
    base = base_name(name)
    if base == "memorisation":
        return {"ties": "half"}
    return {"k": NEIGHBORHOOD if base in ("precision", "recall") else NEAREST}


def memory_bytes(n: int, m: int, heldout: int, width: int) -> int:
    """Bytes that the overlap of n generated features with m real ones takes, and then memorisation.

    Distances come in blocks of rows; which real images they hold is kept for all choices of generated ones.
    """
    number = 4 if width > WIDE else 8
    block = (
        ROWS * m * (3 * number + 1 + 8)
    )  # bounds, limits, whether they are kept, and some pairs of indices
    choices = 1 + REPLICATES
    words = -(-choices // WORD)
    held = m * (3 * 8 * WORD * words + 8 * choices)
    balls = n * (REACH + 1) * (16 + 8 * words) + choices * n
    return max(
        pairwise.memory_bytes_among(m, NEAREST, width) + block,
        pairwise.memory_bytes_among(n, REACH, width) + block * n // m,
        pairwise.memory_bytes(n, m, width) + block + balls,
        pairwise.memory_bytes(heldout, m, width) + block,
        number * (n + m) * (width + 2) + balls + held,
    )


def interleaved(n: int) -> Tensor:
    """An order (n,) of n points whose parts are alike, although the points may be sorted by class."""
    return torch.cat([torch.arange(first, n, PARTS) for first in range(PARTS)])


def neighbours(points: Tensor, k: int, watch: Watch | None = None) -> tuple[Tensor, Tensor]:
    """Distances of points (n, F) to their k nearest others, in order, and the others' indices: (n, k).

    Products of two parts of the points are computed once, for the neighbours of both. The last part is the
    first to find its own: few points of the parts before it are then near enough to count.

    Args:
        watch: is shown the bounds among the points in the order of `interleaved`. The columns begin with the
            part that the rows are in.
    """
    n, order = len(points), interleaved(len(points))
    points = points.detach().cpu()[order]
    squares = Squares(points, points)
    show = watch(squares) if watch else None
    lowest = Lowest(n, min(k + SPARE, n - 1), squares.dtype)
    sizes = [len(range(first, n, PARTS)) for first in range(PARTS)]
    for part in range(PARTS - 1, -1, -1):
        start, stop = sum(sizes[:part]), sum(sizes[: part + 1])
        columns, later = slice(start, n), slice(stop, n)
        for rows in (slice(first, min(first + ROWS, stop)) for first in range(start, stop, ROWS)):
            below = squares.below(rows, columns)
            if show:
                show(rows, columns, below)
            below[:, rows.start - start :].fill_diagonal_(torch.inf)  # not itself
            lowest.set_rows(rows, columns, below)
            lowest.add_columns(rows, later, below[:, stop - start :])
        lowest.merge()
    distances, who, undecided = squares.closest(torch.arange(n), lowest.numbers, lowest.who, k)
    for rows in undecided.split(ROWS) if len(undecided) else ():
        below = squares.below(rows)
        below[torch.arange(len(rows)), rows] = torch.inf
        distances[rows], who[rows] = squares.closest_of_all(rows, below, k)
    back = order.argsort()
    return distances[back], order[who][back]


def radii(points: Tensor, watch: Watch | None = None) -> Tensor:
    """Distances of points (n, F) to the third and the fifth of the other points, (n, 2)."""
    return neighbours(points, NEAREST, watch)[0][:, [NEIGHBORHOOD - 1, NEAREST - 1]]


_radii_of_reference = once(radii)


def nearest(queries: Tensor, bank: Tensor) -> Tensor:
    """Euclidean distances of (n, F) to the nearest bank entry (m, F), (n,), in double precision."""
    squares, blocks = Squares(queries, bank), torch.arange(len(queries)).split(ROWS)
    return torch.cat([squares.nearest(rows, squares.below(rows), 1)[0][:, 0] for rows in blocks])


_nearest_to_reference = once(nearest)


def memorisation_estimate(
    name: str, near: Tensor, heldout: Tensor, train: Tensor, labels: Tensor | None = None
) -> Estimate:
    """P(d(sample, nearest train) < d(held-out, nearest train)) over random pairs, ties half, from features.

    0.5 if samples lie as far from the training set as new data does, 1 if they are copies of it. This is the
    Mann-Whitney U statistic over the number of pairs.

    Args:
        near: (n,) the samples' distances to the nearest training image.
    """
    far = _nearest_to_reference(heldout, train).sort().values
    below, upto = torch.searchsorted(far, near), torch.searchsorted(far, near, right=True)
    return mean_estimate(name, 1 - (below + upto) / (2 * len(far)), labels)


# --- overlap ------------------------------------------------------------------------------------------------


def overlap_estimates(
    names: dict[str, str], generated: Tensor, real: Tensor, labels: tuple[Tensor, Tensor] | None = None
) -> tuple[dict[str, Estimate], Tensor]:
    """The metrics by their full names, and (n,) distances from generated to the nearest real images.

    Precision, density and label agreement are means over generated images, by the class that was asked for;
    recall and coverage are shares of real images, by their class. Replicates leave real balls as they are.

    Args:
        names: full names by base name, of all of precision, recall, density, coverage, label_agreement.
    """
    chosen = halves(names["recall"], len(generated))
    return estimates_of(names, overlap(generated, real, labels, chosen), chosen, labels)


def estimates_of(
    names: dict[str, str], shares: Overlap, chosen: Tensor, labels: tuple[Tensor, Tensor] | None
) -> tuple[dict[str, Estimate], Tensor]:
    """The results of `overlap_estimates`, from the overlap of n generated images by the choices (R, n)."""
    n = chosen.shape[1]
    requested, classes = labels or (None, None)
    estimates = {
        "precision": mean_estimate(names["precision"], shares.inside, requested),
        "recall": recall_estimate(shares.recall, chosen, classes),
        "density": mean_estimate(names["density"], shares.density, requested),
        "coverage": coverage_estimate(names["coverage"], shares.coverage, n, classes),
    }
    if shares.agreement is not None:
        estimates["label_agreement"] = mean_estimate(names["label_agreement"], shares.agreement, requested)
    return {names[base]: estimate for base, estimate in estimates.items()}, shares.nearest


def recall_estimate(held: Tensor, chosen: Tensor, labels: Tensor | None = None) -> Estimate:
    """The share of real images in the balls of generated ones, from `Overlap.recall` of `halves` (R, n).

    Replicates are its deviations over random halves of the generated images, whose balls reach to neighbours
    in the half: deviations of half a sample spread as those of samples do (McCarthy, 1969). To the first
    order, with balls as they are, spreads were from 0.5 to 2 times the true ones; these from 0.8 to 1.6.
    """
    size, n = int(chosen[0].sum()), chosen.shape[1]
    value, deviations = held[0].mean().item(), held[1:].mean(1)
    deviations = (deviations - deviations.mean()) * math.sqrt(size / max(n - size, 1))
    return Estimate(value, value + deviations, class_means(held[0], labels))


def coverage_estimate(name: str, holders: Tensor, n: int, labels: Tensor | None = None) -> Estimate:
    """The share of real images (m,) whose balls hold any of n generated ones, from `Overlap.coverage`.

    Replicates are to the first order in the weights of the generated images: without one of them, the share
    falls by the real images that it alone is near to.
    """
    count, numbers = holders
    alone = numbers[count == 1].long().bincount(minlength=n).double() / len(count)
    held = (count > 0).double()
    value = held.mean().item()
    return Estimate(value, value + (counts(name, n) - 1) @ alone, class_means(held, labels))


@lru_cache(maxsize=8)
def halves(metric: str, n: int) -> Tensor:
    """Random halves of n items, of four at least, that all rows share: (REPLICATES, n) bool."""
    chosen = torch.zeros(REPLICATES, n, dtype=torch.bool)
    for replicate in range(REPLICATES):
        generator = torch.Generator().manual_seed(seed_for("halves", metric, replicate))
        chosen[replicate, torch.randperm(n, generator=generator)[: max(n // 2, NEIGHBORHOOD + 1)]] = True
    return chosen


class Overlap(NamedTuple):
    """How n generated and m real images overlap; the metrics are means of these."""

    inside: Tensor  # (n,) whether it lies in the ball of any real image, which reaches to its third neighbour
    density: Tensor  # (n,) in how many balls of real images that reach to the fifth it lies, over 5
    nearest: Tensor  # (n,) distance to the nearest real image
    agreement: Tensor | None  # (n,) share of its class among the 5 nearest real images
    recall: Tensor  # (1 + R, m) whether it lies in the ball of any generated image, or of any of a choice
    coverage: Tensor  # (2, m) how many generated images lie in its ball, and the sum of their numbers


def overlap(
    generated: Tensor,
    real: Tensor,
    labels: tuple[Tensor, Tensor] | None = None,
    choices: Tensor | None = None,
    *,
    real_radii: Tensor | None = None,
    among: Watch | None = None,
    between: Watch | None = None,
) -> Overlap:
    """Compares features (n, F) with (m, F), which may have labels, in one pass; 6 on either side at least.

    Args:
        choices: (R, n) sets of generated images whose recall is computed besides that of all.
        real_radii: (m, 2) the `radii` of the real features, if they are known.
        among: is shown the bounds of the distances among generated images.
        between: is shown those from generated to real images.
    """
    n = len(generated)
    chosen = torch.ones(1, n, dtype=torch.bool)
    chosen = chosen if choices is None else torch.cat([chosen, choices])
    recall = RecallOverChoices(generated, chosen, len(real), among)
    balls = BallsOfReal(_radii_of_reference(real) if real_radii is None else real_radii, n)
    squares, nearest_real, agreement = Squares(generated, real), [], []
    show = between(squares) if between else None
    for rows in torch.arange(n).split(ROWS):
        below = squares.below(rows)
        if show:
            show(slice(int(rows[0]), int(rows[-1]) + 1), slice(0, len(real)), below)
        near, who = squares.nearest(rows, below, NEAREST)
        nearest_real.append(near[:, 0])
        if labels is not None:
            agreement.append((labels[1][who] == labels[0][rows][:, None]).double().mean(1))
        # Few pairs are near enough to lie in a ball; only these need their exact distance.
        limits = recall.limits(rows, below)
        torch.maximum(limits, balls.radii[:, 1].square().to(below), out=limits)
        for i, j in zip(*(of.split(PAIRS) for of in pairs_within(below, limits)), strict=True):
            marks = torch.cat([recall.distances[rows[i]], balls.radii[j]], 1)
            distances = squares.beside(marks, below[i, j], rows[i], j)[:, None]
            recall.add(rows[i], j, marks[:, :-2] < distances)
            balls.add(rows[i], j, marks[:, -2:] >= distances)
    return Overlap(
        balls.inside.double(),
        (balls.count / NEAREST).double(),
        torch.cat(nearest_real),
        torch.cat(agreement) if agreement else None,
        recall.held(),
        balls.coverage,
    )


class BallsOfReal:
    """The generated images in the balls of real images, which reach to their third and fifth neighbour."""

    def __init__(self, radii: Tensor, n: int) -> None:
        self.radii = radii  # (m, 2)
        self.inside, self.count, self.coverage = torch.zeros(n), torch.zeros(n), torch.zeros(2, len(radii))

    def add(self, i: Tensor, j: Tensor, within: Tensor) -> None:
        """Counts pairs (p,) of generated i and real j; `within` (p, 2): i is in j's third and fifth ball."""
        third, fifth = within.T
        self.inside[i[third]] = 1
        self.count.index_add_(0, i[fifth], torch.ones(int(fifth.sum())))
        self.coverage.index_add_(1, j[fifth], torch.stack([torch.ones_like(j), i])[:, fifth].float())


class RecallOverChoices:
    """The real images in the ball of any generated image, for many choices of generated images in one pass.

    The ball of a generated image g reaches to its third neighbour among the chosen. A real image that is
    farther from g than p of g's neighbours is in the ball if fewer than three of these p are chosen:

        neighbours of g, nearest first    a  b  c  d  e  f
        chosen                            x     x        x
        p                                 0  1  2  3  4  5  6
        chosen among the first p          0  1  1  2  2  2  3
        in the ball (it reaches to f)     1  1  1  1  1  1  0

    `holding` has the last line of each g for all choices: a word has 60 choices, a bit each, so that one OR
    adds a pair of images to 60 choices.
    """

    def __init__(self, generated: Tensor, chosen: Tensor, m: int, watch: Watch | None = None) -> None:
        reach = REACH if len(chosen) > 1 else NEIGHBORHOOD
        self.distances, who = neighbours(generated, min(reach, len(generated) - 1), watch)
        self.choices, self.holding = len(chosen), _holding(who, chosen)  # (words, n, k + 1)
        self.words = np.zeros((len(self.holding), m), dtype=np.int64)
        farthest = torch.from_numpy(self.holding.any(0).sum(1, keepdims=True)) - 1  # beyond lies no ball
        self.reach = self.distances.gather(1, farthest).square()
        self.complete = np.bitwise_or.reduce(self.holding, (1, 2))[:, None]

    def limits(self, rows: Tensor, like: Tensor) -> Tensor:
        """Squared distances (r, m) up to which a pair may change a word: 0 for j that all choices hold."""
        wanted = torch.from_numpy((self.words != self.complete).any(0)).to(like)
        return self.reach[rows].to(like) * wanted

    def add(self, i: Tensor, j: Tensor, nearer: Tensor) -> None:
        """Adds pairs (p,) of generated i and real j; `nearer` (p, k): which neighbours of i are nearer."""
        ranks = nearer.sum(1).numpy()
        for word, bits in zip(self.words, self.holding, strict=True):
            np.bitwise_or.at(word, j.numpy(), bits[i.numpy(), ranks])

    def held(self) -> Tensor:
        """(choices, m): 1 where the real image lies in a ball, else 0."""
        bits = torch.from_numpy(self.words[:, None] >> np.arange(WORD)[:, None] & 1)
        return bits.flatten(0, 1)[: self.choices].double()


def _holding(who: Tensor, chosen: Tensor) -> np.ndarray:
    """In which choices a ball holds a point by its rank: bits in (words, n, k + 1) int64.

    Args:
        who: (n, k) the neighbours of each of n points, the nearest first.
        chosen: (R, n) which points each choice has.
    """
    (n, k), neighbour = who.shape, who.numpy()
    words = -(-len(chosen) // WORD)
    holding = np.zeros((words, n, k + 1), dtype=np.int64)  # none holds beyond all neighbours
    for word, choices in zip(holding, chosen.split(WORD), strict=True):
        members = np.zeros(n, dtype=np.int64)
        for bit, member in enumerate(choices):
            members |= member.numpy().astype(np.int64) << bit
        nearer = [np.zeros(n, dtype=np.int64) for _ in range(NEIGHBORHOOD)]  # one or more, two or more, …
        for rank in range(k):
            word[:, rank] = members & ~nearer[-1]
            one = members[neighbour[:, rank]]
            for more in range(NEIGHBORHOOD - 1, 0, -1):
                nearer[more] |= nearer[more - 1] & one
            nearer[0] |= one
    return holding
