"""Numbers as text."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Four significant digits."""
    size = abs(value)
    if size >= 1e6:
        exponent = min(4, int(math.log10(size) / 3))
        return f"{value / 1000**exponent:#.4g}".rstrip(".") + f" {' kMGT'[exponent]}"
    if size >= 1000 or float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.2e}" if size < 1e-3 else f"{value:#.4g}".rstrip(".")


def spread(mean: float, std: float) -> str:
    """`mean ± std`, with the digits that two significant ones of the standard deviation give."""
    if std == 0 or std < 1e-6 * abs(mean):
        return f"{number(mean)} ± {number(std)}"
    if max(abs(mean), std) < 1e-3:
        return f"{mean:.2e} ± {std:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def plural(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
