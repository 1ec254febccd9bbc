"""Distances between sets of features (n, F) and (m, F), with replicates; unpaired, torch-fidelity's values.

torch-fidelity and SciPy take seconds to import: the functions here import them, so that a plan needn't.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from itertools import product
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..api import Estimate
from .bootstrap import counts
from .names import base_name

KD_SUBSETS, KD_SEED = 100, 2020  # torch-fidelity's defaults
CMMD_SIGMA = 10.0
ROWS = 512  # and columns of a kernel at a time, which fit a cache: sums in single precision are short
KS_PROJECTIONS = 20
MOST = 2**16  # features of a reference at a time
FRECHET_PAIRS = 1000  # of images, from which the second order of a distance is estimated
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
    features = features.detach().cpu()
    if len(features) < features.shape[1]:
        rows = _rows(features.double())
        return Gaussian(features.double().mean(0), rows.square().sum().item(), rows.T)
    # Chunk by chunk: a large set in double precision would be twice its size, several times.
    chunks, n = features.split(MOST), len(features)
    mean = torch.stack([chunk.double().mean(0) * (len(chunk) / n) for chunk in chunks]).sum(0)
    trace, covariance = 0.0, features.new_zeros(features.shape[1], features.shape[1]).double()
    for chunk in chunks:
        rows = (chunk.double() - mean) / math.sqrt(n - 1)
        trace += rows.square().sum().item()
        covariance += rows.T @ rows
    variances, axes = torch.linalg.eigh(covariance)
    return Gaussian(mean, trace, axes * variances.clamp(min=0).sqrt())


_reference = once(gaussian)


class Frechet(NamedTuple):
    """A distance and how it changes with the weights of n images, up to a constant."""

    value: float
    change: Tensor  # (n,) derivatives by the weights
    directions: Tensor  # (n, K) the left singular vectors of rows(a) @ root
    singular: Tensor  # (K,)


def _frechet(a: Tensor, reference: Gaussian) -> Frechet:
    """The trace of the root of the covariances' product is the sum of the singular values of rows(a) @ root.

    Its derivative by a row's weight is half the diagonal of (cross @ cross.T)^(1/2).
    """
    a = a.detach().cpu().double()
    rows, gap = _rows(a), a.mean(0) - reference.mean
    cross = rows @ reference.root
    few = len(cross) <= cross.shape[1]
    squares, axes = torch.linalg.eigh(cross @ cross.T if few else cross.T @ cross)
    kept = squares > squares[-1] * torch.finfo(squares.dtype).eps
    singular, axes = squares[kept].sqrt(), axes[:, kept]
    directions = axes if few else cross @ axes / singular
    value = gap.square().sum() + rows.square().sum() + reference.trace
    value -= 2 * squares.clamp(min=0).sqrt().sum()
    change = 2 * (a - a.mean(0)) @ gap / len(a) + rows.square().sum(1) - directions.square() @ singular
    return Frechet(value.item(), change, directions, singular)


def _frechet_second(directions: Tensor, singular: Tensor) -> float:
    """The variance of a Frechet distance to the second order, from the second derivatives by random pairs.

    Those of the means and of the traces cancel but for a share 1 / n; those of the root's trace are
    divided differences of a square root (Daleckii & Krein, 1965).
    """
    n, generator = len(directions), torch.Generator().manual_seed(0)
    one = torch.randint(n, (FRECHET_PAIRS,), generator=generator)
    other = (one + torch.randint(1, n, (FRECHET_PAIRS,), generator=generator)) % n
    both = directions[one] * directions[other]
    sums = singular[:, None] + singular
    second = (both @ (singular[:, None] * singular / sums) * both).sum(1) + 2 / n * both @ singular
    return n**2 / 2 * second.var().item()


def narrowed(change: Tensor, second: float, beside: float = 0.0) -> Tensor:
    """(n,) first-order changes by an item's weight, scaled to the spread of values of new samples.

    Changes that are estimated from the sample hold the variance of the second order twice instead of once,
    as a jackknife does (Efron & Stein, 1981). Of the distance between two like sets, that is most of it.

    Args:
        second: the variance of the second order.
        beside: variance that has other sources than the items.
    """
    change = change - change.mean()
    first = change.square().sum().item()
    if first == 0:
        return change
    return change * math.sqrt((max(first - second, min(first, second)) + beside) / first)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians of the sets' means and covariances (Heusel et al., 2017), in double precision.

    Biased upwards with few samples; with fewer than F of them rounding may take it slightly below zero.
    """
    return _frechet(a, _reference(b)).value


