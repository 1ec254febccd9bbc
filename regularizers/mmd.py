"""The maximum mean discrepancy between latents and draws of a prior (WAE-MMD: Tolstikhin et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Noise, Step
from ..bench.nn.blocks import without_autocast
from ..bench.nn.two_samples import Samples, Target, TwoSamples
from ..bench.registry import register

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

Kernel = Callable[[Tensor], Tensor]  # squared distances -> values, elementwise


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of all pairs: (n, D), (m, D) -> (n, m)."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    with without_autocast(x):
        return (squares - 2 * x @ y.mT).clamp_min(0)


def imq(channels: int) -> Kernel:
    """The inverse multiquadratic kernel: the sum over scales of C / (C + d^2), C = scale * 2 D.

    2 D is the mean d^2 between draws of N(0, I) in D = `channels` dimensions.
    """
    constants = [scale * 2 * channels for scale in SCALES]
    return lambda d2: sum((c / (c + d2) for c in constants), d2.new_zeros(()))


def rbf(variance: Tensor) -> Kernel:
    """The Gaussian kernel exp(-d^2 / (2 sigma^2))."""
    return lambda d2: (-d2 / (2 * variance)).exp()


def between_rows(values: Tensor, rows: int) -> Tensor:
    """Mean of a kernel's values (rows K, rows K) over the pairs of vectors from different rows."""
    blocks = values.unflatten(0, (rows, -1)).unflatten(2, (rows, -1)).sum((1, 3))  # (rows, rows)
    count = values.numel() * (rows - 1) / rows
    return (blocks.sum() - blocks.diagonal().sum()) / count


def mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Unbiased estimate of the squared discrepancy: x (B, K, D), y (M, N, D) -> (), below 0 by chance.

    Rows are independent draws. The vectors within a row need not be, so they are not paired with each other.
    With K = N = 1 this is the usual U-statistic.
    """
    u, v = x.flatten(0, 1), y.flatten(0, 1)
    xx, yy, xy = (kernel(squared_distances(a, b)) for a, b in ((u, u), (v, v), (u, v)))
    return between_rows(xx, len(x)) + between_rows(yy, len(y)) - 2 * xy.mean()


def median_variance(x: Tensor, y: Tensor) -> Tensor:
    """Sigma^2 as in the released code: median d^2 between x and y plus median d^2 within x.

    Unlike there, no gradient passes through it.
    """
    u, v = x.detach().flatten(0, 1), y.flatten(0, 1)
    return squared_distances(u, v).median() + squared_distances(u, u).median()


def some_tokens(z: Tensor, count: int, noise: Noise) -> Tensor:
    """Draws `count` tokens of each row without replacement: (B, T, C) -> (B, min(count, T), C)."""
    if count >= z.shape[1]:
        return z
    chosen = noise.uniform(z[..., 0], "tokens").topk(count, dim=1).indices
    return z.gather(1, chosen[..., None].expand(-1, -1, z.shape[2]))


@register("mmd")
class MMD(TwoSamples):
    """The kernel mean discrepancy pulls latents to the distribution of the reference, or to N(0, I).

    `samples: token` compares single tokens without their positions, `tokens` of each image (the cost is
    quadratic in the batch size times `tokens`); `image` compares images, all tokens as one vector. Kernels:
    inverse multiquadratics at seven scales (`imq`), or a Gaussian with the median heuristic (`rbf`).

    Paper: Tolstikhin et al., "Wasserstein Auto-Encoders", 2018 (arXiv 1711.01558).
    """

    version = 2  # since the reference's tokens are chosen, not pooled, for `samples: token`

    def __init__(
        self,
        spec: LatentSpec,
        reference_spec: LatentSpec,
        target: Target = "reference",
        weight: Annotated[float, Field(ge=0)] = 0.1,
        samples: Samples = "token",
        kernel: Literal["imq", "rbf"] = "imq",
        tokens: Annotated[int, Field(ge=1)] = 4,
    ) -> None:
        """
        Args:
            target: `reference` is the reference of the matrix or of the row; `gaussian` is N(0, I).
            weight: factor of the loss.
            samples: whether single tokens are compared, or whole images.
            kernel: inverse multiquadratics at seven scales, or a Gaussian whose width follows from the median
                distance.
            tokens: tokens that are drawn of each image where `samples` is `token`.
        """
        super().__init__(spec, reference_spec, target, samples)
        self.weight, self.kernel, self.tokens = weight, kernel, tokens

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        z, prior, noise = self.both(z, step)
        if self.samples == "image":
            x, y = z.flatten(1)[:, None], prior.flatten(1)[:, None]
        else:
            x = some_tokens(z, self.tokens, noise)
            y = some_tokens(prior, self.tokens, noise.fork("prior"))
        kernel = imq(x.shape[2]) if self.kernel == "imq" else rbf(median_variance(x, y))
        return {"mmd": self.weight * mmd(x, y, kernel)}
