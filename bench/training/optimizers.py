"""Optimizers as a matrix sets them: AdamW, warm-up, schedule and clipping, per group of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..runtime.processes import Group

# The defaults of all settings that a matrix may write: the fields of `Optimizer` in `matrix/settings.py`.
DEFAULTS: dict[str, Any] = {
    "lr": 1e-3,
    "betas": (0.9, 0.95),
    "weight_decay": 0.0,
    "decayed": "all",
    "warmup": 50,
    "schedule": "cosine",  # helps short budgets most: 600 steps of `vit` on digits end at 50 dB, not 34
    "hold": 0,
    "floor": 0.0,
    "steps": None,
    "clip": 1.0,
    "ema": 0.0,
}
# Generators are sampled with the average of their weights, as in every paper.
GENERATOR_DEFAULTS = DEFAULTS | {"ema": 0.999}


def group_settings(
    defaults: Mapping[str, Any], *layers: Mapping[str, Any], group: str = ""
) -> dict[str, Any]:
    """The settings of one group; later ones win: defaults, each layer's own keys, each layer's group keys.

    A group is named by a dotted path, such as `encoder` or `critics.fake`; "" has no group keys.
    """
    nested: list[Mapping[str, Any]] = []
    if group:
        for layer in layers:
            for name in group.split("."):
                layer = layer.get(name, {})
            nested.append(layer)
    settings = dict(defaults)
    for layer in (*layers, *nested):
        settings |= {key: value for key, value in layer.items() if key in defaults}
    return settings


def rate(settings: Mapping[str, Any], step: int, total: int) -> float:
    """The learning rate at an update: linear warm-up, then constant or a cosine down to `floor`.

    The cosine starts after `hold` updates (SimFlow's second stage) and lasts for the rest of `total`.
    """
    warm = min(1.0, (step + 1) / max(1, settings["warmup"]))
    decay = 1.0
    if settings["schedule"] == "cosine":
        hold = settings["hold"]
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0, step - hold) / max(1, total - hold))))
        lowest = min(1.0, settings["floor"] / settings["lr"]) if settings["lr"] else 0.0
        decay = lowest + (1 - lowest) * decay
    return settings["lr"] * warm * decay


def adamw(groups: Iterable[tuple[dict[str, Any], list[nn.Parameter]]]) -> torch.optim.AdamW:
    """One AdamW over groups of (settings, parameters); `step_optimizer` reads the settings in each group."""
    param_groups = [
        {
            "params": members,
            "settings": settings,
            "lr": settings["lr"],
            "betas": tuple(settings["betas"]),
            "weight_decay": settings["weight_decay"],
        }
        for group in groups
        for settings, members in _by_decay(*group)
    ]
    used = [group for group in param_groups if group["params"]]
    # Fused: for many small tensors one pass over each instead of a dozen. A tokenizer may have no parameters.
    return torch.optim.AdamW(used or param_groups[:1], fused=True)


def step_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    step: int,
    total: int,
    clip: float,
    accelerator: Accelerator,
    group: Group,
) -> None:
    """One update by the current gradients, averaged over processes and then clipped together.

    A group that has had its number of `steps` loses its gradients: its parameters stay as they are and don't
    count in the norm.
    """
    for param_group in optimizer.param_groups:
        limit = param_group["settings"]["steps"]
        if limit is not None and step >= limit:
            for parameter in param_group["params"]:
                parameter.grad = None
        param_group["lr"] = rate(param_group["settings"], step, total)
    group.average_gradients(parameters)
    if clip:
        accelerator.clip_grad_norm_(parameters, clip)
    optimizer.step()


class Learner:
    """Parameters that one loss trains, with their optimizer."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        clip: float,
        total: int,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        """
        Args:
            clip: the norm to which the gradients of all parameters together are clipped; 0: none.
            total: the updates over which the schedule of the learning rate extends.
        """
        self.optimizer: torch.optim.Optimizer = accelerator.prepare(optimizer)
        self.parameters, self.clip, self.total = parameters, clip, total
        self.accelerator, self.group = accelerator, group

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def descend(self, loss: Tensor | int, update: int) -> None:
        """The backward pass of a loss, and one update of the parameters."""
        self.accelerator.backward(loss)
        step_optimizer(
            self.optimizer, self.parameters, update, self.total, self.clip, self.accelerator, self.group
        )

    def requires_grad_(self, requires_grad: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(requires_grad)


def last_steps(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """The number of updates after which a parameter, by id, is no longer trained, where there is a limit."""
    limits = [(group["settings"]["steps"], group["params"]) for group in optimizer.param_groups]
    return {id(p): limit for limit, params in limits if limit is not None for p in params}


def _by_decay(
    settings: dict[str, Any], parameters: list[nn.Parameter]
) -> list[tuple[dict[str, Any], list[nn.Parameter]]]:
    """One group, or two if only matrices are `decayed`, as in MAR: biases and gains then don't decay."""
    if settings["decayed"] == "all":
        return [(settings, parameters)]
    vectors = [p for p in parameters if p.dim() < 2]
    matrices = [p for p in parameters if p.dim() >= 2]
    return [(settings, matrices), (settings | {"weight_decay": 0.0}, vectors)]
