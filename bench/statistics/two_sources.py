"""Tests and intervals of a mean whose error has two sources: seeds, and the images that all seeds share.

From three seeds on Satterthwaite's (1946) degrees of freedom are used: of pairs without a difference 5 to
8 % are called different at 5 %. With one degree of freedom that fails: two seeds that are alike by chance get
the degrees of freedom of the images, and of pairs without a difference 12 % are called different at 5 %, and
5 % at 0.1 %. So there the unknown variance is integrated out, as in the test of Behrens (1929) and Fisher
(1935): 1 to 5 % are.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from .observations import Array
from .variance import satterthwaite

NODES, WIDEST = 400, 40.0  # of the integral over the logit of a probability
FEW = 1  # degrees of freedom between seeds, up to which their variance is integrated out


def p_values(
    effects: ArrayLike, trained: ArrayLike, df: ArrayLike, images: ArrayLike, df_images: int
) -> Array:
    """The two-sided p of effects of mean zero; arrays broadcast. With one source alone, Student's t.

    Args:
        trained: the variance of the effect that seeds give, with `df` degrees of freedom.
        images: the variance that images give beyond that, with `df_images`.
    """
    of = np.broadcast_arrays(*(np.asarray(x, float) for x in (effects, trained, df, images)))
    effect, between, free, shared = (x.ravel() for x in of)
    variance, freedom = satterthwaite((between, free), (shared, df_images))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(freedom, -np.abs(effect) / np.sqrt(variance))
    few = np.flatnonzero((free <= FEW) & (between > 0) & (shared > 0) & np.isfinite(variance))
    ratios, weights = _variance_ratios(FEW)
    total = between[few, None] * ratios + shared[few, None]  # what the variance may be
    inner = df_images * (total / shared[few, None]) ** 2
    p[few] = 2 * special.stdtr(inner, -np.abs(effect[few, None]) / np.sqrt(total)) @ weights
    return p.reshape(of[0].shape)


def half_width(trained: float, df: float, images: float, df_images: int, level: float) -> float:
    """Half of the interval of a mean, which holds all effects with p above 1 - level."""
    variance, freedom = (float(x) for x in satterthwaite((trained, df), (images, df_images)))
    if variance <= 0:
        return 0.0
    if df > FEW or trained <= 0 or images <= 0 or not np.isfinite(variance):
        return float(special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance))

    def excess(size: float) -> float:
        return float(p_values(size, trained, df, images, df_images)) - (1 - level)

    widest = 2 * special.stdtrit(FEW, (1 + level) / 2) * np.sqrt(variance)
    return float(optimize.brentq(excess, 0.0, widest, rtol=1e-8))


@cache
def _variance_ratios(df: float) -> tuple[Array, Array]:
    """Quotients of a variance by its estimate, df / chi², and their probabilities."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    x = WIDEST * nodes
    probability = special.expit(x)
    weights = WIDEST * weights * probability * special.expit(-x)
    squares = np.where(
        x < 0,
        2 * special.gammaincinv(df / 2, probability),
        2 * special.gammainccinv(df / 2, special.expit(-x)),
    )
    return df / squares, weights / weights.sum()
