"""The rows that Kendall's tau needs to be told from 0, and the smallest tau that some rows can show."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from .correlation import MOST_EXACT, inversions
from .power import POWER

MOST_ROWS = 1000
FEWEST = 5  # rows of which the variance of tau is known


@lru_cache(maxsize=4096)
def least_tau(rows: int, alpha: float) -> float:
    """The smallest |tau| of so many rows without ties with a two-sided p of at most alpha; else infinite.

    Exact up to 60 rows; beyond, normal with the variance 2 (2n + 5) / (9 n (n - 1)) (Kendall, 1970).
    """
    if rows > MOST_EXACT:
        variance = 2 * (2 * rows + 5) / (9 * rows * (rows - 1))
        return float(-special.ndtri(alpha / 2) * np.sqrt(variance))
    pairs = rows * (rows - 1) // 2
    tails = 2 * np.cumsum(inversions(rows))  # p of so many discordant pairs
    found = int((tails[: pairs // 2 + 1] <= alpha * (1 + 1e-9)).sum()) - 1
    return 1 - 2 * found / pairs if found >= 0 and pairs else float("inf")


def tau_power(tau: float, rows: int, alpha: float) -> float:
    """The chance that rows whose true tau is `tau` have a p of at most alpha, and tau's sign.

    atanh of the estimate is about normal with variance 0.437 / (rows - 4) if some monotone transformations
    make the numbers normal (Fieller, Hartley & Pearson, Biometrika 1957). The critical value is
    `least_tau`'s.
    """
    least = least_tau(rows, alpha)
    if not np.isfinite(least) or rows < FEWEST:
        return 0.0
    if abs(tau) >= 1:
        return 1.0
    step = 2 / (rows * (rows - 1))  # half the distance of two values that the estimate can take
    shift = np.arctanh(abs(tau)) - np.arctanh(least - step)
    return float(special.ndtr(shift * np.sqrt((rows - 4) / 0.437)))


def rows_needed(tau: float, alpha: float) -> int | None:
    """The fewest rows with which a true tau is told from 0 at alpha with 80 % power; None beyond 1000.

    For a signal among m that are tested together, alpha is the level over m: that of Holm's first step.
    """
    if not np.isfinite(tau) or tau == 0 or tau_power(tau, MOST_ROWS, alpha) < POWER:
        return None
    low, high = FEWEST - 1, MOST_ROWS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tau_power(tau, middle, alpha) >= POWER else (middle, high)
    return high
