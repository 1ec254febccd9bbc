"""A normalizing flow made of causal transformers (TARFlow: Zhai et al., 2024; STARFlow, SimFlow: 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from ..bench.api import LatentSpec, Likelihood, Noise, Unfit
from ..bench.flow import with_unconditional
from ..bench.nn.blocks import divide_width, drop_labels
from ..bench.nn.causal_blocks import AffineBlock, AutoregressiveBlock, Guidance, PrefixBlock
from ..bench.registry import register
from ..bench.runtime.parts_of_batches import in_parts


def _log_density(noise: Tensor, logdet: Tensor) -> Tensor:
    """The log density (B,) of a latent that the flow maps to noise (B, T, C), log |det| (B,) apart."""
    return logdet - 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2))


@register("tarflow")
class TARFlow(Likelihood):
    """Autoregressive blocks in alternating token order, trained by likelihood on noised latents.

    Paper: Zhai et al., "Normalizing Flows are Capable Generative Models", 2024 (arXiv 2412.06329); Gu et al.,
    "STARFlow", 2025 (arXiv 2506.06276).
    """

    later = frozenset({"group", "tolerance"})  # samplers' options that cache keys of older rows don't have
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # No noise, as SimFlow's latents are already noisy. SimFlow names two depths for XXL: 46 (section 5.1)
        # gives the published 1.4 B parameters; 36 (Table 8) gives 1.13 B.
        **{
            f"simflow-{name}": {
                "width": width,
                "blocks": 6,
                "layers": 2,
                "deep": deep,
                "heads": heads,
                "noise_std": 0.0,
                "conditioning": "adaln",
            }
            for name, width, heads, deep in (
                ("S", 384, 6, 2),
                ("B", 768, 12, 2),
                ("L", 1024, 16, 14),
                ("XL", 1152, 16, 18),
                ("XXL", 1152, 16, 46),
            )
        },
        # Class-conditional like the paper's ImageNet models. These are not released; the text models are.
        **{
            f"starflow-{name}": {
                "width": width,
                "blocks": 6,
                "layers": 2,
                "deep": deep,
                "heads": width // 64,
                "noise_std": 0.3,
                "conditioning": "prefix",
            }
            for name, width, deep in (("XL", 2048, 18), ("XXL", 3072, 24))
        },
        # For pixels as tokens: patches of 2 x 2 at 64 pixels, of 4 x 4 at 128 pixels.
        "tarflow-IN64": {"width": 768, "blocks": 8, "layers": 8, "heads": 12, "noise_std": 0.05},
        "tarflow-IN128": {"width": 1024, "blocks": 8, "layers": 8, "heads": 16, "noise_std": 0.15},
    }

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=1)] = 64,
        blocks: Annotated[int, Field(ge=1)] = 4,
        layers: Annotated[int, Field(ge=1)] = 1,
        heads: Annotated[int, Field(ge=1)] = 4,
        noise_std: Annotated[float, Field(ge=0)] = 0.3,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
        deep: Annotated[int, Field(ge=0)] = 0,
        conditioning: Literal["embedding", "adaln", "prefix"] = "embedding",
    ) -> None:
        """
        Args:
            width: width of the transformers.
            blocks: number of invertible blocks; every second one reads the tokens backwards.
            layers: transformer layers per block.
            heads: attention heads, which divide the width.
            noise_std: standard deviation of noise on training latents (TARFlow: up to 0.15; STARFlow: 0.3).
            label_dropout: share of labels that training leaves out, which guidance needs.
            deep: layers of the last block, which comes first in sampling; 0 means `layers`.
            conditioning: `embedding` adds the class to the embedded tokens; `adaln` has adaptive layer norms
                (SimFlow); `prefix` has STARFlow's blocks, with the class as the first token of the last block
                alone, and without STARFlow's penalty on the blocks' inputs (1e-4).
        """
        super().__init__(spec, classes)
        divide_width(width, heads)
        if spec.tokens < 2:
            raise Unfit(
                "tarflow transforms each token given those before it, and this latent has a single one"
            )
        self.noise_std, self.label_dropout = noise_std, label_dropout
        last = blocks - 1
        # Every second block reads the tokens backward; in STARFlow the last block reads forward.
        forward_block = last if conditioning == "prefix" else 0
        self.backward = [(index - forward_block) % 2 == 1 for index in range(blocks)]

        def block(index: int) -> AffineBlock:
            depth = deep if deep and index == last else layers
            if conditioning == "prefix":
                return PrefixBlock(spec, classes if index == last else 0, width, depth, heads)
            return AutoregressiveBlock(spec, classes, width, depth, heads, conditioning == "adaln")

        self.blocks = nn.ModuleList(block(index) for index in range(blocks))

    def forward(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, T, C) -> (noise (B, T, C), log |det d noise / d z| (B,) in nats, summed over dimensions)."""
        logdet = z.new_zeros(len(z))
        for index, block in enumerate(self.blocks):
            z, change = block(self._reorder(z, index), labels)
            z, logdet = self._reorder(z, index), logdet + change
        return z, logdet

    def inverse(
        self,
        noise: Tensor,
        labels: Tensor | None,
        guidance: float = 1.0,
        *,
        anneal: bool = True,
        temperature: float = 1.0,
        guidance_rule: Literal["linear", "starflow"] = "linear",
        group: int = 1,
        tolerance: float = 0.0,
    ) -> Tensor:
        """noise (B, T, C) -> z; the papers' w is ours - 1.

        Args:
            anneal: raises w of the linear rule linearly from 1 over the tokens of each block, as TARFlow's
                evaluate_fid.py always does.
            temperature: divides the attention logits of the unconditional branch.
            guidance_rule: `linear` (TARFlow) guides (a, b) of every block to u + w (c - u) for conditional c
                and unconditional u; `starflow` (also SimFlow) guides the last block alone, by a product of
                Gaussians (`starflow_guide`), and the other blocks stay conditional.
            group: number of tokens that are computed together, until none of their numbers changes by more
                than `tolerance`; see `AffineBlock.inverse`.
            tolerance: largest last change; unused by a group of one.
        """
        rule = Guidance(guidance, guidance_rule, anneal, temperature)
        last = len(self.blocks) - 1
        for index, module in reversed(list(enumerate(self.blocks))):
            block, ordered = cast(AffineBlock, module), self._reorder(noise, index)
            guided = guidance_rule == "linear" or index == last
            if labels is None or guidance == 1 or not block.classes or not guided:
                noise = block.inverse(ordered, labels, None, group, tolerance)
            else:
                noise = block.inverse(ordered, with_unconditional(labels), rule, group, tolerance)
            noise = self._reorder(noise, index)
        return noise

    def _reorder(self, z: Tensor, index: int) -> Tensor:
        """Tokens in the order in which block `index` reads them, or from this order back."""
        return z.flip(1) if self.backward[index] else z

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return _log_density(*self(z, labels))

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The log-likelihood (B,), and the hidden tokens (B, T, width) after layer `tap`, in raster order.

        `tap` counts the layers of all blocks from 1, from the block that takes the data: SimFlow's "layer 1
        at the block 3" of blocks with two layers is 5.
        """
        layers = [
            (index, layer)
            for index, block in enumerate(self.blocks)
            for layer in cast(nn.ModuleList, block.layers)
        ]
        if not 1 <= tap <= len(layers):
            raise ValueError(f"tap = {tap} is none of tarflow's layers 1 to {len(layers)}")
        index, layer = layers[tap - 1]
        outputs: list[Tensor] = []
        with layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output)):
            log_prob = self.log_prob(z, labels)
        return log_prob, self._reorder(outputs[0][:, -z.shape[1] :], index)  # without the class token

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per dimension of the noised latent."""
        noised = z + self.noise_std * noise.normal(z, "noise")
        log_prob = self.log_prob(noised, drop_labels(labels, self.label_dropout, noise))
        return {"nll": -log_prob.mean() / z[0].numel()}

    def score(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The gradient of log p(z) with respect to z (B, T, C), even under `torch.no_grad()`."""
        return in_parts(self._score, z.shape[1], z, labels)

    def _score(self, z: Tensor, labels: Tensor | None) -> Tensor:
        # Of parameters that need no gradient, none is computed: else a third of the work would be for them.
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_prob = _log_density(*functional_call(self, frozen, (z, labels)))
            return torch.autograd.grad(log_prob.sum(), z)[0]

    def sampling_evaluations(self, guided: bool, sampler: Mapping[str, Any]) -> int:
        rounds = min(sampler.get("group", 1), self.spec.tokens)  # at most
        # A score takes the density forward and, to z alone, backward: twice the operations.
        scores = 2 * self._scores(guided, sampler)
        return rounds * super().sampling_evaluations(guided, sampler) + scores

    def sampling_scores(self, guided: bool, sampler: Mapping[str, Any]) -> bool:
        return self._scores(guided, sampler) > 0

    def _scores(self, guided: bool, sampler: Mapping[str, Any]) -> int:
        """How often `sample` evaluates `score`."""
        scores = 1 if sampler.get("denoise") and self.noise_std else 0
        return scores + (2 if guided and sampler.get("score_step") else 0)

    def denoise(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """One step along the score, z + noise_std^2 grad log p(z): the mean of the clean latent (Tweedie)."""
        return z + self.noise_std**2 * self.score(z, labels)

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        denoise: bool = True,
        anneal: bool = True,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        guidance_rule: Literal["linear", "starflow"] = "linear",
        score_step: Annotated[float, Field(ge=0)] = 0.0,
        group: Annotated[int, Field(ge=1)] = 1,
        tolerance: Annotated[float, Field(ge=0)] = 1e-5,
    ) -> Tensor:
        """Inverts noise by `inverse`, applies SimFlow's score step (equation 6), then denoises.

        Args:
            denoise: whether training's noise is removed by Tweedie's formula.
            anneal: whether the linear rule's guidance rises over the tokens of each block, as in TARFlow's
                code.
            temperature: number that divides the attention logits of the unconditional branch.
            guidance_rule: `linear` guides every block (TARFlow); `starflow` guides the last block alone, by a
                product of Gaussians (STARFlow, SimFlow).
            score_step: gamma of SimFlow (0.25), which moves z by gamma (grad log p(z | c) - grad log p(z)),
                with the likelihood summed over all elements. Not applied at guidance = 1.
            group: number of tokens that are computed together, by repeated passes, in place of one after
                another: faster on a GPU, whose passes take as long for few tokens as for one. It is the
                iteration of Liu & Qin (2025, arXiv 2505.12849) without their choice of blocks and of starts:
                each block has the same groups, which start as its noise. Plans count as many passes as a
                group has tokens, the most that it can take.
            tolerance: the passes of a group end when none of its numbers changes by more than this.
        """
        start = next(self.parameters()).new_empty(len(labels), self.spec.tokens, self.spec.channels)
        z = self.inverse(
            noise.normal(start, "noise"),
            labels,
            guidance,
            anneal=anneal,
            temperature=temperature,
            guidance_rule=guidance_rule,
            group=group,
            tolerance=tolerance,
        )
        if score_step and guidance != 1 and self.classes:
            z = z + score_step * (self.score(z, labels) - self.score(z, None))
        return self.denoise(z, labels) if denoise and self.noise_std else z
