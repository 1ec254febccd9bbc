"""How straight the paths of a trained flow are, and how well the flow predicts at fixed noise."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Flow, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.flow import euler, interpolate
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.proxies import channel_variance, path_efficiencies, path_straightnesses
from ..bench.models.activations import forward_memory
from ..bench.registry import register

NUMBERS = 2**23  # of the states that are kept at a time
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the deviation of latents to that of noise


def states_of(flow: Flow, noise: Tensor, labels: Tensor | None, steps: int) -> Tensor:
    """The states (steps + 1, B, T, C) of Euler's method with equal steps from noise at t = 0 to t = 1."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        found = flow.velocity(x, t, labels)
        assert isinstance(found, Tensor)
        return found

    states = [noise]
    for step in torch.linspace(0, 1, steps + 1, device=noise.device).unfold(0, 2, 1):
        states.append(euler(velocity, states[-1], step))
    return torch.stack(states)


def matched_errors(flow: Flow, z: Tensor, noise: Tensor, labels: Tensor | None, spread: float) -> Tensor:
    """Errors (B,) of the latent that a flow predicts from a noisy one, over the latents' variance.

    Means over `RATIOS` of signal to noise: at a ratio r, the time t solves t spread / (1 - t) = r, and the
    predicted latent is x_t + (1 - t) v.

    Args:
        z: latents (B, T, C), as the flow learned them.
        noise: standard normal draws (B, T, C).
        spread: root mean square of latents about their channels' means.
    """
    errors = []
    for ratio in RATIOS:
        t = z.new_full((len(z),), ratio / (ratio + spread))
        velocity = flow.velocity(x := interpolate(z, noise, t), t, labels)
        assert isinstance(velocity, Tensor)
        predicted = x + (1 - t)[:, None, None] * velocity
        errors.append((predicted - z).double().square().flatten(1).mean(1))
    return torch.stack(errors).mean(0) / spread**2


@register("sampling_paths")
class SamplingPaths(Evaluator):
    """Sampling paths of flows, without guidance, and their error at fixed ratios of signal to noise.

    Paths are Euler's with equal steps from the same noise in all rows of a latent shape, for the classes of
    the first samples. Straightness and efficiency are 1 for a flow that moves on lines. The loss that a flow
    is trained on can't be compared between latents of different scale or between distributions of times;
    `matched_loss` can. Generators without a velocity have no values.

    Paper: arXiv 2606.03578, 2026, for straightness and efficiency (Euler, 50 steps, unguided); `matched_loss`
    is ours.
    """

    metrics = {
        "straightness": Metric(
            "generator", None, "", "Mean cosine of the consecutive steps of a sampling path; 1 on a line."
        ),
        "efficiency": Metric(
            "generator", None, "", "Distance between the ends of a sampling path over its length."
        ),
        "matched_loss": Metric(
            "generator",
            None,
            "",
            "Error of latents predicted at fixed ratios of signal to noise, over the latents' variance.",
        ),
    }

    def __init__(
        self, paths: Annotated[int, Field(ge=1)] = 512, steps: Annotated[int, Field(ge=2)] = 50
    ) -> None:
        """
        Args:
            paths: number of paths, and of held-out latents of `matched_loss`, at most.
            steps: steps of a path.
        """
        self.paths, self.steps = paths, steps

    @torch.no_grad()
    def run(self, subject: Subject) -> dict[str, float]:
        if subject.real or subject.sample_labels is None:
            return {}
        flow = subject.generator
        if not isinstance(flow, Flow):
            return {}
        device, stream = next(flow.parameters()).device, subject.noise.fork("paths")
        labels = self._labels(flow, subject.sample_labels)
        like = torch.empty(len(labels), flow.spec.tokens, flow.spec.channels)
        noise, straight, efficient = stream.normal(like, "noise"), [], []
        for index in torch.arange(len(labels)).split(self._few(flow)):
            states = states_of(flow, noise[index].to(device), labels[index].to(device), self.steps).cpu()
            straight.append(path_straightnesses(states))
            efficient.append(path_efficiencies(states))
        values = {
            "straightness": torch.cat(straight),
            "efficiency": torch.cat(efficient),
            "matched_loss": self._errors(subject, flow, device),
        }
        return {name: mean_estimate(name, x) for name, x in values.items()}

    def _errors(self, subject: Subject, flow: Flow, device: torch.device) -> Tensor:
        """`matched_errors` of some held-out latents, (n,)."""
        z, labels = subject.generator_latents("val"), subject.labels("val")
        spread = channel_variance(z) ** 0.5
        chosen = random_rows(len(z), self.paths)
        noise = subject.noise.fork("matched").normal(z[chosen], "noise")
        classes = self._labels(flow, torch.full((len(z),), -1) if labels is None else labels, len(z))
        errors = []
        for place in torch.arange(len(chosen)).split(self._few(flow)):
            index = chosen[place]
            errors.append(
                matched_errors(
                    flow, z[index].to(device), noise[place].to(device), classes[index].to(device), spread
                ).cpu()
            )
        return torch.cat(errors)

    def _labels(self, flow: Flow, labels: Tensor, most: int | None = None) -> Tensor:
        """The first labels; -1, "no class", for a flow that knows none."""
        labels = labels[: most or self.paths].cpu()
        return labels if flow.classes else torch.full_like(labels, -1)

    def _few(self, flow: Flow) -> int:
        """How many paths are kept at a time."""
        return max(1, NUMBERS // ((self.steps + 1) * flow.spec.tokens * flow.spec.channels))

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        flow = sizes.generator
        if sizes.real:
            sizes.images("val")
        if not isinstance(flow, Flow):
            return 0
        n, tokens, channels = sizes.latents("val")
        few = min(self.paths, self._few(flow))
        x = torch.empty(few, tokens, channels, device="meta")
        labels = torch.zeros(few, dtype=torch.int64, device="meta")
        network = forward_memory(flow.velocity, x, torch.empty(few, device="meta"), labels)
        numbers = few * (self.steps + 1) * tokens * channels
        return 4 * n * tokens * channels + network + 2 * 4 * numbers + 4 * 8 * numbers

    def flops(self, sizes: SubjectSizes) -> int:
        evaluations = min(self.paths, sizes.samples) * self.steps + min(self.paths, sizes.val) * len(RATIOS)
        return evaluations * sizes.velocity_flops()

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name == "matched_loss":
            return {
                "n": min(self.paths, subject.dataset.size("val")),
                "latents": "of val, drawn",
                "signal_to_noise": list(RATIOS),
            }
        assert subject.samples is not None
        return {
            "n": min(self.paths, len(subject.samples)),
            "solver": "Euler, equal steps",
            "steps": self.steps,
            "guidance": "none",
        }
