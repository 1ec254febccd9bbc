"""The training of a regularizer's critics, beside the tokenizer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from ..api import Regularizer, Step
from ..runtime.processes import Group
from .optimizers import DEFAULTS, Learner, adamw, group_settings


class CriticsTraining:
    """An optimizer for each critic, which descends the regularizer's `critic_loss` on detached latents."""

    def __init__(
        self,
        regularizer: Regularizer,
        critics: Mapping[str, nn.Module],
        optimizer: Sequence[Mapping[str, Any]],
        steps: int,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        self.regularizer, self.accelerator = regularizer, accelerator
        self.learners: dict[str, Learner] = {}
        for name, critic in critics.items():
            settings = group_settings(DEFAULTS, *optimizer, group=f"critics.{name}")
            parameters = [p for p in critic.parameters() if p.requires_grad]
            adam = adamw([(settings, parameters)])
            self.learners[name] = Learner(adam, parameters, settings["clip"], steps, accelerator, group)

    def update(
        self, z: Tensor, step: Step, further: Callable[[int], tuple[Tensor, Step]]
    ) -> dict[str, Tensor]:
        """Updates every critic `critic_steps` times; returns each critic's last loss.

        The first update takes the tokenizer's batch. The others take `further(turn)`, which draws images by
        itself: the tokenizers of all rows see the same images in the same order, whatever `critic_steps` is.
        """
        losses: dict[str, Tensor] = {}
        if not self.learners:
            return losses
        for turn in range(self.regularizer.critic_steps):
            if turn:
                z, step = further(turn)
            for name in self.learners:
                noise = step.noise.fork("critic").fork(name)
                losses[name] = self._update(name, z.detach(), replace(step, noise=noise))
        return losses

    def _update(self, name: str, z: Tensor, step: Step) -> Tensor:
        learner = self.learners[name]
        learner.zero_grad()
        with self.accelerator.autocast():
            loss = self.regularizer.critic_loss(name, z, step)
        learner.descend(loss, step.index)
        return loss
