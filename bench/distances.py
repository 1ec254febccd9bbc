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
CMMD_SIGMA = 10.0
ROWS = 512  # of a kernel at a time: in single precision the sums over more would round too much
KS_PROJECTIONS = 20
NEIGHBORHOOD = 3  # k of precision and recall, torch-fidelity's default


Kernel = Callable[[Tensor, Tensor], Tensor]
Made = TypeVar("Made")


def once(function: Callable[..., Made]) -> Callable[..., Made]:
    """Keeps the latest results of a function of a reference: tensors count as equal by their content.

    A worker scores one cell after another against the same reference, each time read anew.
    """
    kept: OrderedDict[tuple[Hashable, ...], Made] = OrderedDict()

    def content(argument: Tensor | Hashable) -> Hashable:
        if not isinstance(argument, Tensor):
            return argument
        array = np.ascontiguousarray(argument.detach().cpu().numpy())
        return hashlib.sha256(array.data).digest(), argument.shape, argument.dtype

    @wraps(function)
    def found(*arguments: Tensor | Hashable) -> Made:
        key = tuple(map(content, arguments))
        if key not in kept:
            kept[key] = function(*arguments)
        kept.move_to_end(key)
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


def gaussian(features: Tensor) -> Gaussian:
    features = features.detach().cpu().double()
    rows = _rows(features)
    trace = rows.square().sum().item()
    if len(rows) < rows.shape[1]:
        return Gaussian(features.mean(0), trace, rows.T)
    variances, axes = torch.linalg.eigh(rows.T @ rows)
    return Gaussian(features.mean(0), trace, axes * variances.clamp(min=0).sqrt())


_reference = once(gaussian)


def _frechet(a: Tensor, reference: Gaussian) -> tuple[float, Tensor]:
    """The distance, and (n,) its derivative by the weight of each of a, up to a constant.

    The trace of the root of the covariances' product is the sum of the singular values of rows(a) @ root;
    its derivative by a row's weight is half the diagonal of (cross @ cross.T)^(1/2).
    """
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
    return _frechet(a, _reference(b))[0]


def frechet_estimate(name: str, a: Tensor, b: Tensor, paired: bool = False) -> Estimate:
    """The distance with replicates on resamples of a; paired, b is resampled with a (Heusel et al., 2017).

    Replicates are to the first order in the weights of the images (Jaeckel's infinitesimal jackknife, 1972).
    They spread as the plain bootstrap's do, which lie far above the value instead of around it: a resample
    has fewer different images, and the distance is biased upwards with few.
    """
    value, change = _frechet(a, _reference(b))
    if paired:
        change = change + _frechet(b, gaussian(a))[1]
    return Estimate(value, value + (counts(name, len(a)) - 1) @ change)


def kd_subset_size(n: int, m: int) -> int:
    """Half of the smaller set, at most the usual 1,000."""
    return min(1000, min(n, m) // 2)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / F + 1)^3, torch-fidelity's default."""
    kernel = torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1])
    return kernel.square().mul_(kernel)


def _normal(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 * 10^2)), CMMD's."""
    return torch.cdist(x, y).div_(CMMD_SIGMA).square_().div_(-2).exp_()


