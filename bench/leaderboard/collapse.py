"""Rows whose latents have collapsed, left the scale of their reference or are nearly all noise, and why.

Such a row is flagged in every table, whatever its regularizer. References have a standard deviation of 1
(`Reference.standardised`), which stands in for that of records without `latent_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .numbers import number
from .rows import Row

MARK = "‡"
FACTOR = 3.0  # between the standard deviations of latents and of their reference, from which a row is flagged
NOISE = 0.95  # share of noise in the variance of drawn latents, from which a row is flagged
SCALES = ("latent_scale_own", "latent_scale", "latent_std")  # in the row's own space of the reference first


def collapse(row: Row) -> str:
    """The reason of a row's flag, or "" without one.

    A single seed is enough; the text names the seed that is furthest off, and how many are. The latents of
    tokenizers as they are may have any scale: nothing has moved them.
    """
    scales = next((list(found.values()) for base in SCALES if (found := _by_seed(row, base))), [])
    off = [scale for scale in scales if not 1 / FACTOR < scale < FACTOR]
    reasons = []
    if off and row.trained:
        furthest = max(off, key=lambda scale: abs(math.log(scale)) if scale > 0 else math.inf)
        text = f"latents' standard deviation {number(furthest)} times their reference's"
        reasons.append(text + _count(len(off), len(scales)))
    if no_active_channel(row):
        active = list(_by_seed(row, "active_channels").values())
        reasons.append("no active channel" + _count(active.count(0), len(active)))
    noise = noise_shares(row)
    noisy = [share for share in noise if share > NOISE]
    if noisy:
        text = f"noise is {100 * max(noisy):.0f} % of the latents' variance"
        reasons.append(text + _count(len(noisy), len(noise)))
    return ", ".join(reasons)


def no_active_channel(row: Row) -> bool:
    """Whether in some seed no channel of the latents says anything about the image."""
    return 0 in _by_seed(row, "active_channels").values()


def noise_shares(row: Row) -> list[float]:
    """The share of noise in the variance of drawn latents, of each seed; empty if the row doesn't have it.

    An encoder whose posterior hardly depends on the image can fill any prior: scale and shape of drawn
    latents are then right, and their decodings are near the mean image.
    """
    drawn, noiseless = (_by_seed(row, base) for base in ("latent_std", "latent_std_mean"))
    return [1 - (noiseless[seed] / std) ** 2 for seed, std in drawn.items() if seed in noiseless and std > 0]


def marked(row: Row) -> str:
    """The row's regularizer, with a mark if the row is flagged."""
    return f"{row.regularizer} {MARK}" if collapse(row) else row.regularizer


def collapse_note(rows: Iterable[Row]) -> str:
    """The flagged rows' reasons as a sentence; empty without flags."""
    rows = [row for row in rows if not row.real]
    several = len({row.tokenizer for row in rows}) > 1
    reasons: dict[str, None] = {}
    for row in rows:
        if reason := collapse(row):
            name = f"{row.tokenizer} {row.regularizer}" if several else row.regularizer
            reasons[f"{name} ({reason})"] = None
    text = f"{MARK} marks rows whose latents have collapsed, left their scale or are nearly all noise"
    return f"{text}: {'; '.join(reasons)}." if reasons else ""


def _by_seed(row: Row, base: str) -> dict[str, float]:
    """A metric's value of each seed; empty if the row doesn't have it."""
    values = next((value for column, value in row.values.items() if column.base == base), None)
    return values.by_seed if values else {}


def _count(some: int, all: int) -> str:
    return "" if some == all else f" (in {some} of {all} seeds)"
