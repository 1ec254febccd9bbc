"""A discriminator of images and reconstructions, and the losses of both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

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
LECAM_DECAY = 0.999  # of the running averages of logits


@dataclass(frozen=True)
class Adversarial:
    """The options of `gan` in a matrix, beside `optimizer`; updates are counted from 0.

    Args:
        weight: factor of the tokenizer's term.
        discriminator: PatchGAN, SoftVQ's network on DINO, or DMVAE's on DINOv2.
        loss: the discriminator's loss.
        adaptive: whether the weight is multiplied by the ratio of the gradients of reconstruction and of this
            term at the decoder's last layer (VQGAN).
        start: first update of the tokenizer's term (VA-VAE and DMVAE: 5,000; SoftVQ: 20,000).
        discriminator_start: first update of the discriminator; null: the same.
        discriminator_weight: factor of hinge and LeCam, and not of the consistency (SoftVQ: 0.2).
        lecam: factor of LeCam's regularizer (SoftVQ: 0.001).
        augment: probability of DiffAugment (SoftVQ: 0.5; DMVAE: 1).
        cutout: side of DiffAugment's cutout, as a fraction of the image's.
        consistency: factor of the consistency under stronger augmentation (SoftVQ: 4; DMVAE: 1).
        consistency_cutout: side of that augmentation's cutout, as a fraction of the image's (DMVAE: 0.2).
        width: channels of the first layer of `patch`.
        layers: layers of `patch`.
        dino: weights of `dino` and `dinov2`: a file, or `random`.
        model: one of timm's transformers, in place of the default one of `dino` or `dinov2`.
        resolution: side in pixels of the transformer's input.
    """

    has_optimizer: ClassVar[bool] = True

    weight: Weight = 0.5
    discriminator: Literal["patch", "dino", "dinov2"] = "patch"
    loss: Literal["hinge"] = "hinge"
    adaptive: bool = True
    start: Updates = 0
    discriminator_start: Updates | None = None
    discriminator_weight: Weight = 1.0
    lecam: Scale = 0.0
    augment: Share = 0.0
    cutout: Share = 0.2
    consistency: Scale = 0.0
    consistency_cutout: Share = 0.5
    width: Count = 64
    layers: Count = 3
    dino: str | None = None
    model: str | None = None
    resolution: Count | None = None


def discriminator(options: Adversarial, image: ImageSpec) -> Patch | Features:
    """The network that an option names.

    Raises:
        ValueError: it needs weights, and the options name none.
    """
    from ..nn import discriminators

    if options.discriminator == "patch":
        return discriminators.Patch(image, options.width, options.layers)
    if options.dino is None:
        raise ValueError(
            f"gan: the discriminator {options.discriminator} needs `dino: PATH` or `dino: random`"
        )
    layout = discriminators.LAYOUTS[options.discriminator]
    return discriminators.Features(image, layout, options.dino, options.model, options.resolution)


class Adversary(nn.Module):
    """A discriminator of images and reconstructions, its loss, and the tokenizer's loss against it."""

    seen: Tensor

    def __init__(self, network: nn.Module, options: Adversarial) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.register_buffer("seen", torch.zeros(2))  # LeCam's averages of the logits of real and fake images
        self.group = ALONE

    def set_group(self, group: Group) -> None:
        """Takes batch averages over the images of all processes from now on."""
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
        """The tokenizer's loss, not weighted: minus the mean logit of reconstructions (B, c, H, W)."""
        options = self.options
        shown = augmented(reconstruction.float(), noise.fork("augment"), options.augment, options.cutout)
        return -self.network(shown, noise).mean()

    def loss(self, images: Tensor, reconstruction: Tensor, noise: Noise) -> Tensor:
        """The discriminator's loss; both (B, c, H, W) in [-1, 1], without gradients.

        Images and reconstructions form one batch, as in DMVAE's code, so that batch norms treat them alike;
        SoftVQ's code passes one after the other.
        """
        options, sources = self.options, {"real": images, "fake": reconstruction}

        def logits(name: str, probability: float, cutout: float) -> Tensor:
            stream = noise.fork(name)
            shown = [
                augmented(source, stream.fork(kind), probability, cutout).to(images)
                for kind, source in sources.items()
            ]
            return self.network(torch.cat(shown), stream).float()

        weak = logits("augment", options.augment, options.cutout)
        real, fake = weak.chunk(2)
        loss = hinge(real, fake)
        if options.lecam:
            means = self.group.mean(torch.stack((real.detach().mean(), fake.detach().mean())))
            self.seen.lerp_(means, 1 - LECAM_DECAY)
            loss = loss + options.lecam * lecam(real, fake, *self.seen.unbind())
        loss = options.discriminator_weight * loss
        if options.consistency:
            strong = logits("consistency", 1.0, options.consistency_cutout)
            loss = loss + options.consistency * consistency(weak, strong)
        return loss


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of the mean shortfalls from logits of 1 and -1 (Lim & Ye, 2017; half as in VQGAN)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def lecam(real: Tensor, fake: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """Mean squared distances of logits from the other kind's running average (Tseng et al., 2021).

    As in SoftVQ's code only logits beyond the average count: real ones above it, fake ones below it.
    """
    return F.relu(real - mean_fake).square().mean() + F.relu(mean_real - fake).square().mean()


def consistency(logits: Tensor, strongly: Tensor) -> Tensor:
    """Mean squared change of logits under strong augmentation (balanced: Zhao et al., 2021).

    The gradient reaches the logits of both augmentations.
    """
    return F.mse_loss(strongly, logits)


def adaptive_weight(reconstruction: Tensor, gan: Tensor, head: nn.Parameter, group: Group = ALONE) -> Tensor:
    """|d reconstruction / d head| / (|d gan / d head| + 1e-4), at most 1e4, detached (VQGAN, eq. 7).

    DMVAE's code adds 1e-6 in place of 1e-4.
    """
    reconstruction_norm, gan_norm = (
        group.mean(torch.autograd.grad(loss, head, retain_graph=True)[0]).norm()
        for loss in (reconstruction, gan)
    )
    return (reconstruction_norm / (gan_norm + 1e-4)).clamp(0, 1e4).detach()
