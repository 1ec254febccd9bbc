"""Where images lie among others, by the nearest neighbours of their features: shares, copies and classes.

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
from .bootstrap import REPLICATES, class_means, counts, mean_estimate
from .names import base_name
from .pairwise import Squares
from .precision_recall import NEIGHBORHOOD
from .reuse import once

NEAREST = 5  # k of density, coverage and the agreement of labels
ROWS = 256  # of distances at a time
REACH = 24  # neighbours among which the third of any half lies, but for one image and half in 60,000
PAIRS = 2**16  # of images at a time
WORD = 60  # replicates in one integer, a bit each


def neighbours(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(n, F) -> (n, k) distances to the nearest of the other points, in order, and who they are."""
    squares, found = Squares(points, points), []
    for rows in torch.arange(len(points)).split(ROWS):
        below = squares.below(rows)
        below[torch.arange(len(rows)), rows] = torch.inf  # not itself
        found.append(squares.nearest(rows, below, k))
    distances, who = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, who


def radii(points: Tensor) -> Tensor:
    """(n, F) -> (n, 2) distances to the third and the fifth of the other points."""
    return neighbours(points, NEAREST)[0][:, [NEIGHBORHOOD - 1, NEAREST - 1]]


_radii_of_reference = once(radii)


@lru_cache(maxsize=8)
def halves(metric: str, n: int) -> Tensor:
    """(REPLICATES, n) bool: random halves of n items, of four at least, which all rows share."""
    drawn = torch.zeros(REPLICATES, n, dtype=torch.bool)
    for replicate in range(REPLICATES):
        generator = torch.Generator().manual_seed(seed_for("halves", metric, replicate))
        drawn[replicate, torch.randperm(n, generator=generator)[: max(n // 2, NEIGHBORHOOD + 1)]] = True
    return drawn


def _holding(who: Tensor, chosen: Tensor) -> np.ndarray:
    """Bits that say in which choices a ball holds a point: (words, n, k + 1) int64.

    The ball of one of n points reaches to its third neighbour among the chosen. It holds what is farther off
    than the first p of all the others (n, k), if p of 0 to k has at most two chosen ones among them.

    Args:
        who: (n, k) the others, the nearest first.
        chosen: (R, n) which points there are.
    """
    nearer = torch.zeros(len(who), who.shape[1] + 1, dtype=torch.int8)
    words = []
    for some in chosen.split(WORD):
        word = torch.zeros(nearer.shape, dtype=torch.int64)
        for bit, member in enumerate(some):
            nearer[:, 1:] = member[who].cumsum(1, dtype=torch.int8)
            word |= ((nearer < NEIGHBORHOOD) & member[:, None]).long() << bit
        words.append(word)
    found = torch.stack(words)
    found[:, :, -1] = 0  # farther off than all of them
    return found.numpy()


class Overlap(NamedTuple):
    """Of generated images (n,) and real ones (m,), what the metrics are means of."""

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
) -> Overlap:
    """Compares features (n, F) with (m, F), which may have labels, in one pass; 6 on either side at least.

    Args:
        choices: (R, n) generated images that recall is of besides all.
    """
    n, others = len(generated), _radii_of_reference(real)
    distance, who = neighbours(generated, min(REACH, n - 1))
    chosen = torch.ones(1, n, dtype=torch.bool)
    holding = _holding(who, chosen if choices is None else torch.cat([chosen, choices]))
    last = torch.from_numpy(holding.any(0).sum(1, keepdims=True)) - 1  # beyond, no choice's ball reaches
    reach = distance.gather(1, last).square()
    held_by = np.zeros((len(holding), len(real)), dtype=np.int64)
    every = np.bitwise_or.reduce(holding, (1, 2))[:, None]
    inside, balls, coverage = torch.zeros(n), torch.zeros(n), torch.zeros(2, len(real))
    squares, each = Squares(generated, real), []
    for rows in torch.arange(n).split(ROWS):
        below = squares.below(rows)
        near, who = squares.nearest(rows, below, NEAREST)
        agreement = () if labels is None else (_agreement(labels[0][rows], labels[1][who]),)
        each.append((near[:, 0], *agreement))
        # Few pairs are as near as neighbours of either; where all choices hold a real image, only as its own.
        wanted = torch.from_numpy((held_by != every).any(0)).to(below)
        limits = reach[rows].to(below) * wanted
        pairs = (below <= torch.maximum(limits, others[:, 1].square().to(below))).nonzero()
        for i, j in (some.T for some in pairs.split(PAIRS)):
            marks = torch.cat([distance[rows[i]], others[j]], 1)
            apart = squares.beside(marks, below[i, j], rows[i], j)[:, None]
            nearer = (marks[:, :-2] < apart).sum(1).numpy()
            for word, bits in zip(held_by, holding, strict=True):
                np.bitwise_or.at(word, j.numpy(), bits[rows[i].numpy(), nearer])
            third, fifth = (marks[:, -2:] >= apart).T
            inside[rows[i[third]]] = 1
            balls.index_add_(0, rows[i[fifth]], torch.ones(int(fifth.sum())))
            held = torch.stack([torch.ones_like(j), rows[i]])[:, fifth].float()
            coverage.index_add_(1, j[fifth], held)
    nearest, *agreements = (torch.cat(parts) for parts in zip(*each, strict=True))
    recall = torch.from_numpy(held_by[:, None] >> np.arange(WORD)[:, None] & 1).flatten(0, 1)
    recall = recall[: 1 if choices is None else 1 + len(choices)].double()
    density = (balls / NEAREST).double()
    return Overlap(inside.double(), density, nearest, agreements[0] if agreements else None, recall, coverage)


def _agreement(asked: Tensor, found: Tensor) -> Tensor:
    """Labels (B,) and their neighbours' (B, k) -> (B,) shares."""
    return (found == asked[:, None]).double().mean(1)


def recall_estimate(held: Tensor, chosen: Tensor, labels: Tensor | None = None) -> Estimate:
    """The share of real images that generated ones hold, from `Overlap.recall` of `halves` (R, n).

    Replicates are its deviations over random halves of the generated images, whose balls reach to neighbours
    in the half: those of the half of a sample spread as those of samples do (McCarthy, 1969). To the first
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


def overlap_estimates(
    names: dict[str, str], generated: Tensor, real: Tensor, labels: tuple[Tensor, Tensor] | None = None
) -> tuple[dict[str, Estimate], Tensor]:
    """The metrics by their full names, and (n,) distances from generated to the nearest real images.

    Precision, density and label agreement are means over generated images, by the class that was asked for;
    recall and coverage are shares of real images, by their class. Replicates leave real balls as they are.

    Args:
        names: full names by base name, of all of precision, recall, density, coverage, label_agreement.
    """
    n = len(generated)
    chosen = halves(names["recall"], n)
    found = overlap(generated, real, labels, chosen)
    asked, classes = labels or (None, None)
    estimates = {
        "precision": mean_estimate(names["precision"], found.inside, asked),
        "recall": recall_estimate(found.recall, chosen, classes),
        "density": mean_estimate(names["density"], found.density, asked),
        "coverage": coverage_estimate(names["coverage"], found.coverage, n, classes),
    }
    if found.agreement is not None:
        estimates["label_agreement"] = mean_estimate(names["label_agreement"], found.agreement, asked)
    return {names[base]: estimate for base, estimate in estimates.items()}, found.nearest


def nearest(queries: Tensor, bank: Tensor) -> Tensor:
    """(n, F), (m, F) -> (n,) Euclidean distances to the nearest bank entry, in double precision."""
    squares, rows = Squares(queries, bank), torch.arange(len(queries)).split(ROWS)
    return torch.cat([squares.nearest(some, squares.below(some), 1)[0][:, 0] for some in rows])


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


def neighbour_protocol(name: str) -> dict[str, Any]:
    """What a metric of neighbours depends on besides the features and their numbers."""
    base = base_name(name)
    if base == "memorisation":
        return {"ties": "half"}
    return {"k": NEIGHBORHOOD if base in ("precision", "recall") else NEAREST}