def frechet_estimate(name: str, a: Tensor, b: Tensor, paired: bool = False) -> Estimate:
    """The distance with replicates on resamples of a; paired, b is resampled with a (Heusel et al., 2017).

    Replicates are to the first order in the weights of the images (Jaeckel's infinitesimal jackknife, 1972),
    narrowed unless paired. The plain bootstrap's would lie far above the value instead of around it: a
    resample has fewer different images, and the distance is biased upwards with few.

    Of Gaussian samples with the covariance of digits' 320 features, replicates spread 0.9 to 1.15 times as
    wide as values of new samples (n = 100, 360, 1437), of 40 with 60 equal variances 1.2 to 1.35 times;
    paired, 1.0 to 1.25 times, the more the worse reconstructions are.
    """
    found = _frechet(a, _reference(b))
    if paired:
        change = found.change + _frechet(b, gaussian(a)).change
    else:
        change = narrowed(found.change, _frechet_second(found.directions, found.singular))
    return Estimate(found.value, found.value + (counts(name, len(a)) - 1) @ change)


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


def _slices(start: int, stop: int) -> list[slice]:
    return [slice(at, min(at + ROWS, stop)) for at in range(start, stop, ROWS)]


def _between(kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) the mean kernel between a, weighted by left (R, n), and b, by right (R, m); (n,) over all of b."""
    total, sums = torch.zeros(len(left), dtype=torch.float64), torch.zeros(len(a), dtype=torch.float64)
    mass, left, right = left.sum(1) * right.sum(1), left.to(a), right.to(a)
    for rows, columns in product(_slices(0, len(a)), _slices(0, len(b))):
        block = kernel(a[rows], b[columns])
        total += ((left[:, rows] @ block) * right[:, columns]).sum(1, dtype=torch.float64)
        sums[rows] += block.sum(1, dtype=torch.float64)
    return total / mass, sums / len(b)


def _within(kernel: Kernel, a: Tensor, weights: Tensor) -> Pairs:
    """The kernel of pairs of a, weighted by weights (R, n); those of an image with itself don't count."""
    total, squares = torch.zeros(len(weights), dtype=torch.float64), 0.0
    sums = torch.zeros(len(a), dtype=torch.float64)
    mass, weights = weights.sum(1).square() - weights.square().sum(1), weights.to(a)
    for rows in _slices(0, len(a)):
        for columns in _slices(rows.start, len(a)):  # the upper triangle
            block = kernel(a[rows], a[columns])
            if columns == rows:
                block.triu_(1)
            total += 2 * ((weights[:, rows] @ block) * weights[:, columns]).sum(1, dtype=torch.float64)
            sums[rows] += block.sum(1, dtype=torch.float64)
            sums[columns] += block.sum(0, dtype=torch.float64)
            squares += 2 * block.square_().sum(dtype=torch.float64).item()
    return Pairs(total / mass, sums, squares)


_within_reference = once(_within)


class Discrepancy(NamedTuple):
    """The squared MMD of two sets, without pairs of an image with itself, by R weightings of both."""

    unbiased: Tensor  # (R,)
    within: tuple[Tensor, Tensor]  # (R,) each, the mean kernel within the one and the other set
    change: Tensor  # (n,) of the one of all images, by an image's weight
    second: float  # its variance to the second order


