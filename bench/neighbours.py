"""Where images lie among others, by the nearest neighbours of their features: shares, copies and classes.

Precision and recall are Kynkaanniemi et al.'s (2019), density and coverage Naeem et al.'s (2020).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .api import Estimate
from .distances import NEIGHBORHOOD, once
from .records import base_name
from .resampling import class_means, counts, mean_estimate

NEAREST = 5  # k of density, coverage and the agreement of labels
ROWS = 256  # of distances at a time


def radii(points: Tensor) -> Tensor:
    """(n, F) -> (n, 2) distances to the third and the fifth of the other points."""
    points = points.detach().cpu().double()
    # The point itself comes first, at distance 0.
    chunks = [
        torch.cdist(some, points).topk(NEAREST + 1, largest=False).values for some in points.split(ROWS)
    ]
    return torch.cat(chunks)[:, [NEIGHBORHOOD, NEAREST]]


_radii_of_reference = once(radii)


class Overlap(NamedTuple):
    """Of generated images (n,) and real ones (m,), what the metrics are means of."""

    inside: Tensor  # (n,) whether it lies in the ball of any real image, which reaches to its third neighbour
    density: Tensor  # (n,) in how many balls of real images that reach to the fifth it lies, over 5
    nearest: Tensor  # (n,) distance to the nearest real image
    agreement: Tensor | None  # (n,) share of its class among the 5 nearest real images
    recall: Tensor  # (2, m) in how many balls of generated images it lies, and the sum of their numbers
    coverage: Tensor  # (2, m) how many generated images lie in its ball, and the sum of their numbers


def overlap(generated: Tensor, real: Tensor, labels: tuple[Tensor, Tensor] | None = None) -> Overlap:
    """Compares features (n, F) with (m, F), which may have labels, in one pass; 6 on either side at least."""
    own, others = radii(generated), _radii_of_reference(real)
    generated, real = generated.detach().cpu().double(), real.detach().cpu().double()
    recall, coverage = torch.zeros(2, 2, len(real))
    each: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(generated)).split(ROWS):
        distances = torch.cdist(generated[rows], real)
        held = distances <= others[:, 1]
        numbers = torch.stack([torch.ones_like(rows), rows]).float()
        recall += numbers @ (distances <= own[rows, :1]).float()
        coverage += numbers @ held.float()
        near, who = distances.topk(NEAREST, largest=False)
        found = (distances <= others[:, 0]).any(1), held.sum(1) / NEAREST, near[:, 0]
        each.append(found if labels is None else (*found, _agreement(labels[0][rows], labels[1][who])))
    inside, density, nearest, *agreement = (torch.cat(parts).double() for parts in zip(*each, strict=True))
    return Overlap(inside, density, nearest, agreement[0] if agreement else None, recall, coverage)


def _agreement(asked: Tensor, found: Tensor) -> Tensor:
    """Labels (B,) and their neighbours' (B, k) -> (B,) shares."""
    return (found == asked[:, None]).double().mean(1)


def share_estimate(name: str, holders: Tensor, n: int, labels: Tensor | None = None) -> Estimate:
    """The share of real images (m,) that any of n generated ones holds, given `Overlap.recall` or `coverage`.

    Replicates are to the first order in the weights of the generated images: without one of them, the share
    falls by the real images that it alone holds.
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
    recall and coverage are shares of real images, by their class. Replicates leave the balls as they are.

    Args:
        names: full names by base name, of all of precision, recall, density, coverage, label_agreement.
    """
    n, found = len(generated), overlap(generated, real, labels)
    asked, classes = labels or (None, None)
    estimates = {
        "precision": mean_estimate(names["precision"], found.inside, asked),
        "recall": share_estimate(names["recall"], found.recall, n, classes),
        "density": mean_estimate(names["density"], found.density, asked),
        "coverage": share_estimate(names["coverage"], found.coverage, n, classes),
    }
    if found.agreement is not None:
        estimates["label_agreement"] = mean_estimate(names["label_agreement"], found.agreement, asked)
    return {names[base]: estimate for base, estimate in estimates.items()}, found.nearest


def nearest(queries: Tensor, bank: Tensor) -> Tensor:
    """(n, F), (m, F) -> (n,) Euclidean distances to the nearest bank entry, in double precision."""
    bank = bank.cpu().double()
    return torch.cat([torch.cdist(some.cpu().double(), bank).amin(1) for some in queries.split(ROWS)])


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
