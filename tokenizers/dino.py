"""The autoencoder of DMVAE: a pretrained vision transformer, an MLP and a convolutional decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..bench.api import ImageSpec, LatentSpec, Tokenizer
from ..bench.api.transfer import numbers
from ..bench.nn.convolutions import conv, decoder, up
from ..bench.nn.released_weights import VIT, ldm_decoder_names, renamed
from ..bench.nn.timm_vit import transformer
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
# Our prefixes of the encoder's parameters and those of `VAE` in sen-ye/dmvae.
RELEASED = {
    VIT: "encoder.model.",
    "encoder.inner.0.": "bottle_neck.mlp.0.",
    "encoder.head.": "bottle_neck.mlp.2.",
}


def small(module: nn.Module) -> None:
    """Initialiser for `network.apply`: truncated normal weights of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Images (B, c, H, W) -> (B, T, channels of `head`); the tokenizer sets `head` last."""

    head: nn.Linear

    def __init__(self, vit: VisionTransformer, hidden: int, frozen: bool) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(not frozen)
        self.inner = nn.Sequential(nn.Linear(vit.embed_dim, hidden), nn.SiLU())

    def forward(self, images: Tensor) -> Tensor:
        features = self.vit.forward_features(standardised(images))
        return self.head(self.inner(features[:, self.vit.num_prefix_tokens :]))


def standardised(images: Tensor) -> Tensor:
    """Standardises images (B, c, H, W) in [-1, 1] by ImageNet's mean and deviation, if in colour."""
    if images.shape[1] != len(IMAGENET_DEFAULT_MEAN):
        return images
    mean, std = (numbers(v, images)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((images + 1) / 2 - mean) / std


@register("dino")
class Dino(Tokenizer):
    """One latent token per patch of a ViT, through an MLP, and a decoder in Flux's layout.

    The ViT is random unless `weights` of the row is a timm file of the ViT or a released checkpoint of the
    whole tokenizer. DMVAE starts with a `frozen` ViT and then trains the whole encoder.

    Paper: "Distribution Matching Variational AutoEncoder", 2025 (code: sen-ye/dmvae).
    """

    sizes = {
        "L": {
            "model": "vit_large_patch14_dinov2.lvd142m",
            "patch": 16,
            "hidden": 2048,
            "channels": 32,
            "width": 128,
            "mult": (1, 2, 4, 4),
            "blocks": 2,
        },
    }

    regrids = True
    encoder: Encoder
    decoder: nn.Sequential

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        model: str = "test_vit",
        patch: Positive = 4,
        frozen: bool = True,
        hidden: Positive = 128,
        channels: Positive = 8,
        width: Positive = 32,
        mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2),
        blocks: Positive = 1,
        extra: int = 0,
    ) -> None:
        """
        Args:
            model: timm's name of the vision transformer that encodes.
            patch: side of a patch in pixels, 2 to the power of the number of levels in `mult`.
            frozen: whether the vision transformer keeps its weights.
            hidden: hidden width of the MLP between the transformer and the latent.
            channels: numbers in each latent token.
            width: channels of the decoder's last level.
            mult: factors of `width`, one for each level of the decoder.
            blocks: residual blocks in each level of the decoder, to which one is added.
        """
        super().__init__(image, expansion, extra)
        if patch != 2 ** len(mult):
            raise ValueError(f"mult {tuple(mult)} is for patches of {2 ** len(mult)} pixels, not {patch}")
        self.grid = (image.height // patch, image.width // patch)
        self.spec = LatentSpec(self.grid[0] * self.grid[1], channels, self.grid)
        self.encoder = Encoder(transformer(model, image, patch), hidden, frozen)
        # Flux's decoder enlarges eightfold; the first two layers here make that sixteenfold.
        self.decoder = nn.Sequential(
            up(),
            conv(channels, channels),
            conv(channels, width * mult[-1]),
            *decoder(image.channels, width, mult, blocks),
        )
        self.encoder.inner.apply(small)
        self.decoder.apply(small)
        self.encoder.head = nn.Linear(hidden, channels * expansion + extra).apply(small)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        last = {"encoder": self.encoder.head, "decoder": self.decoder[-1]}
        return {name: layer.get_parameter("weight") for name, layer in last.items()}

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z.transpose(1, 2).unflatten(2, grid or self.grid))

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        first = ["decoder.conv_in.0.conv", "decoder.conv_in.1"]
        return renamed(state, RELEASED) | ldm_decoder_names(state, first)
