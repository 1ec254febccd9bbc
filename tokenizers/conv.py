"""The convolutional autoencoder of latent diffusion (Rombach et al., 2022), in MAR's and VA-VAE's layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from ..bench.api import ImageSpec, LatentSpec, Tokenizer
from ..bench.nn import autoencoder_kl
from ..bench.nn.convolutions import conv, decoder, downsampling, encoder
from ..bench.nn.released_weights import ldm_names
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
F16: dict[str, Any] = {"width": 128, "mult": (1, 1, 2, 2, 4), "blocks": 2}


@register("conv")
class Conv(Tokenizer):
    """The convolutional autoencoder of latent diffusion, which halves the size len(mult) - 1 times.

    Sizes are MAR's KL-16 and its wider latents, of which SimFlow uses `f16d64`; all are for expansion 2.

    Paper: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022 (arXiv
    2112.10752).
    """

    sizes = {f"f16d{channels}": F16 | {"channels": channels} for channels in (16, 32, 64, 128)}
    attention: ClassVar[bool] = False  # whether the decoder has attention outside its middle, too

    regrids = True
    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        width: Positive = 32,
        mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2),
        blocks: Positive = 1,
        channels: Positive = 8,
        extra: int = 0,
    ) -> None:
        """
        Args:
            width: channels of the first level.
            mult: factors of `width`, one for each level; each further level halves the size.
            blocks: residual blocks in each level of the encoder; the decoder has one more.
            channels: numbers in each latent token.
        """
        super().__init__(image, expansion, extra)
        self.image, self.widths, self.blocks = image, [width * factor for factor in mult], blocks
        factor = downsampling(image, mult)
        grid = (image.height // factor, image.width // factor)
        self.spec = LatentSpec(grid[0] * grid[1], channels, grid)
        self.grid = grid
        features = encoder(image.channels, width, mult, blocks)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            conv(channels, width * mult[-1]),
            *decoder(image.channels, width, mult, blocks, self.attention),
        )
        hidden = channels * expansion + extra
        self.encoder = nn.Sequential(*features, conv(width * mult[-1], hidden), nn.Conv2d(hidden, hidden, 1))

    @classmethod
    def first_options(cls, image: ImageSpec, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        height, width, mult = image.height, image.width, [1]
        while (len(mult) == 1 or height * width > tokens) and height % 2 == 0 == width % 2:
            height, width = height // 2, width // 2
            mult.append(4 if len(mult) > 2 else 2)
        # A width of 16: at full size convolutions take most of the time.
        return {"width": 16, "mult": mult, "channels": 16 if len(mult) > 3 else 8}

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part[-1].get_parameter("weight") for name, part in parts.items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images).flatten(2).transpose(1, 2)

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z.transpose(1, 2).unflatten(2, grid or self.grid))

    def as_diffusers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        own, attention = self.state_dict(), self.attention
        config = autoencoder_kl.config(
            self.image, self.spec.channels, self.widths, self.blocks, self.modules(), attention
        )
        return config, autoencoder_kl.diffusers_state(own, self.released_names(own))

    @staticmethod
    def released_names(state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return ldm_names(state)


@register("vavae")
class VAVAE(Conv):
    """VA-VAE's layout (Yao et al., 2025): `conv` with attention in the decoder's lowest level too.

    Paper: Yao et al., "Reconstruction vs. Generation", 2025 (arXiv 2501.01423).
    """

    sizes = {"f16d32": F16 | {"channels": 32}}
    attention = True
