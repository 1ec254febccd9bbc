"""An exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

TRACKED = ("running_mean", "running_var")  # batch norms' statistics, averaged like weights (REPA-E)


class Average:
    """An exponential moving average of parameters with decay min(d, (1 + k) / (10 + k)) at update k.

    The ramp, as in LZN's released code, lets short runs use the decay of long ones.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.learned = dict(module.named_parameters(remove_duplicate=False))
        self.shadow: dict[str, Tensor] = {}
        if decay:
            self.shadow = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int, ends: Mapping[int, int] = MappingProxyType({})) -> None:
        """Averages in the parameters after update `step` and batch norms' statistics; copies other buffers.

        Args:
            ends: the number of updates after which a parameter, by id, is no longer trained. Its average then
                stays too, as in LZN's released code; otherwise it would converge to the last weights.
        """
        if not self.shadow:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        # Not by `state_dict`, which takes longer than the average of a small module.
        current = self.learned | dict(module.named_buffers(remove_duplicate=False))
        finished = {name for name, p in self.learned.items() if step >= ends.get(id(p), step + 1)}
        averaged = [
            n for n in self.shadow if (n in self.learned and n not in finished) or n.endswith(TRACKED)
        ]
        shadows = [self.shadow[name] for name in averaged]
        if shadows:  # a module may have buffers only
            torch._foreach_lerp_(shadows, [current[name] for name in averaged], weight)
        for name in self.shadow.keys() - set(averaged) - finished:
            self.shadow[name].copy_(current[name])

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The averaged state dict, or the module's current one if the decay is 0."""
        return self.shadow or module.state_dict()
