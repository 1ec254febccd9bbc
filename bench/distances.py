"""Distances between sets of features (n, F) and (m, F), through torch-fidelity.

torch-fidelity and SciPy take seconds to import: the functions here import them, so that a plan needn't.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .records import base_name

KD_SUBSETS = 100  # torch-fidelity's default
KS_PROJECTIONS = 20
NEIGHBORHOOD = 3  # k of precision and recall, torch-fidelity's default


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians of the sets' means and covariances (Heusel et al., 2017).

    Biased upwards with few samples; with fewer than F of them rounding may take it slightly below zero.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    # In double precision; torch-fidelity would take the means of float32 features in float32.
    one, two = (fid_features_to_statistics(features.detach().cpu().double()) for features in (a, b))
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def kd_subset_size(n: int, m: int) -> int:
    """Half of the smaller set, at most the usual 1,000."""
    return min(1000, min(n, m) // 2)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared MMD with the kernel (x.y / F + 1)^3, the mean over subsets (Binkowski et al., 2018).

    Unbiased, so it may fall below zero; the subsets are drawn with torch-fidelity's fixed seed.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = kd_subset_size(len(a), len(b))
    if size < 2:
        raise ValueError(f"the kernel distance needs 4 images on either side, not {len(a)} and {len(b)}")
    a, b = a.detach().cpu(), b.detach().cpu()
    found = kid_features_to_metric(a, b, kid_subsets=KD_SUBSETS, kid_subset_size=size, verbose=False)
    return float(found[KEY_METRIC_KID_MEAN])


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
        return {"kernel": "(x.y / F + 1)^3", "subsets": KD_SUBSETS, "subset_size": size, "subset_seed": 2020}
    if base in ("precision", "recall"):
        return {"k": NEIGHBORHOOD}
    return {}
