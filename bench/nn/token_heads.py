"""Small networks that draw each token given a condition: a flow, or a diffusion (MAR: Li et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ..api import Noise
from ..api.transfer import sent
from ..flow import guide, interpolate
from .blocks import TokenMLP

DIFFUSION_STEPS = 1000


class FlowHead(nn.Module):
    """A per-token velocity field, MAR's head in Flow Priors."""

    def __init__(self, channels: int, width: int, depth: int, condition: int) -> None:
        super().__init__()
        self.channels = channels
        self.net = TokenMLP(channels, channels, width, depth, condition)

    def loss(self, x: Tensor, condition: Tensor, noise: Noise) -> dict[str, Tensor]:
        """x (..., N, C) and a condition (..., N, D) that broadcasts to its leading axes."""
        t = noise.uniform(x[..., 0], "t")
        start = noise.normal(x, "noise")
        predicted = self.net(interpolate(x, start, t), t, condition)
        return {"velocity": (predicted - (x - start)).square().mean()}

    def sample(
        self, condition: Tensor, guidance: float | None, noise: Noise, steps: int | None, temperature: float
    ) -> Tensor:
        """condition (B, N, D), guided (2B, N, D) -> (B, N, C); temperature scales the initial noise."""
        batch = condition.shape[0] // (1 if guidance is None else 2)
        start = noise.normal(condition.new_empty(batch, condition.shape[1], self.channels), "noise")
        x, times = temperature * start, torch.linspace(0, 1, (steps or 25) + 1, device="cpu")
        network = self.net.at_times(times[:-1].to(x), condition)
        for step, length in enumerate(times.diff().tolist()):
            x = x + length * _guided(network, x, step, guidance, self.channels)
        return x


