"""LZN's networks of images (Lin et al., 2025): a U-Net's encoder, and a rectified flow, told the latent.

The layout is that of NCSN++ and DDPM++ (Song et al., 2021), as Rectified Flow (Liu et al., 2023) uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import Dataset, FlowTokenizer, ImageSpec, LatentSpec, Noise, Step, Unfit
from ..bench.flow import euler, interpolate
from ..bench.nn.blocks import sinusoid
from ..bench.nn.convolutions import conv, downsampling, norm
from ..bench.nn.ode import rk45
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
Style = Literal["ddpm++", "ncsn++"]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

START = 1e-3  # of the flow's time, in training and in drawing
FINEST = 64  # pixels a side of the largest features that the latent is read from
NFE = 127  # evaluations that Rectified Flow reports for RK45 on CIFAR-10
Q = {"channels": 200, "reduced": 20, "units": 200, "solver": "rk45"}
CIFAR10 = Q | {"width": 128, "mult": (1, 2, 2, 2), "blocks": 4, "dropout": 0.15}
IMAGE256 = Q | {"width": 128, "mult": (1, 1, 2, 2, 2, 2, 2), "blocks": 2, "style": "ncsn++"}


def scaled(layer: Layer, scale: float = 1.0) -> Layer:
    """Uniform weights of variance 2 scale / (fan in + fan out), as in DDPM; 0 stands for 1e-10."""
    nn.init.xavier_uniform_(layer.weight, math.sqrt(scale or 1e-10))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def fir(x: Tensor) -> Tensor:
    """(C, 1, 4, 4): the binomial filter (1, 3, 3, 1) / 8 in both directions, for each of x's channels."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    return (row[:, None] * row).expand(x.shape[1], 1, 4, 4)


def halved(x: Tensor, style: Style) -> Tensor:
    """Half the size: means of 2 x 2, or filtered (StyleGAN2, Karras et al., 2020)."""
    if style == "ddpm++":
        return F.avg_pool2d(x, 2)
    return F.conv2d(x, fir(x), stride=2, padding=1, groups=x.shape[1])


def doubled(x: Tensor, style: Style) -> Tensor:
    """Twice the size: nearest, or filtered."""
    if style == "ddpm++":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv_transpose2d(x, 4 * fir(x), stride=2, padding=1, groups=x.shape[1])


class Block(nn.Module):
    """BigGAN's residual block: it may resize, and is told an embedding of time and conditions.

    The sum with the skip connection is divided by the square root of 2.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        embedding: int,
        dropout: float,
        style: Style,
        resize: Literal["", "down", "up"] = "",
    ) -> None:
        super().__init__()
        self.style, self.resize = style, resize
        self.before, self.after = norm(inner), norm(outer)
        self.first, self.last = scaled(conv(inner, outer)), scaled(conv(outer, outer), 0)
        self.told = scaled(nn.Linear(embedding, outer)) if embedding else None
        self.dropout = nn.Dropout(dropout)
        resized = inner != outer or resize
        self.skip = scaled(nn.Conv2d(inner, outer, 1)) if resized else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = F.silu(self.before(x))
        if self.resize:
            to = halved if self.resize == "down" else doubled
            h, x = to(h, self.style), to(x, self.style)
        h = self.first(h)
        if self.told is not None and embedding is not None:
            h = h + self.told(F.silu(embedding))[:, :, None, None]
        h = self.last(self.dropout(F.silu(self.after(h))))
        return (self.skip(x) + h) / math.sqrt(2)


class Attention(nn.Module):
    """One head over all positions; the sum with the skip connection as in `Block`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = norm(channels), scaled(nn.Conv2d(channels, 3 * channels, 1))
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part, math.sqrt(0.1))
        self.out = scaled(nn.Conv2d(channels, channels, 1), 0)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h w, 3 C)
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, -1))
        return (x + self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))) / math.sqrt(2)