def _between(kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(R,) the mean kernel between a, weighted by left (R, n), and b, weighted by right (R, m)."""
    total = torch.zeros(len(left), dtype=torch.float64)
    mass, left, right = left.sum(1) * right.sum(1), left.to(a), right.to(a)
    for rows in torch.arange(len(a)).split(ROWS):
        total += ((left[:, rows] @ kernel(a[rows], b)) * right).sum(1, dtype=torch.float64)
    return total / mass


def _within(kernel: Kernel, a: Tensor, weights: Tensor) -> Tensor:
    """(R,) the mean kernel of pairs of a, weighted by weights (R, n).

    Pairs of an image with itself, or with its copies in a resample, don't count.
    """
    total = torch.zeros(len(weights), dtype=torch.float64)
    pairs, weights = weights.sum(1).square() - weights.square().sum(1), weights.to(a)
    for start in range(0, len(a), ROWS):  # the upper triangle
        rows = slice(start, start + ROWS)
        block = kernel(a[rows], a[start:]).triu_(1)
        total += 2 * ((weights[:, rows] @ block) * weights[:, start:]).sum(1, dtype=torch.float64)
    return total / pairs


_within_reference = once(_within)


def _mean_kernels(
    kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor, paired: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(R,) each: the mean kernel within a, within b and between them, weighted by left and right."""
    others = _within if paired else _within_reference  # what is resampled isn't met again
    return _within(kernel, a, left), others(kernel, b, right), _between(kernel, a, b, left, right)


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
    of the unbiased MMD of all images, on resamples of a and, paired, of b with it, moved to the value. Given
    labels (n,) and (m,), the classes have the MMD of theirs.
    """
    a, b = a.detach().cpu(), b.detach().cpu()
    drawn, subsets = counts(name, len(a)), _subsets(len(a), len(b))
    classes, *members = _classes(*labels) if labels else ([], drawn[:0], subsets[1][:0])
    others = drawn if paired else torch.ones(len(drawn), len(b)).double()
    left, right = torch.cat([drawn, subsets[0], members[0]]), torch.cat([others, subsets[1], members[1]])
    within_a, within_b, between = _mean_kernels(_cubic, a, b, left, right, paired)
    found = within_a + within_b - 2 * between
    replicates, parts, by_class = found.split([len(drawn), KD_SUBSETS, len(classes)])
    value = parts.mean()
    values = dict(zip(classes, by_class.tolist(), strict=True)) or None
    return Estimate(value.item(), moved(replicates, value), values)


def moved(replicates: Tensor, value: Tensor | float) -> Tensor:
    """To lie around the value, free of the bias that resamples have as they hold fewer different images."""
    return replicates - replicates.mean() + value


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The value of `kernel_estimate`, without replicates."""
    subsets = _subsets(len(a), len(b))
    own, others, between = _mean_kernels(_cubic, a.detach().cpu(), b.detach().cpu(), *subsets)
    return (own + others - 2 * between).mean().item()


def cmmd_estimate(name: str, a: Tensor, b: Tensor, labels: tuple[Tensor, Tensor] | None = None) -> Estimate:
    """1,000 times the squared MMD with a Gaussian kernel of width 10 (Jayasumana et al., 2024).

    Biased, as published: pairs of an image with itself count. Replicates and classes as in `kernel_estimate`.
    """
    a, b = a.detach().cpu().double(), b.detach().cpu().double()  # kernels are all about 1
    drawn = counts(name, len(a))
    everyone = torch.ones(1 + len(drawn), len(a)).double(), torch.ones(1 + len(drawn), len(b)).double()
    classes, *members = _classes(*labels) if labels else ([], drawn[:0], everyone[1][:0])
    left, right = torch.cat([everyone[0][:1], drawn, members[0]]), torch.cat([everyone[1], members[1]])
    within_a, within_b, between = _mean_kernels(_normal, a, b, left, right)
    unbiased = within_a + within_b - 2 * between
    biased = unbiased + (1 - within_a) / left.sum(1) + (1 - within_b) / right.sum(1)
    value, _, by_class = (1000 * biased).split([1, len(drawn), len(classes)])
    values = dict(zip(classes, by_class.tolist(), strict=True)) or None
    return Estimate(value.item(), moved(1000 * unbiased[1 : 1 + len(drawn)], value), values)


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
    if base in ("KD", "rKD", "KID", "rKID"):
        size = kd_subset_size(n, m)
        return {
            "kernel": "(x.y / F + 1)^3",
            "subsets": KD_SUBSETS,
            "subset_size": size,
            "subset_seed": KD_SEED,
        }
    if base == "CMMD":
        return {"kernel": "Gaussian", "sigma": CMMD_SIGMA, "estimator": "biased, times 1000"}
    return {}
