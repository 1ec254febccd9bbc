"""A discriminator of images and reconstructions, and the losses of both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..api import ImageSpec, Noise
from ..nn.diffaugment import augmented
from ..options.types import Count, Scale
from ..runtime.processes import ALONE, Group

if TYPE_CHECKING:
    from ..nn.discriminators import Features, Patch

Weight = Annotated[float, Field(gt=0)]
Updates = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
DECAY = 0.999  # of LeCam's averages


@dataclass(frozen=True)
class Adversarial:
    """The options of `gan` in a matrix, beside `optimizer`; updates are counted from 0."""

    weight: Weight = 0.5
    discriminator: Literal["patch", "dino", "dinov2"] = "patch"
    loss: Literal["hinge"] = "hinge"
    adaptive: bool = True  # the weight times |d reconstruction| / |d gan| at the decoder's head (VQGAN)
    start: Updates = 0  # of the tokenizer's term: 5,000 in VA-VAE and DMVAE, 20,000 in SoftVQ
    discriminator_start: Updates | None = None  # null: the same
    discriminator_weight: Weight = 1.0  # of hinge and LeCam, not of the consistency: 0.2 in SoftVQ
    lecam: Scale = 0.0  # 0.001 in SoftVQ
    augment: Share = 0.0  # probability of DiffAugment: 0.5 in SoftVQ, 1 in DMVAE
    cutout: Share = 0.2  # of a side
    consistency: Scale = 0.0  # 4 in SoftVQ, 1 in DMVAE
    consistency_cutout: Share = 0.5  # 0.2 in DMVAE
    width: Count = 64  # of `patch`
    layers: Count = 3  # of `patch`
    dino: str | None = None  # weights of `dino` and `dinov2`: a file, or random
    model: str | None = None  # in place of theirs, one of timm's transformers
    resolution: Count | None = None  # pixels that the transformer sees


def discriminator(options: Adversarial, image: ImageSpec) -> Patch | Features:
    from ..nn import discriminators as known

    if options.discriminator == "patch":
        return known.Patch(image, options.width, options.layers)
    if options.dino is None:
        raise ValueError(
            f"gan: the discriminator {options.discriminator} needs `dino: PATH` or `dino: random`"
        )
    layout = known.LAYOUTS[options.discriminator]
    return known.Features(image, layout, options.dino, options.model, options.resolution)


class Adversary(nn.Module):
    """A discriminator of images and reconstructions, and what it and the tokenizer learn from each other."""

    seen: Tensor

    def __init__(self, network: nn.Module, options: Adversarial) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.register_buffer("seen", torch.zeros(2))  # LeCam's averages of the logits of images and others
        self.group = ALONE

    def share(self, group: Group) -> None:
        """Averages over a batch are from now on over the images of all processes."""
        from ..nn.discriminators import Norm

        for module in self.modules():
            if isinstance(module, Adversary | Norm):
                module.group = group

    @property
    def start(self) -> int:
        """The discriminator's first update."""
        first = self.options.discriminator_start
        return self.options.start if first is None else first

    def fooled(self, reconstruction: Tensor, noise: Noise) -> Tensor:
        """What the tokenizer descends, not weighted: minus the mean logit of its reconstructions."""
        options = self.options
        shown = augmented(reconstruction.float(), noise.fork("augment"), options.augment, options.cutout)
        return -self.network(shown, noise).mean()

    def loss(self, images: Tensor, reconstruction: Tensor, noise: Noise) -> Tensor:
        """What the discriminator descends; both (B, c, H, W) in [-1, 1], without gradients.

        Both go through it in one batch, as in DMVAE's code, so that its batch norms see them alike; SoftVQ's
        takes one after the other.
        """
        options, both = self.options, {"real": images, "fake": reconstruction}

        def logits(name: str, probability: float, cutout: float) -> Tensor:
            own = noise.fork(name)
            shown = [
                augmented(one, own.fork(which), probability, cutout).to(images) for which, one in both.items()
            ]
            return self.network(torch.cat(shown), own).float()

        seen = logits("augment", options.augment, options.cutout)
        real, fake = seen.chunk(2)
        found = hinge(real, fake)
        if options.lecam:
            means = self.group.mean(torch.stack((real.detach().mean(), fake.detach().mean())))
            self.seen.lerp_(means, 1 - DECAY)
            found = found + options.lecam * lecam(real, fake, *self.seen.unbind())
        found = options.discriminator_weight * found
        if options.consistency:
            strongly = logits("consistency", 1.0, options.consistency_cutout)
            found = found + options.consistency * consistency(seen, strongly)
        return found


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of the mean shortfalls from logits of 1 and -1 (Lim & Ye, 2017; half as in VQGAN)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def lecam(real: Tensor, fake: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """Squares of what logits are apart from the other kind's average (Tseng et al., 2021).

    As SoftVQ's code has it, of logits beyond the other's average alone.
    """
    return F.relu(real - mean_fake).square().mean() + F.relu(mean_real - fake).square().mean()


def consistency(logits: Tensor, strongly: Tensor) -> Tensor:
    """How far logits move under strong augmentation, both learning (balanced: Zhao et al., 2021)."""
    return F.mse_loss(strongly, logits)


def adaptive_weight(reconstruction: Tensor, gan: Tensor, head: nn.Parameter, group: Group = ALONE) -> Tensor:
    """|d reconstruction / d head| / (|d gan / d head| + 1e-4), at most 1e4, detached (VQGAN, eq. 7).

    DMVAE's code adds 1e-6 in place of 1e-4.
    """
    there, here = (
        group.mean(torch.autograd.grad(loss, head, retain_graph=True)[0]).norm()
        for loss in (reconstruction, gan)
    )
    return (there / (here + 1e-4)).clamp(0, 1e4).detach()
