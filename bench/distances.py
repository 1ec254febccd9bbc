"""Distances between sets of features (n, F) and (m, F), with replicates; the values are torch-fidelity's.

torch-fidelity and SciPy take seconds to import: the functions here import them, so that a plan needn't.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .api import Estimate
from .records import base_name
from .resampling import counts

KD_SUBSETS, KD_SEED = 100, 2020  # torch-fidelity's defaults
KS_PROJECTIONS = 20
NEIGHBORHOOD = 3  # k of precision and recall, torch-fidelity's default


Kernel = Callable[[Tensor, Tensor], Tensor]
Made = TypeVar("Made")


def once(function: Callable[..., Made]) -> Callable[..., Made]:
    """Keeps a function's latest results by the content of its first argument, a tensor.

    A worker scores one cell after another against the same reference, each time read anew.
    """
    kept: OrderedDict[tuple[Hashable, ...], Made] = OrderedDict()

    @wraps(function)
    def found(x: Tensor, *rest: Hashable) -> Made:
        content = hashlib.sha256(np.ascontiguousarray(x.detach().cpu().numpy())).digest()
        key = (content, x.shape, x.dtype, *rest)
        if key not in kept:
            kept[key] = function(x, *rest)
            if len(kept) > 16:
                kept.popitem(last=False)
        return kept[key]

    return found


class Gaussian(NamedTuple):
    """A set's mean (F,), the trace of its covariance, and a root (F, min(F, n)) of it: root @ root.T."""

    mean: Tensor
    trace: float
    root: Tensor


def _rows(features: Tensor) -> Tensor:
    """(n, F) -> centred and scaled so that rows.T @ rows is the covariance."""
    return (features - features.mean(0)) / math.sqrt(len(features) - 1)


@once
def gaussian(features: Tensor) -> Gaussian:
    features = features.detach().cpu().double()
    rows = _rows(features)
    trace = rows.square().sum().item()
    if len(rows) < rows.shape[1]:
        return Gaussian(features.mean(0), trace, rows.T)
    variances, axes = torch.linalg.eigh(rows.T @ rows)
    return Gaussian(features.mean(0), trace, axes * variances.clamp(min=0).sqrt())