def _discrepancy(kernel: Kernel, a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Discrepancy:
    own, others = _within(kernel, a, left), _within_reference(kernel, b, right)
    between, means = _between(kernel, a, b, left, right)
    change = 2 / len(a) * (own.sums / (len(a) - 1) - means)
    unbiased = own.means + others.means - 2 * between
    return Discrepancy(unbiased, (own.means, others.means), change, own.second())


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

    Unbiased, so it may fall below zero; the subsets are those that torch-fidelity draws. Given labels (n,)
    and (m,), the classes have the MMD of theirs. Paired, it is over all pairs of different images instead:
    a subset would hold images with their own reconstructions, which are nearer than chance.

    Replicates are to the first order in the weights of a and, paired, of b with it, narrowed, and as wide
    as drawing subsets makes values. On digits: 0.9 to 1.2 times as wide as values of new ones.
    """
    a, b = a.detach().cpu(), b.detach().cpu()
    if paired:
        return _paired_estimate(name, a, b)
    subsets = _subsets(len(a), len(b))
    classes, *members = _classes(*labels) if labels else ([], subsets[0][:0], subsets[1][:0])
    found = _discrepancy(_cubic, a, b, *(torch.cat(sides) for sides in zip(subsets, members, strict=True)))
    parts, by_class = found.unbiased.split([KD_SUBSETS, len(classes)])
    value = parts.mean().item()
    change = narrowed(found.change, found.second, parts.var().item() / KD_SUBSETS)
    values = dict(zip(classes, by_class.tolist(), strict=True)) or None
    return Estimate(value, value + (counts(name, len(a)) - 1) @ change, values)


def _paired_cubic(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of pairs (a, b), (c, d), as rows (n, 2F), whose mean is MMD^2 (Gretton et al., 2012)."""
    (a, b), (c, d) = x.chunk(2, 1), y.chunk(2, 1)
    return (_cubic(a, c) - _cubic(a, d)).add_(_cubic(b, d)).sub_(_cubic(b, c))


def _paired_estimate(name: str, a: Tensor, b: Tensor) -> Estimate:
    n = len(a)
    if n < 2:
        raise ValueError(f"the kernel distance of pairs needs 2 of them, not {n}")
    found = _within(_paired_cubic, torch.cat([a, b], 1), torch.ones(1, n).double())
    value, change = found.means.item(), narrowed(2 / n * found.sums / (n - 1), found.second())
    return Estimate(value, value + (counts(name, n) - 1) @ change)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The value of `kernel_estimate`, without replicates."""
    subsets = _subsets(len(a), len(b))
    return _discrepancy(_cubic, a.detach().cpu(), b.detach().cpu(), *subsets).unbiased.mean().item()


def cmmd_estimate(name: str, a: Tensor, b: Tensor, labels: tuple[Tensor, Tensor] | None = None) -> Estimate:
    """1,000 times the squared MMD with a Gaussian kernel of width 10 (Jayasumana et al., 2024).

    Biased, as published: pairs of an image with itself count. Replicates and classes as in `kernel_estimate`.
    """
    a, b = a.detach().cpu().double(), b.detach().cpu().double()  # kernels are all about 1
    everyone = torch.ones(1, len(a)).double(), torch.ones(1, len(b)).double()
    classes, *members = _classes(*labels) if labels else ([], everyone[0][:0], everyone[1][:0])
    left, right = (torch.cat(sides) for sides in zip(everyone, members, strict=True))
    found = _discrepancy(_normal, a, b, left, right)
    one, two = found.within
    biased = 1000 * (found.unbiased + (1 - one) / left.sum(1) + (1 - two) / right.sum(1))
    value, by_class = biased[0].item(), biased[1:].tolist()
    change = 1000 * narrowed(found.change, found.second)
    values = dict(zip(classes, by_class, strict=True)) or None
    return Estimate(value, value + (counts(name, len(a)) - 1) @ change, values)


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
    if base in ("rKD", "rKID"):
        return {"kernel": "(x.y / F + 1)^3", "estimator": "unbiased, all pairs of different images"}
    if base in ("KD", "KID"):
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