class DiffusionHead(nn.Module):
    """MAR's original head: a per-token DDPM with learned variances (Nichol & Dhariwal, 2021)."""

    def __init__(self, channels: int, width: int, depth: int, condition: int) -> None:
        super().__init__()
        self.channels = channels
        self.net = TokenMLP(channels, 2 * channels, width, depth, condition)

    def loss(self, x: Tensor, condition: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Squared error of the noise, and the variational bound that trains the variance alone.

        x is (..., N, C), and the condition (..., N, D) broadcasts to its leading axes.
        """
        step = (noise.uniform(x[..., 0], "t") * DIFFUSION_STEPS).long()
        true_noise = noise.normal(x, "noise")
        schedule = Schedule.respaced(DIFFUSION_STEPS).at(step, x)
        noisy = schedule.alpha_bar.sqrt() * x + (1 - schedule.alpha_bar).sqrt() * true_noise
        # The head sees the step number 0 … 999 as its time, as in MAR.
        predicted, fraction = self.net(noisy, step.to(x), condition).chunk(2, dim=-1)
        mean, logvar = schedule.reverse(noisy, predicted.detach(), fraction)
        true_mean = schedule.posterior_mean(noisy, x)
        divergence = gaussian_kl(true_mean, schedule.posterior_logvar, mean, logvar)
        # MAR integrates this density over the bins of 8-bit images, which latents don't have.
        density = 0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * (-logvar).exp())
        bound = torch.where(step[..., None] == 0, density, divergence) / math.log(2)
        return {"noise": (predicted - true_noise).square().mean(), "variance": bound.mean()}

    def sample(
        self, condition: Tensor, guidance: float | None, noise: Noise, steps: int | None, temperature: float
    ) -> Tensor:
        """Ancestral sampling with the shapes of `FlowHead.sample`.

        The temperature scales the noise of each step, but not the initial noise.
        """
        batch = condition.shape[0] // (1 if guidance is None else 2)
        x = noise.normal(condition.new_empty(batch, condition.shape[1], self.channels), "noise")
        schedule = Schedule.respaced(steps or 100)
        network = self.net.at_times(schedule.step.to(x), condition)
        for index in reversed(range(len(schedule.step))):
            now = schedule.at(torch.tensor([[index]], device=x.device), x)
            output = _guided(network, x, index, guidance, self.channels)
            x, logvar = now.reverse(x, *output.chunk(2, dim=-1))
            if index:
                x = x + temperature * (0.5 * logvar).exp() * noise.normal(x, f"noise {index}")
        return x


def _guided(
    network: Callable[[Tensor, int], Tensor], x: Tensor, index: int, guidance: float | None, channels: int
) -> Tensor:
    """The network's output with guided first `channels`; the other channels (variances) stay conditional."""
    if guidance is None:
        return network(x, index)
    conditional, unconditional = network(x.repeat(2, 1, 1), index).chunk(2)
    guided = guide(conditional[..., :channels], unconditional[..., :channels], guidance)
    return torch.cat([guided, conditional[..., channels:]], dim=-1)


def gaussian_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)), elementwise, in nats."""
    squared = (mean1 - mean2).square() * (-logvar2).exp()
    return 0.5 * (logvar2 - logvar1 - 1 + (logvar1 - logvar2).exp() + squared)


@dataclass(frozen=True)
class Schedule:
    """A discrete diffusion on a subset of 1000 cosine-scheduled steps; every field has one value per step."""

    step: Tensor  # number of the step among the 1000
    alpha_bar: Tensor
    beta: Tensor
    posterior_logvar: Tensor
    clean: Tensor  # the posterior mean is clean * x0 + noisy * x_t
    noisy: Tensor

    @classmethod
    @cache  # called in every training step and every iteration of sampling
    def respaced(cls, steps: int) -> Schedule:
        """`steps` of the 1000 steps, evenly spaced and with both ends; one step is the last."""
        numbers = [DIFFUSION_STEPS - 1]
        if steps > 1:
            numbers = [round(i * (DIFFUSION_STEPS - 1) / (steps - 1)) for i in range(steps)]
        all_alpha_bar = cosine_alpha_bar(DIFFUSION_STEPS)
        alpha_bar = torch.tensor([all_alpha_bar[i] for i in numbers], dtype=torch.float64, device="cpu")
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        beta = 1 - alpha_bar / previous
        variance = beta * (1 - previous) / (1 - alpha_bar)
        # The first step's variance is 0, so its logarithm is replaced by that of the second step.
        logvar = torch.cat([variance[1:2], variance[1:]]).log() if steps > 1 else beta.log()
        clean = beta * previous.sqrt() / (1 - alpha_bar)
        noisy = (1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar)
        return cls(torch.tensor(numbers, device="cpu"), alpha_bar, beta, logvar, clean, noisy)

    def at(self, index: Tensor, like: Tensor) -> Schedule:
        """The values at `index` (B, N), each (B, N, 1) with `like`'s device and dtype."""
        there = (sent(value, like.device).to(like.dtype) for value in vars(self).values())
        return Schedule(*(value[index][..., None] for value in there))

    def posterior_mean(self, x: Tensor, clean: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return self.clean * clean + self.noisy * x

    def reverse(self, x: Tensor, noise: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t).

        A fraction from -1 to 1 interpolates the log-variance between its lower bound (posterior) and upper
        bound (beta).
        """
        clean = (x - (1 - self.alpha_bar).sqrt() * noise) / self.alpha_bar.sqrt()
        upper = (fraction + 1) / 2
        return self.posterior_mean(x, clean), upper * self.beta.log() + (1 - upper) * self.posterior_logvar


def cosine_alpha_bar(steps: int) -> list[float]:
    """Cumulative products of 1 - beta of the cosine schedule, beta <= 0.999 (Nichol & Dhariwal, 2021)."""
    curve = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    product, products = 1.0, []
    for now, following in zip(curve[:-1], curve[1:], strict=True):
        product *= max(following / now, 0.001)
        products.append(product)
    return products