def _frechet(a: Tensor, b: Tensor) -> tuple[float, Tensor]:
    """The distance, and (n,) its derivative by the weight of each of a, up to a constant.

    The trace of the root of the covariances' product is the sum of the singular values of rows(a) @ root(b);
    its derivative by a row's weight is half the diagonal of (cross @ cross.T)^(1/2).
    """
    reference = gaussian(b)
    a = a.detach().cpu().double()
    rows, gap = _rows(a), a.mean(0) - reference.mean
    cross = rows @ reference.root
    few = len(cross) <= cross.shape[1]
    squares, axes = torch.linalg.eigh(cross @ cross.T if few else cross.T @ cross)
    singular = squares.clamp(min=0).sqrt()
    if few:
        shares = axes.square() @ singular
    else:
        kept = squares > squares[-1] * torch.finfo(squares.dtype).eps
        shares = (cross @ axes[:, kept]).square() @ (1 / singular[kept])
    value = gap.square().sum() + rows.square().sum() + reference.trace - 2 * singular.sum()
    return value.item(), 2 * (a - a.mean(0)) @ gap / len(a) + rows.square().sum(1) - shares


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians of the sets' means and covariances (Heusel et al., 2017), in double precision.

    Biased upwards with few samples; with fewer than F of them rounding may take it slightly below zero.
    """
    return _frechet(a, b)[0]


def frechet_estimate(name: str, a: Tensor, b: Tensor, paired: bool = False) -> Estimate:
    """The distance with replicates on resamples of a; paired, b is resampled with a (Heusel et al., 2017).

    Replicates are to the first order in the weights of the images (Jaeckel's infinitesimal jackknife, 1972).
    They spread as the plain bootstrap's do, which lie far above the value instead of around it: a resample
    has fewer different images, and the distance is biased upwards with few.
    """
    value, change = _frechet(a, b)
    if paired:
        change = change + _frechet(b, a)[1]
    return Estimate(value, value + (counts(name, len(a)) - 1) @ change)


def kd_subset_size(n: int, m: int) -> int:
    """Half of the smaller set, at most the usual 1,000."""
    return min(1000, min(n, m) // 2)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / F + 1)^3, torch-fidelity's default."""
    kernel = (x @ y.T).div_(x.shape[1]).add_(1)
    return kernel.square().mul_(kernel)


def _sums(kernel: Kernel, x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(R,) of left[r] @ kernel(x, y) @ right[r], without the pairs of an image with itself if y is x."""
    total = torch.zeros(len(left), dtype=torch.float64)
    left, right = left.to(x), right.to(x)
    for rows in torch.arange(len(x)).split(512):  # short sums: their rounding is of single precision
        block = kernel(x[rows], y)
        if y is x:
            block.diagonal(int(rows[0])).zero_()
        total += ((left[:, rows] @ block) * right).sum(1, dtype=torch.float64)
    return total


def _mean_kernels(
    kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(R,) each: the mean kernel within a, within b and between them, weighted by left (R, n), right (R, m).

    Pairs of an image with itself, or with its copies in a resample, don't count.
    """

    def pairs(weights: Tensor) -> Tensor:
        return weights.sum(1).square() - weights.square().sum(1)

    return (
        _sums(kernel, a, a, left, left) / pairs(left),
        _sums(kernel, b, b, right, right) / pairs(right),
        _sums(kernel, a, b, left, right) / (left.sum(1) * right.sum(1)),
    )


def _subsets(n: int, m: int) -> tuple[Tensor, Tensor]:
    """(subsets, n), (subsets, m) float64: the images in each of the subsets that torch-fidelity draws."""
    size = kd_subset_size(n, m)
    if size < 2:
        raise ValueError(f"the kernel distance needs 4 images on either side, not {n} and {m}")
    generator = np.random.RandomState(KD_SEED)
    left, right = torch.zeros(KD_SUBSETS, n).double(), torch.zeros(KD_SUBSETS, m).double()
    for subset in range(KD_SUBSETS):
        for chosen in (left, right):
            chosen[subset, generator.choice(chosen.shape[1], size, replace=False)] = 1
    return left, right


def _classes(one: Tensor, two: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """Labels (n,), (m,) -> the classes with two images on either side, and who is in each: (K, n), (K, m)."""
    shared = [int(c) for c in one.unique() if c >= 0 and (one == c).sum() > 1 and (two == c).sum() > 1]
    wanted = torch.tensor(shared, dtype=torch.int64)[:, None]
    return [str(c) for c in shared], (one == wanted).double(), (two == wanted).double()


def kernel_estimate(
    name: str,
    a: Tensor,
    b: Tensor,
    paired: bool = False,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Estimate:
    """Squared MMD with the kernel (x.y / F + 1)^3, the mean over subsets (Binkowski et al., 2018).

    Unbiased, so it may fall below zero; the subsets are those that torch-fidelity draws. The replicates are
    of the unbiased MMD of all images, on resamples of a and, paired, of b with it, moved so that the MMD
    without resampling is at the value. Given labels (n,) and (m,), the classes have the MMD of theirs.
    """
    a, b = a.detach().cpu(), b.detach().cpu()
    everyone = torch.ones(1, len(a)).double(), torch.ones(1, len(b)).double()
    drawn = counts(name, len(a))
    subsets = _subsets(len(a), len(b))
    classes, *members = _classes(*labels) if labels else ([], everyone[0][:0], everyone[1][:0])
    left = torch.cat([everyone[0], drawn, subsets[0], members[0]])
    right = torch.cat(
        [everyone[1], drawn if paired else everyone[1].expand(len(drawn), -1), subsets[1], members[1]]
    )
    own, others, between = _mean_kernels(_cubic, a, b, left, right)
    whole, replicates, parts, by_class = (own + others - 2 * between).split(
        [1, len(drawn), KD_SUBSETS, len(classes)]
    )
    value = parts.mean()
    values = dict(zip(classes, by_class.tolist(), strict=True)) or None
    return Estimate(value.item(), replicates - whole + value, values)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The value of `kernel_estimate`, without replicates."""
    subsets = _subsets(len(a), len(b))
    own, others, between = _mean_kernels(_cubic, a.detach().cpu(), b.detach().cpu(), *subsets)
    return (own + others - 2 * between).mean().item()


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Shares of generated features inside the real manifold and the reverse (Kynkaanniemi et al., 2019).

    A manifold is the union of balls that reach to each point's k-th neighbour among the others.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    smaller = min(len(generated), len(real))
    if smaller <= NEIGHBORHOOD:
        raise ValueError(f"precision and recall need {NEIGHBORHOOD + 1} images on either side, not {smaller}")
    # Double precision: in float32 cdist loses the distance between near copies.
    generated, real = generated.detach().cpu().double(), real.detach().cpu().double()
    found = prc_features_to_metric(
        generated, real, prc_neighborhood=NEIGHBORHOOD, save_cpu_ram=True, verbose=False
    )
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def nearest(queries: Tensor, bank: Tensor) -> Tensor:
    """(n, F), (m, F) -> (n,) Euclidean distances to the nearest bank entry, in double precision."""
    bank = bank.double()
    return torch.cat([torch.cdist(chunk.double(), bank).amin(1) for chunk in queries.split(1024)])


def memorisation(samples: Tensor, heldout: Tensor, train: Tensor) -> float:
    """P(d(sample, nearest train) < d(held-out, nearest train)) over random pairs, ties half, from features.

    0.5 if samples lie as far from the training set as new data does, 1 if they are copies of it. This is the
    Mann-Whitney U statistic over the number of pairs.
    """
    from scipy.stats import mannwhitneyu

    near, far = (nearest(features, train).cpu().numpy() for features in (samples, heldout))
    return float(mannwhitneyu(far, near, method="asymptotic").statistic / (len(near) * len(far)))


def directions(channels: int, count: int) -> Tensor:
    """(count, channels) float64 unit vectors, always the same: evenly spread in the plane, else random."""
    if channels == 2:
        angles = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.stack([angles.cos(), angles.sin()], dim=1)
    drawn = torch.randn(count, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def distance_to_normal(z: Tensor) -> float:
    """(n, C) -> the largest Kolmogorov-Smirnov distance to N(0, 1) over 20 directions."""
    from scipy.stats import kstest

    along = directions(z.shape[1], KS_PROJECTIONS).T
    return max(float(kstest(one, "norm").statistic) for one in (z.double().cpu() @ along).T.numpy())


def distance_protocol(name: str, n: int, m: int) -> dict[str, Any]:
    """What a distance depends on besides the features: sizes and settings, for n features against m."""
    base = base_name(name)
    if base in ("KD", "rKD"):
        size = kd_subset_size(n, m)
        return {
            "kernel": "(x.y / F + 1)^3",
            "subsets": KD_SUBSETS,
            "subset_size": size,
            "subset_seed": KD_SEED,
        }
    if base in ("precision", "recall"):
        return {"k": NEIGHBORHOOD}
    return {}
