"""The zones of a minibatch: the flow from its anchors to parts of N(0, I), one each (LZN, eq. 1)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import without_autocast

Solver = Literal["euler", "dpm"]
# Above this kappa = t / (1 - t), `zones` works in float64: logits are differences of numbers of the size
# kappa^2 |a|^2, of which float32 keeps 7 digits.
NEAR = 10.0


def zones(
    anchors: Tensor,
    noise: Tensor,
    g: float,
    steps: int,
    *,
    solver: Solver = "euler",
    recompute: bool = True,
) -> Tensor:
    """Latents z_i by the flow of `anchors` back from (1 - g) a_i + g noise_i at t = 1 - g to t = 0; eq. 1.

    In the coordinates u_i = (s_i - t a_i) / (1 - t) and kappa = t / (1 - t) the flow is

        du_i / dkappa = sum_j w_ij (a_j - a_i),    w_ij ~ exp(-|u_i + kappa (a_i - a_j)|^2 / 2),

    u starts as the noise itself and ends as z, and Euler's method in t is Euler's method in kappa. So no
    digits are lost to the sum s = a + 1e-4 noise, and the term of an anchor with itself is exactly 0.

    Args:
        anchors: (n, q).
        noise: (n, q), already scaled by alpha; 0 gives the centres of the zones.
        solver: `euler`, uniform in t from 1 - g down to 0, or `dpm`, the released code's for encoders:
            DPM-Solver++ multistep of order 3, uniform in t down to 1e-3, where it stops.
        recompute: store only the states, (steps, n, q), and recompute the weights in the backward pass.

    Returns:
        (n, q)
    """
    stop = 0.0 if solver == "euler" else 1e-3
    times = [1 - g + (stop - 1 + g) * step / steps for step in range(steps + 1)]
    kappas = [t / (1 - t) for t in times]
    weights = _multistep(kappas, 1 if solver == "euler" else 3)
    with without_autocast(anchors):
        a, u = anchors.to(noise), noise
        # Zones depend on differences of anchors alone, which keep more digits if anchors are small.
        a = a - a.detach().mean(0)
        u = _Zones.apply(a, u, kappas, weights) if recompute else _integrate(a, u, kappas, weights)[0][-1]
    return stop * anchors + (1 - stop) * u


def _multistep(kappas: list[float], order: int) -> list[list[float]]:
    """Weights of the solver's steps u' = u + sum_l weights[step][l] pull[step - l].

    DPM-Solver++ (Lu et al., 2022) integrates the data prediction over kappa = alpha / sigma exactly, as a
    polynomial in log kappa; at order 1 that is Euler's method. With fewer than 10 steps the last ones are of
    lower order.
    """
    rows, last = [], len(kappas) - 1
    for step in range(last):
        kappa, following = kappas[step : step + 2]
        width = following - kappa
        step_order = min(order, step + 1)
        if last < 10:
            step_order = min(step_order, last - step)
        if step_order == 1:
            rows.append([width])
            continue
        h = math.log(following / kappa)
        r0 = math.log(kappa / kappas[step - 1]) / h
        if step_order == 2:
            rows.append([width * (1 + 0.5 / r0), -width * 0.5 / r0])
            continue
        r1 = math.log(kappas[step - 1] / kappas[step - 2]) / h
        first = following * (math.expm1(-h) / h + 1)  # coefficient of the first derivative
        second = (first - following / 2 * h) / h  # coefficient of half the second derivative
        near = first * (1 + r0 / (r0 + r1)) - second / (r0 + r1)
        far = second / (r0 + r1) - first * r0 / (r0 + r1)
        rows.append([width + near / r0, far / r1 - near / r0, -far / r1])
    return rows


def _gaps(anchors: Tensor) -> Tensor:
    """Squared distances of all pairs of anchors, (n, q) -> (n, n), in float64."""
    a = anchors.double()
    squares = a.square().sum(1)
    return (squares[:, None] + squares - 2 * a @ a.mT).clamp_min(0).fill_diagonal_(0)


def _weights_of_others(kappa: float, u: Tensor, anchors: Tensor, gaps: Tensor) -> Tensor:
    """The weights w_ij of `zones`, (n, n), with zeros on the diagonal."""
    logits = torch.addmm(gaps, u, anchors.mT, beta=-(kappa**2) / 2, alpha=kappa)
    # Products of two weights below `tiny` (1e-19 in float32) are denormal numbers, with which matrix products
    # are very slow on some processors. Even times kappa^2 = 1e8 such weights change no digit of a result.
    tiny = torch.finfo(logits.dtype).tiny ** 0.5
    return F.threshold(logits.softmax(1), tiny, 0.0).fill_diagonal_(0)


def _apply(w: Tensor, x: Tensor) -> Tensor:
    """w @ x, transposed: BLAS is ten times slower with few columns on the right than with few rows."""
    return (x.mT @ w.mT).mT


def _pull(kappa: float, u: Tensor, anchors: Tensor, gaps: Tensor) -> Tensor | None:
    """sum_j w_ij (a_j - a_i), (n, q); None where all w_ij are 0, as in most steps near t = 1.

    A GPU isn't asked whether they are, as the program would wait for it at every step: it adds zeros.
    """
    w = _weights_of_others(kappa, u, anchors, gaps)
    if w.is_cpu and not w.any():
        return None
    return _apply(w, anchors) - w.sum(1, keepdim=True) * anchors


def _pull_back(kappa: float, g: Tensor, u: Tensor, a: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of u and a, both (n, q), from g, the gradient of `_pull`'s result."""
    w = _weights_of_others(kappa, u, a, gaps)
    r = w * (g @ a.mT - (g * a).sum(1, keepdim=True))
    # r becomes the gradient of the logits, but for the diagonal, which makes the rows sum to 0.
    r -= w * r.sum(1, keepdim=True)
    rows, columns, ra = r.sum(1, keepdim=True), r.sum(0)[:, None], _apply(r, a)
    grad_a = _apply(w.mT, g) - w.sum(1, keepdim=True) * g
    grad_a += kappa * (_apply(r.mT, u + kappa * a) + kappa * (ra - (rows + columns) * a) - rows * u)
    return kappa * (ra - rows * a), grad_a


