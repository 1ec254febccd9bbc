"""Distributions in the plane, points as images of 1 x 1 x 2 (Flow Priors, appendix C.1; DMVAE, figure 3)."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split
from ..registry import register

Count = Annotated[int, Field(ge=16)]
Values = NDArray[np.float64]
CHUNK = 512  # points at a time in `mixture_log_prob`: 512 x 2100 nodes x 2 values are 17 MB


def mixture_log_prob(points: Tensor, centres: Tensor, covariances: Tensor) -> Tensor:
    """Log-density of a Gaussian mixture with equal weights: (n, 2), (K, 2), (K, 2, 2) -> (n,) in nats.

    It is finite wherever float64 holds the squared distance: far away it is the nearest centre's parabola.
    """
    points, centres, covariances = points.double(), centres.double(), covariances.double()
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariances))  # (K, 2, 2)
    # One product for all nodes: whiten_k (x - c_k) = whiten_k x - whiten_k c_k.
    offset = (whiten @ centres[:, :, None]).flatten()
    logdet = torch.linalg.slogdet(whiten).logabsdet
    constant = logdet - math.log(2 * math.pi) - math.log(len(centres))

    def log_prob(chunk: Tensor) -> Tensor:
        white = (chunk @ whiten.flatten(0, 1).T - offset).unflatten(1, (-1, 2))
        return (constant - 0.5 * white.square().sum(2)).logsumexp(1)

    return torch.cat([log_prob(chunk) for chunk in points.split(CHUNK)])


class PointSet(Dataset):
    """Points on a curve, or at a few centres, with Gaussian noise around them; no classes.

    The set is centred at its mean, and divided by its reach so that an image lies in [-1, 1]. `scale` is the
    root of the mean variance of an image's two values. So x / scale are standardised points, as `log_prob`
    takes them and as `Reference.projected` makes them but for the sampling error of its statistics.
    """

    image = ImageSpec(channels=1, height=1, width=2)
    classes = 0  # the tokenizer `points` has one latent for several images, whose classes could differ
    nodes: ClassVar[int] = 2100  # nodes of the integral along a curve; divisible by the number of its pieces
    noise: ClassVar[float]  # the papers' standard deviation, in the units of `centres`
    kernel: ClassVar[float] = 0.0  # the papers' bandwidth

    def __init__(
        self,
        count: Count = 20_480,
        val: Count = 5_120,
        std: Annotated[float, Field(gt=0)] | None = None,
        bandwidth: Annotated[float, Field(ge=0)] | None = None,
        seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    ) -> None:
        """
        Args:
            count: points of the split train.
            val: points of the split val.
            std: standard deviation of the noise in the units of the paper's definition; null: the paper's.
            bandwidth: bandwidth of the Gaussian kernel that smooths `log_prob`, in units of the standardised
                set; 0 is the true density; null: as in the papers, 0.1 where Flow Priors estimates densities.
            seed: seed of the points.
        """
        self.sizes = {"train": count, "val": val}
        self.std = self.noise if std is None else std
        self.bandwidth = self.kernel if bandwidth is None else bandwidth
        self.seed = seed

    def centres(self, u: Values) -> Values:
        """The points to which noise is added: u (n,) uniform in [0, 1) -> (n, 2)."""
        raise NotImplementedError

    def factors(self, u: Values) -> Values:
        """The matrices that turn standard normal vectors into the noise: u (n,) -> (n, 2, 2)."""
        return np.broadcast_to(self.std * np.eye(2), (len(u), 2, 2))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{type(self).__name__} {self.std} {self.bandwidth}".encode())
        for split in ("train", "val"):
            digest.update(self._splits[split].numpy().tobytes())
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def images(self, split: Split, index: Tensor) -> Tensor:
        return self._splits[split][index]

    def labels(self, split: Split) -> None:
        return None

    @property
    def scale(self) -> float:
        """Root of the mean variance of an image's two values over the population; their mean is 0."""
        return self._spread / self._reach

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is the true density, without a kernel's smoothing."""
        return self.bandwidth == 0

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density of standardised points (n, 2) -> (n,) in nats.

        A curve with Gaussian noise is a mixture along the curve, whose integral is a sum over nodes that lie
        closer than the noise is wide (midpoint rule; off by up to 0.02 nats at a curve's ends). With a
        `bandwidth` h every Gaussian is wider by h: the expectation of a kernel density estimate.
        """
        # Flow Priors, eq. 27, averages the kernel over 100,000 samples, and its code adds 1e-10, so that no
        # NLL exceeds 20.3; the limit here has no sampling error and is 50 times cheaper.
        u = self._u
        factors = self.factors(u) / self._spread
        covariances = factors @ factors.swapaxes(1, 2) + self.bandwidth**2 * np.eye(2)
        nodes = (self.centres(u) - self._mean) / self._spread
        mixture = [torch.from_numpy(values).to(points.device) for values in (nodes, covariances)]
        return mixture_log_prob(points, *mixture).to(points.dtype)

    @property
    def _u(self) -> Values:
        return (np.arange(self.nodes) + 0.5) / self.nodes

    @cached_property
    def _mean(self) -> Values:
        return self.centres(self._u).mean(0)

    @cached_property
    def _spread(self) -> float:
        signal = np.square(self.centres(self._u) - self._mean).sum(1)
        noise = np.square(self.factors(self._u)).sum((1, 2))
        return math.sqrt((signal + noise).mean() / 2)

    @cached_property
    def _reach(self) -> float:
        farthest = np.abs(self.centres(self._u) - self._mean).max()
        return float(farthest + 6 * np.linalg.norm(self.factors(self._u), axis=2).max())

    @cached_property
    def _splits(self) -> dict[str, Tensor]:
        # NumPy draws the points, because torch's default device is `meta` while a plan is made.
        return {split: self._drawn(size, i) for i, (split, size) in enumerate(self.sizes.items())}

    def _drawn(self, count: int, stream: int) -> Tensor:
        random = np.random.default_rng((self.seed, stream))
        u, noise = random.random(count), random.standard_normal((count, 2, 1))
        points = self.centres(u) + (self.factors(u) @ noise)[:, :, 0]
        # Only points beyond 6 standard deviations are clipped, once in 10,000 sets.
        images = np.clip((points - self._mean) / self._reach, -1, 1)
        return torch.from_numpy(images.astype(np.float32).reshape(count, 1, 1, 2))


def _polar(radius: Values | float, angle: Values) -> Values:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@register("ring")
class Ring(PointSet):
    """Five Gaussians on a circle (Flow Priors' main example): radius 3, standard deviation 0.3."""

    nodes, noise = 5, 0.3

    def centres(self, u: Values) -> Values:
        return _polar(3.0, 2 * np.pi * np.floor(self.nodes * u) / self.nodes)


@register("grid")
class Grid(PointSet):
    """Sixteen Gaussians on a grid of 4 x 4: distance 1, standard deviation 0.1."""

    nodes, noise = 16, 0.1

    def centres(self, u: Values) -> Values:
        cell = np.floor(16 * u)
        return np.stack([cell // 4, cell % 4], axis=1) - 1.5


@register("moons")
class Moons(PointSet):
    """Two interleaved half circles of radius 2."""

    noise, kernel = 0.1, 0.1

    def centres(self, u: Values) -> Values:
        lower = u >= 0.5
        return _polar(2.0, 2 * np.pi * u) + lower[:, None] * np.array([2.0, -0.5])


@register("rings")
class Rings(PointSet):
    """Three concentric circles with equally many points: radii 4/3, 8/3 and 4."""

    # Flow Priors' noise is along the radius alone; a tangential part only moves points along their circle.
    noise, kernel = 0.1, 0.1

    def centres(self, u: Values) -> Values:
        ring = np.floor(3 * u)
        return _polar(4 / 3 * (ring + 1), 2 * np.pi * (3 * u - ring))


@register("spiral")
class Spiral(PointSet):
    """One arm of 1.5 turns, from radius 0.5 to 2."""

    noise, kernel = 0.1, 0.1

    def centres(self, u: Values) -> Values:
        return _polar(0.5 + 1.5 * u, 3 * np.pi * u)


@register("swiss_roll")
class SwissRoll(PointSet):
    """Three turns from the centre to radius 6."""

    noise, kernel = 0.1, 0.1

    def centres(self, u: Values) -> Values:
        return _polar(6 * u, 6 * np.pi * u)


@register("s_curve")
class SCurve(PointSet):
    """DMVAE's letter S: `std` (thickness) is noise across the curve; diffusion is up to 0.03 at its ends."""

    noise = 0.06

    # The released toy clips to [-1, 1], which puts 1 to 2 % of the points on the border, where there is no
    # density; here they are not clipped.

    def centres(self, u: Values) -> Values:
        t = 2 * u - 1
        y = 0.85 * t - 0.15 * np.sin(2 * np.pi * t)
        return np.stack([0.85 * np.sin(np.pi * t), -y], axis=1)

    def factors(self, u: Values) -> Values:
        t = 2 * u - 1
        across = np.stack(
            [0.85 - 2 * np.pi * 0.15 * np.cos(2 * np.pi * t), 0.85 * np.pi * np.cos(np.pi * t)], axis=1
        )
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        along = np.stack([-across[:, 1], across[:, 0]], axis=1)
        diffusion = 0.03 * (0.4 + 0.6 * np.abs(t))
        thickness = np.sqrt(self.std**2 + diffusion**2)
        return np.stack([across * thickness[:, None], along * diffusion[:, None]], axis=2)
