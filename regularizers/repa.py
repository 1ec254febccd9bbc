"""Alignment of latents with a frozen teacher's features: REPA's loss, VA-VAE's, SoftVQ's and REPA-E's."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import Flow, Generator, LatentSpec, Noise, Regularizer, Step, Unfit
from ..bench.api.transfer import sent
from ..bench.flow import euler, guided, interpolate
from ..bench.nn.blocks import drop_labels, single, without_autocast
from ..bench.nn.teacher_alignment import check_pairs, cosine_loss, paired, projector
from ..bench.registry import Use, register, use
from ..bench.runtime.processes import gathered, own

Weight = Annotated[float, Field(ge=0)]
Width = Annotated[int, Field(ge=1)]


def vf_loss(z: Tensor, f: Tensor, cos_margin: float, dist_margin: float) -> tuple[Tensor, Tensor]:
    """VA-VAE's two terms, each a mean and at least 0: z (B, N, F), f (B, N, F) -> (), ().

    The first is 0 where each token's cosine similarity with the teacher's token exceeds 1 - cos_margin. The
    second is 0 where the similarities of an image's pairs of tokens differ by at most dist_margin from those
    of the teacher's pairs.
    """
    z, f = F.normalize(single(z), dim=-1), F.normalize(f, dim=-1)
    with without_autocast(z):
        difference = (z @ z.mT - f @ f.mT).abs()  # (B, N, N)
    return F.relu(1 - cos_margin - (z * f).sum(-1)).mean(), F.relu(difference - dist_margin).mean()


@register("repa")
class REPA(Regularizer):
    """Cosine similarity of projected latents to a frozen teacher's tokens (Yu et al., 2025; DMVAE, eq. 2).

    The default weight is SoftVQ's.

    Paper: Yu et al., "Representation Alignment for Generation", 2025 (arXiv 2410.06940).
    """

    def __init__(
        self, spec: LatentSpec, teacher_spec: LatentSpec, weight: Weight = 0.1, width: Width = 256
    ) -> None:
        """
        Args:
            weight: factor of the loss, minus the mean cosine similarity.
            width: hidden width of the projector.
        """
        super().__init__(spec)
        check_pairs(spec, teacher_spec)
        self.weight, self.teacher = weight, teacher_spec
        self.projector = projector(spec.channels, width, teacher_spec.channels)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        return {"repa": self.weight * cosine_loss(self.projector(z), paired(step, self.teacher, self.spec))}


@register("vf")
class VF(Regularizer):
    """VA-VAE's margin losses on linearly projected latents and on their similarities (Yao et al., 2025).

    `weight` is the size of the term's gradient at the encoder's last layer, as a share of the
    reconstruction's. VA-VAE has a KL term of 1e-6 and an adversarial loss beside it.

    Paper: Yao et al., "Reconstruction vs. Generation", 2025 (arXiv 2501.01423).
    """

    def __init__(
        self,
        spec: LatentSpec,
        teacher_spec: LatentSpec,
        weight: Weight = 0.1,
        cos_margin: Annotated[float, Field(ge=0, le=2)] = 0.5,
        dist_margin: Annotated[float, Field(ge=0, le=2)] = 0.25,
    ) -> None:
        """
        Args:
            weight: size of the term's gradient at the encoder's last layer, as a share of the
                reconstruction's.
            cos_margin: tokens whose cosine similarity exceeds 1 - cos_margin cost nothing.
            dist_margin: similarities of two tokens that differ by at most this from the teacher's cost
                nothing.
        """
        super().__init__(spec)
        check_pairs(spec, teacher_spec)
        self.balanced, self.teacher = {"vf": weight}, teacher_spec
        self.cos_margin, self.dist_margin = cos_margin, dist_margin
        self.projector = nn.Linear(spec.channels, teacher_spec.channels, bias=False)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        features = paired(step, self.teacher, self.spec)
        cos, dist = vf_loss(self.projector(z), features, self.cos_margin, self.dist_margin)
        return {"vf": cos + dist}


@register("softvq_align")
class SoftVQAlign(Regularizer):
    """SoftVQ's alignment of latent tokens without a grid to more teacher tokens (Chen et al., 2025).

    `repeat`: each projected token is aligned with equally many teacher tokens, consecutive in raster order
    (a strip of a row). `average`: the teacher's tokens are pooled along the raster to the number of latent
    tokens. `global`: the means over all tokens are aligned.

    Paper: Chen et al., "SoftVQ-VAE", 2025 (arXiv 2412.10958).
    """

    def __init__(
        self,
        spec: LatentSpec,
        teacher_spec: LatentSpec,
        mode: Literal["repeat", "average", "global"] = "repeat",
        weight: Weight = 0.1,
        width: Width = 256,
    ) -> None:
        """
        Args:
            mode: how latent tokens meet the teacher's: each repeated, the teacher's averaged, or the means of
                both.
            weight: factor of the loss, minus the mean cosine similarity.
            width: hidden width of the projector.
        """
        super().__init__(spec)
        self.share, rest = divmod(teacher_spec.tokens, spec.tokens)
        if mode == "repeat" and rest:
            raise Unfit(
                f"{spec.tokens} latent tokens cannot be repeated to {teacher_spec.tokens} teacher tokens: "
                "take the mode 'average' or 'global'"
            )
        self.mode, self.weight = mode, weight
        self.projector = projector(spec.channels, width, teacher_spec.channels)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        assert step.features is not None
        features = step.features
        if self.mode == "global":
            z, features = z.mean(1), features.mean(1)
        elif self.mode == "average":
            features = F.adaptive_avg_pool1d(features.mT, self.spec.tokens).mT
        projected = self.projector(z)
        if self.mode == "repeat":
            projected = projected.repeat_interleave(self.share, dim=1)
        return {"softvq_align": self.weight * cosine_loss(projected, features)}


class Whitening(nn.Module):
    """A batch norm over channels without an affine map, whose running statistics also undo it.

    In training it uses the batch's own statistics and tracks them, as `nn.BatchNorm2d` does.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-4, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tracked = self.running_mean, self.running_var
        return F.batch_norm(z.mT, *tracked, training=self.training, momentum=self.momentum, eps=self.eps).mT

    def inverse(self, x: Tensor) -> Tensor:
        """Undoes `forward` by the running statistics.

        REPA-E leaves out eps here, and so is off by 5e-5 where var = 1.
        """
        return x * (self.running_var + self.eps).sqrt() + self.running_mean

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Sets the running statistics to those of latents (B, T, C)."""
        self.running_var.copy_(z.flatten(0, 1).var(0))
        self.running_mean.copy_(z.mean((0, 1)))


class Joint(Generator):
    """A flow on whitened latents with a projector of its hidden tokens after block `tap`."""

    def __init__(
        self, spec: LatentSpec, classes: int, prior: Use, tap: int, width: int, outputs: int, dropout: float
    ) -> None:
        super().__init__(spec, classes)
        self.tap, self.dropout = tap, dropout
        self.flow = use(Flow, prior, spec=spec, classes=classes)
        # A copy on the meta device costs nothing and gives the hidden width; it raises without such a block.
        with torch.device("meta"):
            like = use(Flow, prior, spec=spec, classes=classes)
            hidden = like.velocity(torch.empty(1, spec.tokens, spec.channels), torch.empty(1), None, tap)[1]
        self.whitening = Whitening(spec.channels)
        self.projector = projector(hidden.shape[-1], width, outputs)

    def forward(self, z: Tensor, labels: Tensor | None, noise: Noise) -> tuple[Tensor, Tensor]:
        """The denoising loss () and the projected hidden tokens (B, T, F) of latents z (B, T, C).

        Times are uniform and the loss is the velocity's mean squared error, whatever the flow's own loss.
        """
        if self.training:  # by the statistics of the whole batch
            z = own(self.whitening(gathered(z, noise)), noise)
            labels = drop_labels(labels, self.dropout, noise)
        else:
            z = self.whitening(z)
        t, start = noise.uniform(z[:, 0, 0], "t"), noise.normal(z, "noise")
        predicted, hidden = self.flow.velocity(interpolate(z, start, t), t, labels, self.tap)
        return (predicted - (z - start)).square().mean(), self.projector(hidden)

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """The denoising loss alone: as a generator of the matrix it has no teacher."""
        return {"velocity": self(z, labels, noise)[0]}

    def sample(
        self, labels: Tensor, guidance: float, noise: Noise, *, steps: Annotated[int, Field(ge=1)] = 30
    ) -> Tensor:
        """Samples by Euler's method, guided in all channels; the result is in the tokenizer's units."""
        like = self.whitening.running_mean.new_empty(len(labels), self.spec.tokens, self.spec.channels)

        def field(x: Tensor, t: Tensor) -> Tensor:
            t = sent(t, x.device).to(x.dtype)
            if guidance == 1 or self.classes == 0:
                return self.flow.velocity(x, t, labels, self.tap)[0]
            return guided(lambda x, t, y: self.flow.velocity(x, t, y, self.tap)[0], x, t, labels, guidance)

        times = torch.linspace(0, 1, steps + 1, device="cpu")
        return self.whitening.inverse(euler(field, noise.normal(like, "noise"), times))


@register("repa_e")
class REPAE(Regularizer):
    """Latents are aligned through the hidden tokens of a jointly trained generator (Leng et al., 2025).

    The generator learns on detached latents, from the denoising loss and the alignment (times
    `generator_weight`). The encoder learns from the alignment alone (times `weight`), through the frozen
    generator: the denoising loss would make its latents vanish. Both see the same times and noise. REPA-E
    tunes a pretrained VAE, beside its KL term (1e-6), LPIPS and adversarial loss.

    Paper: Leng et al., "REPA-E", 2025 (arXiv 2504.10483).
    """

    version = 2  # since the whitening's statistics are averaged with the weights

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        teacher_spec: LatentSpec,
        prior: Annotated[Use, Flow] = "lightningdit",
        weight: Weight = 1.5,
        generator_weight: Weight = 0.5,
        tap: Annotated[int, Field(ge=1)] = 2,
        width: Width = 256,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """
        Args:
            prior: architecture of the jointly trained generator.
            weight: factor of the alignment in the encoder's loss.
            generator_weight: factor of the alignment in the generator's loss.
            tap: block of the generator whose hidden tokens are aligned, counted from 1.
            width: hidden width of the projector.
            label_dropout: share of labels that the joint generator isn't told, which guidance needs.
        """
        super().__init__(spec)
        check_pairs(spec, teacher_spec)
        self.weight, self.generator_weight, self.teacher = weight, generator_weight, teacher_spec
        self.joint = Joint(spec, classes, prior, tap, width, teacher_spec.channels, label_dropout)

    def begin(self, z: Tensor) -> None:
        self.joint.whitening.start(z)  # REPA-E takes its pretrained VAE's statistics of the whole data set

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        self.joint.eval()  # uses the running statistics without changing them, and drops no labels
        hidden = self.joint(z, step.labels, self._noise(step))[1]
        return {"repa_e": self.weight * cosine_loss(hidden, paired(step, self.teacher, self.spec))}

    def critics(self) -> dict[str, nn.Module]:
        return {"generator": self.joint}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        self.joint.train()
        denoising, hidden = self.joint(z, step.labels, self._noise(step))
        return denoising + self.generator_weight * cosine_loss(hidden, paired(step, self.teacher, self.spec))

    def generator(self) -> Generator:
        return self.joint

    def _noise(self, step: Step) -> Noise:
        """One noise stream for both losses of an update; the loop gives each its own."""
        return replace(step.noise, stream=("repa_e", str(step.index)))
