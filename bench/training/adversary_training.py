"""The training of a discriminator and of a tokenizer against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..api import Step, Tokenizer
from ..runtime.processes import Group
from .adversary import Adversary, adaptive_weight
from .optimizers import Learner, adamw


class AdversaryTraining:
    """A discriminator with its optimizer, whose warm-up and schedule begin at the discriminator's start."""

    def __init__(
        self,
        adversary: Adversary,
        tokenizer: Tokenizer,
        settings: dict[str, Any],
        total: int,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        """
        Args:
            settings: of the discriminator's optimizer.
            total: all updates of the tokenizer, those of its decoder alone included.
        """
        self.adversary, self.tokenizer, self.accelerator, self.group = (
            adversary,
            tokenizer,
            accelerator,
            group,
        )
        adversary.set_group(group)
        parameters = [p for p in adversary.to(accelerator.device).parameters() if p.requires_grad]
        adam, updates = adamw([(settings, parameters)]), total - adversary.start
        self.learner = Learner(adam, parameters, settings["clip"], updates, accelerator, group)

    def fooling(self, terms: Mapping[str, Tensor], images: Tensor, step: Step) -> dict[str, Tensor]:
        """The tokenizer's weighted loss against the discriminator, "gan", and its weight, "gan_weight".

        Args:
            terms: the reconstruction losses, for the adaptive weight.
            images: the reconstructions (B, c, H, W).
        """
        options = self.adversary.options
        if step.index < options.start:
            zero = images.new_zeros(())
            return {"gan": zero, "gan_weight": zero}
        # Batch norms use running averages, as in DMVAE's code: an image's logit depends on no other image.
        loss = self.adversary.eval().fooled(images, step.noise.fork("gan"))
        weight = torch.full_like(loss, options.weight)
        if options.adaptive:
            reconstruction, head = torch.stack([*terms.values()]).sum(), self.tokenizer.heads["decoder"]
            weight = weight * adaptive_weight(reconstruction, loss, head, self.group)
        return {"gan": weight * loss, "gan_weight": weight}

    def update(self, images: Tensor, step: Step) -> dict[str, Tensor]:
        """One update of the discriminator on the step's images and their reconstructions."""
        if step.index < self.adversary.start:
            return {"gan_discriminator": images.new_zeros(())}
        self.learner.zero_grad()
        with self.accelerator.autocast():
            noise = step.noise.fork("discriminator")
            loss = self.adversary.train().loss(step.images, images.detach(), noise)
        self.learner.descend(loss, step.index - self.adversary.start)
        return {"gan_discriminator": loss}