def _in_precision(kappa: float, *tensors: Tensor) -> list[Tensor]:
    """The tensors in float64 near the anchors (kappa > NEAR), else in the type of the first."""
    return [x.to(torch.float64 if kappa > NEAR else tensors[0].dtype) for x in tensors]


def _integrate(
    anchors: Tensor, u: Tensor, kappas: list[float], weights: list[list[float]]
) -> tuple[list[Tensor], list[bool]]:
    """The states u (n, q) at each kappa, and whether each step had a pull."""
    gaps, states, pulls, active = _gaps(anchors), [u], list[Tensor | None](), list[bool]()
    for kappa, row in zip(kappas, weights, strict=False):
        pull = _pull(kappa, *_in_precision(kappa, states[-1], anchors, gaps))
        active.append(pull is not None)
        pulls = [None if pull is None else pull.to(u), *pulls[:2]]
        terms = [weight * pull for weight, pull in zip(row, pulls, strict=False) if pull is not None]
        states.append(sum(terms, states[-1]))
    return states, active


class _Zones(torch.autograd.Function):
    """`_integrate` with a backward pass from the states alone: 2 matrix products a step forward, 5 back."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, u: Tensor, kappas: list[float], weights: list[list[float]]
    ) -> Tensor:
        (*states, last), active = _integrate(anchors, u, kappas, weights)
        ctx.save_for_backward(anchors, *states)
        ctx.grid = kappas, weights, active
        return last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        anchors, *states = ctx.saved_tensors
        kappas, weights, active = ctx.grid
        gaps, grad_anchors = _gaps(anchors), torch.zeros_like(anchors)
        later = list[tuple[Tensor, list[float]]]()  # gradients of the states that a step's pull enters
        for step in reversed(range(len(states))):
            later = [(g, weights[step]), *later[:2]]
            if not active[step]:
                continue
            entered = [row[lag] * grad for lag, (grad, row) in enumerate(later) if lag < len(row)]
            inputs = _in_precision(kappas[step], torch.stack(entered).sum(0), states[step], anchors, gaps)
            grad_u, grad_a = _pull_back(kappas[step], *inputs)
            g, grad_anchors = g + grad_u.to(g), grad_anchors + grad_a.to(g)
        return grad_anchors, g, None, None
