"""A flow whose network gives average velocities, which draw samples in one step (Geng et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar
from warnings import catch_warnings, simplefilter

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..bench.api import LatentSpec, Noise
from ..bench.api.transfer import sent
from ..bench.flow import expand_time, interpolate, logit_normal, with_unconditional
from ..bench.nn.blocks import TimeEmbedding, divide_width, drop_labels
from ..bench.nn.dit import DiT, gelu_block, layer_norm
from ..bench.registry import register


class _PlainAttention(TorchFunctionMode):
    """Attention by matrix products: its fused kernels have no forward-mode derivative."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = args
        weights: Tensor = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return weights.to(v.dtype) @ v


@torch.no_grad()
def target(
    average: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor, r: Tensor, v: Tensor
) -> Tensor:
    """The values that average velocities from t to r should have: v + (r - t) d average / dt.

    An average velocity is (1 / (r - t)) times the integral of the velocity from t to r along the flow. The
    total derivative for a fixed r, dx = v dt, is computed in forward mode. As the target is linear in v, the
    mean over paths through x is right with each path's own velocity.

    Args:
        average: the network, of x, t and r.
        x: points on paths (B, T, C).
        t: their times (B,).
        r: times (B,) until which velocities are averaged, r >= t.
        v: velocities at x (B, T, C).
    """
    # A compiled block has no forward-mode derivative either.
    with _PlainAttention(), torch.compiler.set_stance("force_eager"), catch_warnings():
        # torch's own modules of these derivatives still use torch.jit, as their first import says.
        simplefilter("ignore", FutureWarning)
        tangents = v, torch.ones_like(t)
        derivative: Tensor = torch.func.jvp(lambda x, t: average(x, t, r), (x, t), tangents)[1]
    return v + expand_time(r - t, x) * derivative


@register("meanflow")
class MeanFlow(DiT):
    """SiT's network, told two times, which moves x from t to r at once: x_r = x_t + (r - t) average(x, t, r).

    Guidance is a part of training: the velocity v of a path with a label is replaced by omega v + kappa
    v_label + (1 - omega - kappa) v_none, of the network's own velocities at t. At the defaults its weight is
    omega / (1 - kappa) = 2, and a matrix's `guidance` changes nothing. The same guided velocity of each
    moment is what a flow's other uses see.

    The rows of a batch whose r is t are chosen by their place, three in four at the default.

    Paper: Geng et al., "Mean Flows for One-step Generative Modeling", 2025 (arXiv 2505.13447).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "B": {"width": 768, "depth": 12, "heads": 12},
        "L": {"width": 1024, "depth": 24, "heads": 16},
        "XL": {"width": 1152, "depth": 28, "heads": 16},
    }
    guided = False

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        instantaneous: Annotated[float, Field(ge=0, le=1)] = 0.75,
        time_mean: float = 0.4,
        time_std: Annotated[float, Field(gt=0)] = 1.0,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
        omega: Annotated[float, Field(ge=0)] = 1.0,
        kappa: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ) -> None:
        """
        Args:
            width: width of the transformer.
            depth: number of blocks.
            heads: attention heads, which divide the width.
            instantaneous: share of rows whose r is t, which learn the velocity alone, as in other flows.
            time_mean: mean of the normal of logit-normal times, of which t is the smaller of two and r the
                larger; above 0 they lie nearer to data.
            time_std: standard deviation of that normal.
            label_dropout: share of labels that training leaves out, for velocities without a label.
            omega: weight of the path's velocity in the guided one.
            kappa: weight of the network's velocity for the label in the guided one.
        """
        divide_width(width, heads)
        super().__init__(spec, classes, label_dropout)
        self.instantaneous, self.time_mean, self.time_std = instantaneous, time_mean, time_std
        self.omega, self.kappa = omega, kappa
        self.build(width, depth, partial(gelu_block, width, heads), layer_norm)
        self.duration = TimeEmbedding(width)

    def average(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor | None) -> Tensor:
        """The average velocity (B, T, C) of x (B, T, C) between times t and r (B,)."""
        return self._between(x, t, r, labels, 0)[0]

    def _between(
        self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor | None, tap: int
    ) -> tuple[Tensor, Tensor]:
        times = self.time(t) + self.duration(r - t)
        return self.conditioned(x, times + self.label(labels, len(x)), tap)

    def network(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        return self._between(x, t, t, labels, tap)

    def loss(
        self, z: Tensor, labels: Tensor | None, noise: Noise, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The mean of d / (d + 0.01), d a row's squared error; its denominator is a constant to gradients."""
        one, other = (
            logit_normal(noise.uniform(z[:, 0, 0], tag), self.time_mean, self.time_std) for tag in "tr"
        )
        t, later = torch.minimum(one, other), torch.maximum(one, other)
        start = noise.normal(z, "noise")
        labels = drop_labels(labels, self.label_dropout, noise)
        x = interpolate(z, start, t)
        rows = self.averaged_rows(len(z), noise, z.device)
        r = t.index_copy(0, rows, later[rows])
        # First, as autocast keeps its casts of weights: those of a pass without gradients would have none.
        output = self.average(x, t, r, labels)
        wanted = self.guided_velocity(x, t, labels, z - start)
        if len(rows):
            few = None if labels is None else labels[rows]
            average = partial(self.average, labels=few)
            learned = target(average, x[rows], t[rows], r[rows], wanted[rows])
            wanted = wanted.index_copy(0, rows, learned)
        errors = (output - wanted).square().flatten(1).sum(1)
        return {"average_velocity": (errors / (errors.detach() + 0.01)).mean()}

    def averaged_rows(self, rows: int, noise: Noise, device: torch.device) -> Tensor:
        """The indices (K,) of the rows with r > t: the same ones of a batch for any number of processes."""
        first = noise.rank * rows
        # Products are rounded, as 1 - 0.9 is a little less than a tenth.
        counts = [int(round((1 - self.instantaneous) * (first + row), 6)) for row in range(rows + 1)]
        chosen = [row for row in range(rows) if counts[row + 1] > counts[row]]
        return sent(torch.tensor(chosen, dtype=torch.long, device="cpu"), device)

    @torch.no_grad()
    def guided_velocity(self, x: Tensor, t: Tensor, labels: Tensor | None, v: Tensor) -> Tensor:
        """The path's velocities v (B, T, C), guided where there is a label."""
        if labels is None or self.classes == 0 or (self.omega, self.kappa) == (1.0, 0.0):
            return v
        both = self.network(x.repeat(2, 1, 1), t.repeat(2), with_unconditional(labels), 0)[0]
        labelled, none = both.to(v.dtype).chunk(2)
        guided = self.omega * v + self.kappa * labelled + (1 - self.omega - self.kappa) * none
        return torch.where((labels >= 0)[:, None, None], guided, v)

    def sample(
        self, labels: Tensor, guidance: float, noise: Noise, *, steps: Annotated[int, Field(ge=1)] = 1
    ) -> Tensor:
        """Moves noise to data in equal steps.

        Args:
            steps: evaluations of the network.
        """
        parameter = next(self.parameters())
        like = parameter.new_empty(len(labels), self.spec.tokens, self.spec.channels)
        x = noise.normal(like, "noise")
        for step in range(steps):
            t = x.new_full((len(x),), step / steps)
            x = x + self.average(x, t, t + 1 / steps, labels) / steps
        return x
