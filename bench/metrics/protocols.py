"""The settings that distances between feature sets depend on, as their protocols name them."""

from __future__ import annotations

from typing import Any

from .kernel import CMMD_SIGMA, KD_SEED, KD_SUBSETS, kd_subset_size
from .names import base_name


def distance_protocol(name: str, n: int, m: int) -> dict[str, Any]:
    """The sizes and settings of a distance between n features and m; empty for a Fréchet distance."""
    base = base_name(name)
    if base in ("rKD", "rKID"):
        return {"kernel": "(x.y / F + 1)^3", "estimator": "unbiased, all pairs of different images"}
    if base in ("KD", "KID"):
        subsets = {"subsets": KD_SUBSETS, "subset_size": kd_subset_size(n, m), "subset_seed": KD_SEED}
        return {"kernel": "(x.y / F + 1)^3", **subsets}
    if base == "CMMD":
        return {"kernel": "Gaussian", "sigma": CMMD_SIGMA, "estimator": "biased, times 1000"}
    return {}
