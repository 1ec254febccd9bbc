"""Integration of ODEs with adaptive steps for each row of a batch (Dormand & Prince, 1980)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from scipy.integrate import RK45
from torch import Tensor

from ..api import Diverged

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]

# scipy's constants of the step size: a safety factor, and the bounds of the factor between two steps.
SAFETY, LEAST, MOST = 0.9, 0.2, 10.0
POWER = -1 / 5  # exponent of the error, for an error estimate of order 4
TINY = 1e-15  # a step of this size no longer moves t


def rk45(
    velocity: Velocity, x: Tensor, start: float, stop: float, rtol: float = 1e-5, atol: float = 1e-5
) -> Tensor:
    """The solution (B, ...) at time `stop` of dx/dt = velocity(x, t, rows) with x (B, ...) at `start`.

    Steps are those of scipy's `RK45`, with states in float64, but each row's step size follows its own error:
    a row's result doesn't depend on the other rows, and a row that has reached `stop` is not computed
    further.

    Args:
        velocity: the velocity (b, ...) of x (b, ...) at t (b,), for these rows (b,) of the batch.

    Raises:
        Diverged: if steps would have to be infinitely small.
    """
    ahead = 1.0 if stop > start else -1.0

    def slope(y: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return velocity(y.to(x.dtype), t.to(x.dtype), rows).to(y)

    rows, y = torch.arange(len(x), device=x.device), x.to(torch.float64, copy=True)
    t = torch.full((len(x),), start, dtype=y.dtype, device=y.device)
    k0 = slope(y, t, rows)
    h, retried = _first(slope, y, t, k0, rows, abs(stop - start) * ahead, rtol, atol), rows < 0
    while len(rows):
        left = (stop - t[rows]).abs()
        if not (torch.minimum(h[rows], left) > TINY).all():
            raise Diverged(f"a flow cannot be followed beyond t = {float(t[rows].min()):.3g}")
        step = ahead * torch.minimum(h[rows], left)
        now, wide = y[rows], _like(step, y)
        slopes = [k0[rows]]
        for weights, c in zip(RK45.A[1:], RK45.C[1:], strict=True):
            slopes.append(slope(now + wide * _mixed(weights, slopes), t[rows] + c * step, rows))
        then = now + wide * _mixed(RK45.B, slopes)
        arrived = step.abs() >= left
        at = torch.where(arrived, torch.full_like(step, stop), t[rows] + step)
        slopes.append(slope(then, at, rows))
        scale = atol + rtol * torch.maximum(now.abs(), then.abs())
        error = _size(wide * _mixed(RK45.E, slopes) / scale)
        good = error < 1
        factor = (SAFETY * error**POWER).nan_to_num(LEAST, MOST).clamp(LEAST, MOST)
        h[rows] = step.abs() * torch.where(good & retried[rows], factor.clamp(max=1), factor)
        retried[rows] = ~good
        done = rows[good]
        y[done], t[done], k0[done] = then[good], at[good], slopes[-1][good]
        rows = rows[~(good & arrived)]
    return y.to(x.dtype)


def _first(
    slope: Velocity,
    y: Tensor,
    t: Tensor,
    k0: Tensor,
    rows: Tensor,
    length: float,
    rtol: float,
    atol: float,
) -> Tensor:
    """The sizes (B,) of the first steps, by how fast the velocity changes (Hairer et al., 1993, II.4)."""
    scale = atol + rtol * y.abs()
    d0, d1 = _size(y / scale), _size(k0 / scale)
    small = (d0 < 1e-5) | (d1 < 1e-5)
    trial = torch.where(small, 1e-6, 0.01 * d0 / d1).nan_to_num(1e-6).clamp(max=abs(length))
    towards = trial if length > 0 else -trial
    d2 = _size((slope(y + _like(towards, y) * k0, t + towards, rows) - k0) / scale) / trial
    flat = (d1 <= 1e-15) & (d2 <= 1e-15)
    by_change = (0.01 / torch.maximum(d1, d2)) ** (1 / 5)
    h = torch.where(flat, (trial * 1e-3).clamp(min=1e-6), by_change)
    return torch.minimum(100 * trial, h).nan_to_num(1e-6).clamp(max=abs(length))


def _mixed(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The weighted sum of slopes."""
    return sum((float(w) * k for w, k in zip(weights, slopes, strict=False)), torch.zeros_like(slopes[0]))


def _like(rows: Tensor, y: Tensor) -> Tensor:
    """Values of rows (b,) in the shape (b, 1, ...), which multiplies (b, ...)."""
    return rows.reshape(-1, *(1,) * (y.dim() - 1))


def _size(y: Tensor) -> Tensor:
    """The root mean square of each row, (b, ...) -> (b,)."""
    return y.flatten(1).square().mean(1).sqrt()
