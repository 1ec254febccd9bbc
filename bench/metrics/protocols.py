"""The protocol of distances between feature sets."""

from __future__ import annotations

from typing import Any

from .kernel import CMMD_SIGMA, KD_SEED, KD_SUBSETS, kd_subset_size
from .names import base_name


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
