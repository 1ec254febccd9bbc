"""Precision and recall by k-nearest-neighbour balls, as torch-fidelity computes them."""

from __future__ import annotations

from torch import Tensor

NEIGHBORHOOD = 3  # k of precision and recall, torch-fidelity's default
BATCH = 10_000  # rows whose distances are computed at a time, torch-fidelity's default


def memory_bytes(n: int, width: int) -> int:
    """Bytes that n features against n take at their peak, in double precision.

    Distances are computed for 10,000 rows at a time. `kthvalue` copies them and their order, while those of
    the last rows to the other set are still there.
    """
    rows = min(n, BATCH)
    last = n - BATCH * ((n - 1) // BATCH)
    return 8 * (2 * n * width + (3 * rows + last) * n)


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Shares of generated features inside the real manifold and the reverse (Kynkaanniemi et al., 2019).

    A manifold is the union of balls that reach to each point's third neighbour among the others.

    Raises:
        ValueError: either set has fewer than 4 features.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    smaller = min(len(generated), len(real))
    if smaller <= NEIGHBORHOOD:
        raise ValueError(f"precision and recall need {NEIGHBORHOOD + 1} images on either side, not {smaller}")
    # Double precision: in float32 cdist loses the distance between near copies.
    generated, real = generated.detach().cpu().double(), real.detach().cpu().double()
    options = {"prc_neighborhood": NEIGHBORHOOD, "save_cpu_ram": True, "verbose": False}
    shares = prc_features_to_metric(generated, real, **options)
    return float(shares[KEY_METRIC_PRECISION]), float(shares[KEY_METRIC_RECALL])
