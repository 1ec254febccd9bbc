"""ResNet-50 with group norms and a projection head, an encoder alone: LZN's case study 2 (2025)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from timm.layers import GroupNorm
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as Backbone
from torch import Tensor, nn

from ..bench.api import ImageSpec, LatentSpec, Tokenizer
from ..bench.registry import register

SMALL = 64  # largest side in pixels at which the first layers keep the resolution
Positive = Annotated[int, Field(ge=1)]


def norm(channels: int, least: int = 2, **options: Any) -> GroupNorm:
    """A group norm of at most 32 groups with `least` or more channels; a vector's groups need several."""
    return GroupNorm(channels, math.gcd(32, channels, max(1, channels // least)), **options)


def backbone(channels: int, width: int, layers: tuple[int, ...], small: bool) -> Backbone:
    """timm's network of bottleneck blocks, (B, c, H, W) -> (B, 32 * width), without a classifier.

    For small images it has SimCLR's first layers (Chen et al., 2020, B.9): a 3 x 3 convolution, no pooling.
    """
    widths = tuple(width * 2**stage for stage in range(len(layers)))
    block: Any = Bottleneck  # timm annotates an instance where it takes the class
    network: Any = Backbone(block, layers, num_classes=0, in_chans=channels, channels=widths, norm_layer=norm)
    if small:
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def linear(inner: int, outer: int) -> list[nn.Module]:
    """A linear layer of the head with its norm, which has the offset."""
    return [nn.Linear(inner, outer, bias=False), norm(outer, least=8)]


class Encoder(nn.Module):
    """Images (B, c, H, W) -> (B, 1, channels of `head`); the tokenizer sets `head` last."""

    head: nn.Sequential

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.backbone = network

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))[:, None]


@register("resnet")
class ResNet(Tokenizer):
    """An encoder of an image to one token of `channels` numbers, without a decoder and so without generators.

    Images of up to 64 pixels keep their resolution in the first layers. `head` is its number of linear
    layers: LZN's text and released configuration have 2, but the published number of parameters has 1.

    Paper: Lin et al., "Latent Zoning Network", 2025; He et al., "Deep Residual Learning", 2016 (arXiv
    1512.03385).
    """

    sizes = {"resnet50": {"width": 64, "layers": (3, 4, 6, 3), "channels": 256}}
    decodes: ClassVar[bool] = False

    encoder: Encoder
    decoder: nn.Sequential

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        width: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        layers: tuple[Positive, Positive, Positive, Positive] = (1, 1, 1, 1),
        channels: Annotated[int, Field(ge=8)] = 32,
        head: Literal[1, 2] = 2,
        extra: int = 0,
    ) -> None:
        """
        Args:
            width: channels inside the first stage's blocks; each further stage doubles them.
            layers: blocks in each of the four stages.
            channels: numbers in each latent token.
            head: linear layers after the pooled features.
        """
        super().__init__(image, expansion, extra)
        if min(image.height, image.width) < 8:
            raise ValueError(f"a ResNet needs at least 8 x 8 pixels, not {image.height} x {image.width}")
        self.spec = LatentSpec(tokens=1, channels=channels)
        small = max(image.height, image.width) <= SMALL
        self.encoder = Encoder(backbone(image.channels, width, layers, small))
        self.decoder = nn.Sequential()
        features = self.encoder.backbone.num_features
        hidden = [*linear(features, features), nn.ReLU()] if head == 2 else []
        self.encoder.head = nn.Sequential(*hidden, *linear(features, channels * expansion + extra))

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return {"encoder": self.encoder.head[-2].get_parameter("weight")}

    def features(self, images: Tensor) -> Tensor:
        """The pooled maps before the head, which predict a class better (LZN, D.4; SimCLR, 4.2)."""
        return self.encoder.backbone(images)
