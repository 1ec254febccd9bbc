"""The one-dimensional tokenizer of SoftVQ-VAE (Chen et al., 2024): two timm ViTs, learned latent tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import ImageSpec, LatentSpec, Noise, Tokenizer, Unfit
from ..bench.nn.patch_mask import PatchMask
from ..bench.nn.released_weights import VIT, renamed
from ..bench.nn.timm_vit import add_positions, transformer
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
L_64: dict[str, Any] = {
    "model": "vit_large_patch14_dinov2.lvd142m",
    "patch": 16,
    "latents": 64,
    "channels": 32,
}
# Our prefixes of parameters and those of `SoftVQModel` in Hhhhhhao/continuous_tokenizer.
RELEASED = {
    VIT: "encoder.model.",
    "encoder.latents": "encoder.latent_tokens",
    "encoder.positions": "encoder.latent_pos_embed",
    "encoder.codebooks.codes": "quantize.embedding",
    "encoder.head.": "quant_conv.",
    "encoder.mask.token": "encoder.mask_token",
    "decoder.vit.": "decoder.model.",
    "decoder.mask": "decoder.mask_token",
    "decoder.positions": "decoder.latent_pos_embed",
    "decoder.embed.": "post_quant_conv.",
    "decoder.head.": "decoder.to_pixel.model.",
}


def small(*shape: int) -> nn.Parameter:
    """Learned tokens or positions, which start as N(0, 0.02^2)."""
    return nn.Parameter(0.02 * torch.randn(*shape))


class Codebooks(nn.Module):
    """Soft quantisation: each token becomes a mean of unit codes, weighted by their cosine similarity.

    Each codebook serves an equal number of consecutive tokens.
    """

    def __init__(self, books: int, codes: int, channels: int, temperature: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(F.normalize(torch.randn(books, codes, channels), dim=-1))
        self.temperature = temperature

    def forward(self, h: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tokens = F.normalize(h, dim=-1).unflatten(1, (len(self.codes), -1))  # (B, books, T / books, C)
        codes = F.normalize(self.codes, dim=-1)
        # No gradient passes through the weights to the codes: they learn as values alone.
        similarity = tokens @ codes.detach().mT
        return ((similarity / self.temperature).softmax(-1) @ codes).flatten(1, 2)


class Encoder(nn.Module):
    """Images (B, c, H, W) -> (B, T, channels of `head`); the tokenizer sets `head` last.

    With noise, `mask` hides patches, where there is one.
    """

    head: nn.Linear
    mask: PatchMask | None

    def __init__(self, vit: VisionTransformer, latents: int, codebooks: Codebooks | None) -> None:
        super().__init__()
        self.vit, self.codebooks, self.mask = vit, codebooks, None
        self.latents = small(1, latents, vit.embed_dim)
        self.positions = small(1, latents, vit.embed_dim)

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        x = self.vit.patch_embed(images)
        if self.mask is not None and noise is not None:
            x = self.mask(x, noise)
        x = add_positions(self.vit, x)
        latents = (self.latents + self.positions).expand(len(x), -1, -1)
        x = self.vit.norm_pre(torch.cat((x, latents), 1))
        h = self.head(self.vit.norm(self.vit.blocks(x))[:, -latents.shape[1] :])
        return h if self.codebooks is None else self.codebooks(h)


class Decoder(nn.Module):
    """z (B, T, C) -> (B, c, H, W)."""

    def __init__(self, vit: VisionTransformer, image: ImageSpec, spec: LatentSpec, patch: int) -> None:
        super().__init__()
        self.vit, self.patch = vit, patch
        vit.patch_embed.requires_grad_(False)  # unused, but in released checkpoints and published counts
        self.patches, self.rows = vit.patch_embed.num_patches, image.height // patch
        self.mask = small(1, 1, vit.embed_dim)
        self.positions = small(1, spec.tokens, vit.embed_dim)
        self.embed = nn.Linear(spec.channels, vit.embed_dim)
        self.head = nn.Linear(vit.embed_dim, image.channels * patch**2)

    def forward(self, z: Tensor) -> Tensor:
        x = add_positions(self.vit, self.mask.expand(len(z), self.patches, -1))
        x = self.vit.norm_pre(torch.cat((x, self.embed(z) + self.positions), 1))
        first = self.vit.num_prefix_tokens
        x = self.head(self.vit.norm(self.vit.blocks(x))[:, first : first + self.patches])
        # Pixels of a patch are in the order row, column, colour.
        x = x.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.rows, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


@register("softvq")
class SoftVQ(Tokenizer):
    """A ViT autoencoder whose bottleneck is `latents` learned tokens.

    Sizes are for 256 pixels: `L-64` without codebooks, also Flow Priors' plain AE and KL rows, and
    `softvq-L-64` as SoftVQ released it. `weights` of the row may be a released checkpoint or a timm file for
    the encoder's transformer, such as DINOv2's, from which published runs start. Codebooks are trained by the
    reconstruction alone, without SoftVQ's entropy loss.

    `mask` is MAETok's masking (Chen et al., 2025, arXiv 2502.03444): in training a learned token takes the
    place of some patches in the encoder. Their share is one draw a batch from a normal distribution around
    the greatest share, with standard deviation 0.25, truncated to the range. MAETok's range is [0.4, 0.6],
    which gives 0.505 on average.

    Paper: Chen et al., "SoftVQ-VAE", 2025 (arXiv 2412.10958).
    """

    sizes = {"L-64": L_64, "softvq-L-64": L_64 | {"codebooks": 4}}
    later = frozenset({"mask"})

    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        model: str = "test_vit",
        patch: Positive = 4,
        latents: Positive = 8,
        channels: Positive = 8,
        codebooks: Annotated[int, Field(ge=0)] = 0,
        codes: Positive = 8192,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        mask: tuple[Share, Share] | None = None,
        extra: int = 0,
    ) -> None:
        """
        Args:
            model: timm's name of the vision transformers that encode and decode.
            patch: side of a patch in pixels.
            latents: number of latent tokens.
            channels: numbers in each latent token.
            codebooks: number of codebooks, which share the tokens; 0 leaves tokens as they are.
            codes: codes in each codebook.
            temperature: temperature of the weights of codes; a lower one is nearer to the nearest code.
            mask: least and greatest share of patches that the encoder doesn't see in training, such as [0.4,
                0.6]; null: it sees all.
        """
        super().__init__(image, expansion, extra)
        if codebooks and (expansion > 1 or extra):
            raise Unfit("tokens of codebooks are points: no posterior can be made of them")
        if codebooks and latents % codebooks:
            raise ValueError(f"codebooks {codebooks} does not divide latents {latents}")
        self.spec = LatentSpec(latents, channels)
        books = Codebooks(codebooks, codes, channels, temperature) if codebooks else None
        self.encoder = Encoder(transformer(model, image, patch), latents, books)
        self.decoder = Decoder(transformer(model, image, patch), image, self.spec, patch)
        if mask is not None:
            self.encoder.mask = PatchMask(self.encoder.vit.embed_dim, mask)
        self.encoder.head = nn.Linear(self.encoder.vit.embed_dim, channels * expansion + extra)

    def encode_in_training(self, images: Tensor, noise: Noise) -> Tensor:
        return self.encoder(images, noise)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part.get_parameter("head.weight") for name, part in parts.items()}

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return renamed(state, RELEASED)