class Contraction(nn.Module):
    """The first half of a U-Net, with the middle: features after every block, from fine to coarse.

    NCSN++ adds the image itself, halved as often, after each halving.
    """

    def __init__(
        self,
        image: ImageSpec,
        width: int,
        mult: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        style: Style,
        dropout: float,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        self.style = style
        self.first = scaled(conv(image.channels, width))
        self.blocks, self.attend, self.pyramid = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict()
        inner, size = width, image.width
        self.shapes = [(width, image.height, image.width)]  # of the features, in order
        for level, factor in enumerate(mult):
            down = f"{len(self.blocks)}"
            if level:
                self.blocks.append(Block(inner, inner, embedding, dropout, style, "down"))
                size //= 2
                if style == "ncsn++":
                    self.pyramid[down] = scaled(nn.Conv2d(image.channels, inner, 1))
                self.shapes.append((inner, image.height >> level, size))
            for _ in range(blocks):
                if size in attention:
                    self.attend[f"{len(self.blocks)}"] = Attention(width * factor)
                self.blocks.append(Block(inner, width * factor, embedding, dropout, style))
                inner = width * factor
                self.shapes.append((inner, image.height >> level, size))
        self.middle = nn.ModuleList(Block(inner, inner, embedding, dropout, style) for _ in range(2))
        self.middle_attention = Attention(inner)
        self.shapes.append(self.shapes[-1])

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> list[Tensor]:
        """Images (B, c, H, W) -> features of `shapes`; the last are the middle's."""
        found = [self.first(x)]
        for index, block in enumerate(self.blocks):
            h = block(found[-1], embedding)
            if f"{index}" in self.attend:
                h = self.attend[f"{index}"](h)
            if f"{index}" in self.pyramid:
                x = halved(x, self.style)
                h = h + self.pyramid[f"{index}"](x)
            found.append(h)
        before, after = self.middle
        return [*found, after(self.middle_attention(before(found[-1], embedding)), embedding)]


class Encoder(nn.Module):
    """A latent that is the sum of what small MLPs read from the features of every block.

    `outputs`, the MLPs' last layers, are given later.
    """

    outputs: nn.ModuleList

    def __init__(self, features: Contraction, reduced: int, units: int) -> None:
        super().__init__()
        self.features = features
        self.reads = [i for i, shape in enumerate(features.shapes) if max(shape[1:]) <= FINEST]
        shapes = [features.shapes[i] for i in self.reads]
        self.narrow = nn.ModuleList(scaled(nn.Conv2d(channels, reduced, 1)) for channels, _, _ in shapes)
        self.hidden = nn.ModuleList(nn.Linear(reduced * h * w, units) for _, h, w in shapes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, q)."""
        found = self.features(images)
        heads = zip(self.reads, self.narrow, self.hidden, self.outputs, strict=True)
        return torch.stack(
            [out(F.silu(mlp(F.silu(narrow(found[i])).flatten(1)))) for i, narrow, mlp, out in heads]
        ).sum(0)


class MeanColour(nn.Linear):
    """For a decoder that is told no latent: frozen, and read by nothing."""

    def __init__(self, colours: int, channels: int) -> None:
        super().__init__(colours, channels)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean((2, 3)))


class Decoder(nn.Module):
    """The velocity of images at a time, given a condition (B, K): a U-Net.

    DDPM++ has sinusoids of the time; NCSN++ random frequencies of its logarithm, which stay as they are, sums
    colours over all sizes, and divides the result by the time, in thousandths.
    """

    def __init__(
        self,
        image: ImageSpec,
        width: int,
        mult: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        style: Style,
        dropout: float,
        condition: int,
    ) -> None:
        super().__init__()
        self.style, self.width = style, width
        embedding, given = 4 * width, width
        if style == "ncsn++":
            self.frequencies = nn.Parameter(16 * torch.randn(width), requires_grad=False)
            given = 2 * width
        self.embed = scaled(nn.Linear(condition + given, embedding))
        self.embed_more = scaled(nn.Linear(embedding, embedding))
        self.down = Contraction(image, width, mult, blocks, attention, style, dropout, embedding)
        skipped = [channels for channels, _, _ in self.down.shapes[:-1]]
        rows, self.attend, self.resize = list[nn.ModuleList](), nn.ModuleDict(), nn.ModuleList()
        colours = list[nn.Module]()
        inner = skipped[-1]
        for level, factor in reversed(list(enumerate(mult))):
            if image.width >> level in attention:
                self.attend[f"{len(rows)}"] = Attention(width * factor)
            rows.append(nn.ModuleList())
            for _ in range(blocks + 1):
                rows[-1].append(Block(inner + skipped.pop(), width * factor, embedding, dropout, style))
                inner = width * factor
            if style == "ncsn++" or level == 0:
                last = scaled(conv(inner, image.channels), 0)
                colours.append(nn.Sequential(norm(inner), nn.SiLU(), last))
            if level:
                self.resize.append(Block(inner, inner, embedding, dropout, style, "up"))
        self.up, self.colours = nn.ModuleList(rows), nn.ModuleList(colours)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x (B, c, H, W), t (B,) in [0, 1], condition (B, K) -> (B, c, H, W)."""
        t = 999 * t.clamp(0, 1)
        if self.style == "ddpm++":
            time = sinusoid(t, self.width)  # cosines first, and frequencies end a little above 1e-4
        else:
            angles = 2 * math.pi * t.log()[:, None] * self.frequencies
            time = torch.cat([angles.sin(), angles.cos()], 1)
        embedding = self.embed_more(F.silu(self.embed(torch.cat([condition, time], 1))))
        *skipped, h = self.down(x, embedding)
        drawn: Tensor | None = None
        for index, row in enumerate(self.up):
            for block in cast(nn.ModuleList, row):
                h = block(torch.cat([h, skipped.pop()], 1), embedding)
            if f"{index}" in self.attend:
                h = self.attend[f"{index}"](h)
            if self.style == "ncsn++":
                own = self.colours[index](h)
                drawn = own if drawn is None else doubled(drawn, self.style) + own
            if index < len(self.resize):
                h = self.resize[index](h, embedding)
        return self.colours[0](h) if drawn is None else drawn / t[:, None, None, None]


@register("ncsnpp")
class NCSNpp(FlowTokenizer):
    """An image as one token, and a flow that draws images of it: LZN's studies of generation in pixels.

    The flow's loss (Rectified Flow, eq. 1), in place of reconstruction losses, trains the decoder
    and, by way of the latent, the encoder. Sizes are LZN's for 32 and for 256 pixels, made for the
    regularizer `lzn`; its generator (`use: joint`) is N(0, I), or a label's zone.

    Images are drawn by Euler's method or, in sizes, by `rk45`; with steps by each image's own error, where
    the released code has those of a whole batch.
    """

    sizes = {"cifar10": CIFAR10, "image256": IMAGE256}

    encoder: Encoder | MeanColour
    decoder: Decoder

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        dataset: Dataset | None = None,
        width: Positive = 16,
        mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2),
        blocks: Positive = 1,
        attention: tuple[Positive, ...] = (16,),
        style: Style = "ddpm++",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        channels: Positive = 16,
        reduced: Positive = 4,
        units: Positive = 32,
        latent: bool = True,
        conditional: bool = False,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        solver: Literal["euler", "rk45"] = "euler",
        steps: Positive = 10,
        tolerance: Annotated[float, Field(gt=0)] = 1e-5,
    ) -> None:
        """
        Args:
            attention: sizes in pixels at which blocks are followed by attention; the middle always is.
            channels: numbers in the latent, q.
            reduced: channels that features are reduced to before an MLP with `units` hidden ones reads them.
            latent: whether the decoder is told the latent; without, it is Rectified Flow.
            conditional: whether it is told the class.
            weight: of the flow's loss; with 0 the decoder isn't trained ("no gen").
            steps: Euler's.
            tolerance: relative and absolute, of `rk45`.
        """
        super().__init__(image, expansion)
        downsampling(image, mult)
        classes = dataset.classes if conditional and dataset is not None else 0
        if conditional and not classes:
            raise Unfit("conditional needs labels, and the dataset has none")
        self.image, self.classes, self.latent, self.weight = image, classes, latent, weight
        self.solver, self.steps, self.tolerance = solver, steps, tolerance
        self.evaluations = steps if solver == "euler" else NFE
        self.spec = LatentSpec(1, channels)
        layout = image, width, mult, blocks, attention, style, dropout
        encoder = Encoder(Contraction(*layout), reduced, units) if latent else None
        self.decoder = Decoder(*layout, channels * latent + classes)
        if encoder is not None:
            encoder.outputs = nn.ModuleList(nn.Linear(units, channels * expansion) for _ in encoder.reads)
        self.encoder = encoder or MeanColour(image.channels, channels * expansion)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        encoder: Any = self.encoder.outputs[-1] if isinstance(self.encoder, Encoder) else self.encoder
        last: Any = self.decoder.colours[-1]
        return {"encoder": encoder.weight, "decoder": last[-1].weight}

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)[:, None]

    def velocity(self, x: Tensor, t: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        given = [z.flatten(1).to(x)] if self.latent else [x.new_zeros(len(x), 0)]
        if self.classes:
            chosen = torch.full_like(t, -1, dtype=torch.int64) if labels is None else labels
            given.append((chosen[:, None] == torch.arange(self.classes, device=x.device)).to(x))
        return self.decoder(x, t, torch.cat(given, 1))

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor]:
        if not self.weight:
            return {"flow": 0 * z.sum()}
        noise = step.noise.fork("flow")
        x0 = noise.normal(images, "noise")
        t = START + (1 - START) * noise.uniform(images[:, 0, 0, 0], "time")
        velocity = self.velocity(interpolate(images, x0, t), t, z, step.labels)
        return {"flow": self.weight * (images - x0 - velocity).square().mean()}

    def drawn(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        return self._followed(x, z, labels, START, 1.0)

    def inverted(self, images: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        x = self._followed(images, z, labels, 1.0, START)
        return (x - START * images) / (1 - START)

    def decode(self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        like = torch.empty(len(z), self.image.channels, self.image.height, self.image.width)
        return self.drawn((noise or Noise(0, ("decoder",))).normal(like.to(z)), z, labels)

    def _followed(self, x: Tensor, z: Tensor, labels: Tensor | None, start: float, stop: float) -> Tensor:
        def velocity(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            return self.velocity(x, t, z[rows], None if labels is None else labels[rows])

        if self.solver == "rk45":
            return rk45(velocity, x, start, stop, self.tolerance, self.tolerance)
        times = torch.linspace(start, stop, self.steps + 1, device=x.device, dtype=x.dtype)
        return euler(lambda x, t: self.velocity(x, t, z, labels), x, times)
