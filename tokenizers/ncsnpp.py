"""LZN's image networks (Lin et al., 2025): a U-Net's encoder and a rectified flow conditioned on the latent.

The layout is that of NCSN++ and DDPM++ (Song et al., 2021), as Rectified Flow (Liu et al., 2023) uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import Dataset, FlowTokenizer, ImageSpec, LatentSpec, Noise, Step, Unfit
from ..bench.api.transfer import numbers
from ..bench.flow import euler, interpolate
from ..bench.nn.blocks import sinusoid
from ..bench.nn.convolutions import conv, downsampling, norm
from ..bench.nn.ode import rk45
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
Style = Literal["ddpm++", "ncsn++"]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

START = 1e-3  # the flow's first time, in training and in sampling
FINEST = 64  # side in pixels of the largest features from which the latent is computed
NFE = 127  # evaluations that Rectified Flow reports for RK45 on CIFAR-10
Q = {"channels": 200, "reduced": 20, "units": 200, "solver": "rk45"}
CIFAR10 = Q | {"width": 128, "mult": (1, 2, 2, 2), "blocks": 4, "dropout": 0.15}
IMAGE256 = Q | {"width": 128, "mult": (1, 1, 2, 2, 2, 2, 2), "blocks": 2, "style": "ncsn++"}


@dataclass(frozen=True)
class Layout:
    """The options that encoder and decoder have in common; see `NCSNpp`."""

    image: ImageSpec
    width: int
    mult: Sequence[int]
    blocks: int
    attention: Sequence[int]
    style: Style
    dropout: float


def scaled(layer: Layer, scale: float = 1.0) -> Layer:
    """Sets uniform weights of variance 2 scale / (fan in + fan out), as in DDPM; scale 0 stands for 1e-10."""
    nn.init.xavier_uniform_(layer.weight, math.sqrt(scale or 1e-10))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def fir(x: Tensor) -> Tensor:
    """The binomial filter (1, 3, 3, 1) / 8 in both directions for each of x's C channels, (C, 1, 4, 4)."""
    row = numbers([1.0, 3.0, 3.0, 1.0], x) / 8
    return (row[:, None] * row).expand(x.shape[1], 1, 4, 4)


def halved(x: Tensor, style: Style) -> Tensor:
    """Halves the size by means of 2 x 2, or by a filter (StyleGAN2, Karras et al., 2020)."""
    if style == "ddpm++":
        return F.avg_pool2d(x, 2)
    return F.conv2d(x, fir(x), stride=2, padding=1, groups=x.shape[1])


def doubled(x: Tensor, style: Style) -> Tensor:
    """Doubles the size by nearest neighbours, or by a filter."""
    if style == "ddpm++":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv_transpose2d(x, 4 * fir(x), stride=2, padding=1, groups=x.shape[1])


class Block(nn.Module):
    """BigGAN's residual block, optionally resizing and conditioned on an embedding of time and conditions.

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
        changes = inner != outer or resize
        self.skip = scaled(nn.Conv2d(inner, outer, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = F.silu(self.before(x))
        if self.resize:
            resized = halved if self.resize == "down" else doubled
            h, x = resized(h, self.style), resized(x, self.style)
        h = self.first(h)
        if self.told is not None and embedding is not None:
            h = h + self.told(F.silu(embedding))[:, :, None, None]
        h = self.last(self.dropout(F.silu(self.after(h))))
        return (self.skip(x) + h) / math.sqrt(2)


class Attention(nn.Module):
    """One attention head over all positions, with the skip connection of `Block`."""

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

    After each halving NCSN++ adds the image itself, reduced to the same size.
    """

    def __init__(self, layout: Layout, embedding: int = 0) -> None:
        super().__init__()
        image, width, style = layout.image, layout.width, layout.style
        block = partial(Block, embedding=embedding, dropout=layout.dropout, style=style)
        self.style = style
        self.first = scaled(conv(image.channels, width))
        # Keys of `attend` and `pyramid` are positions in `blocks`.
        self.blocks, self.attend, self.pyramid = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict()
        inner = width
        self.shapes = [(width, image.height, image.width)]  # (channels, height, width) of each feature map
        for level, factor in enumerate(layout.mult):
            size = image.height >> level, image.width >> level
            if level:
                self.blocks.append(block(inner, inner, resize="down"))
                if style == "ncsn++":
                    self.pyramid[f"{len(self.blocks) - 1}"] = scaled(nn.Conv2d(image.channels, inner, 1))
                self.shapes.append((inner, *size))
            for _ in range(layout.blocks):
                if size[1] in layout.attention:
                    self.attend[f"{len(self.blocks)}"] = Attention(width * factor)
                self.blocks.append(block(inner, width * factor))
                inner = width * factor
                self.shapes.append((inner, *size))
        self.middle = nn.ModuleList(block(inner, inner) for _ in range(2))
        self.middle_attention = Attention(inner)
        self.shapes.append(self.shapes[-1])

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> list[Tensor]:
        """Images (B, c, H, W) -> features of the sizes `shapes`; the last is the middle's."""
        features = [self.first(x)]
        for index, block in enumerate(self.blocks):
            h = block(features[-1], embedding)
            if f"{index}" in self.attend:
                h = self.attend[f"{index}"](h)
            if f"{index}" in self.pyramid:
                x = halved(x, self.style)
                h = h + self.pyramid[f"{index}"](x)
            features.append(h)
        before, after = self.middle
        return [*features, after(self.middle_attention(before(features[-1], embedding)), embedding)]


class Encoder(nn.Module):
    """A latent that is the sum of small MLPs' outputs on the features of every block.

    The tokenizer sets `outputs`, the MLPs' last layers, last.
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
        features = self.features(images)
        parts = []
        for i, narrow, hidden, output in zip(self.reads, self.narrow, self.hidden, self.outputs, strict=True):
            reduced = F.silu(narrow(features[i])).flatten(1)
            parts.append(output(F.silu(hidden(reduced))))
        return torch.stack(parts).sum(0)


class MeanColour(nn.Linear):
    """The frozen encoder beside a decoder that ignores the latent."""

    def __init__(self, colours: int, channels: int) -> None:
        super().__init__(colours, channels)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean((2, 3)))


class Decoder(nn.Module):
    """A U-Net: the velocity of images at a time, given a condition (B, K).

    DDPM++ embeds the time by sinusoids. NCSN++ embeds the time's logarithm by random frequencies, which are
    not trained, sums colours over all sizes, and divides the result by the time in thousandths.
    """

    def __init__(self, layout: Layout, condition: int) -> None:
        super().__init__()
        image, width, style = layout.image, layout.width, layout.style
        self.style, self.width = style, width
        embedding, time = 4 * width, width
        if style == "ncsn++":
            self.frequencies = nn.Parameter(16 * torch.randn(width), requires_grad=False)
            time = 2 * width
        block = partial(Block, embedding=embedding, dropout=layout.dropout, style=style)
        self.embed = scaled(nn.Linear(condition + time, embedding))
        self.embed_more = scaled(nn.Linear(embedding, embedding))
        self.down = Contraction(layout, embedding)
        skipped = [channels for channels, _, _ in self.down.shapes[:-1]]
        rows, self.attend, self.resize = list[nn.ModuleList](), nn.ModuleDict(), nn.ModuleList()
        colours = list[nn.Module]()
        inner = skipped[-1]
        for level, factor in reversed(list(enumerate(layout.mult))):
            if image.width >> level in layout.attention:
                self.attend[f"{len(rows)}"] = Attention(width * factor)
            rows.append(nn.ModuleList())
            for _ in range(layout.blocks + 1):
                rows[-1].append(block(inner + skipped.pop(), width * factor))
                inner = width * factor
            if style == "ncsn++" or level == 0:
                last = scaled(conv(inner, image.channels), 0)
                colours.append(nn.Sequential(norm(inner), nn.SiLU(), last))
            if level:
                self.resize.append(block(inner, inner, resize="up"))
        self.up, self.colours = nn.ModuleList(rows), nn.ModuleList(colours)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x (B, c, H, W), t (B,) in [0, 1], condition (B, K) -> (B, c, H, W)."""
        t = 999 * t.clamp(0, 1)
        if self.style == "ddpm++":
            time = sinusoid(t, self.width)  # cosines first; the lowest frequency is a little above 1e-4
        else:
            angles = 2 * math.pi * t.log()[:, None] * self.frequencies
            time = torch.cat([angles.sin(), angles.cos()], 1)
        embedding = self.embed_more(F.silu(self.embed(torch.cat([condition, time], 1))))
        *skipped, h = self.down(x, embedding)
        image: Tensor | None = None
        for index, row in enumerate(self.up):
            for block in cast(nn.ModuleList, row):
                h = block(torch.cat([h, skipped.pop()], 1), embedding)
            if f"{index}" in self.attend:
                h = self.attend[f"{index}"](h)
            if self.style == "ncsn++":
                colours = self.colours[index](h)
                image = colours if image is None else doubled(image, self.style) + colours
            if index < len(self.resize):
                h = self.resize[index](h, embedding)
        return self.colours[0](h) if image is None else image / t[:, None, None, None]


@register("ncsnpp")
class NCSNpp(FlowTokenizer):
    """An image is one token, from which a flow draws images: LZN's studies of generation in pixels.

    The flow's loss (Rectified Flow, eq. 1) replaces the reconstruction losses and trains the decoder and,
    through the latent, the encoder. Sizes are LZN's for 32 and for 256 pixels, made for the regularizer
    `lzn`, whose generator (`use: joint`) draws from N(0, I) or a label's zone.

    Images are drawn by Euler's method or, in the published sizes, by `rk45`, whose steps follow each image's
    own error; in the released code they follow that of a whole batch.

    Paper: Lin et al., "Latent Zoning Network", 2025; Liu et al., "Flow Straight and Fast", 2023 (arXiv
    2209.03003); Song et al., "Score-Based Generative Modeling", 2021 (arXiv 2011.13456).
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
        extra: int = 0,
    ) -> None:
        """
        Args:
            width: channels of the first level.
            mult: factors of `width`, one for each level; each further level halves the size.
            blocks: residual blocks in each level.
            attention: sizes in pixels at which blocks are followed by attention; the middle always is.
            style: how sizes change: `ddpm++` by means of squares and nearest neighbours, `ncsn++` by filters.
            dropout: share of activations that training sets to zero in each block.
            channels: q, the size of the latent.
            reduced: channels to which features are reduced before an MLP.
            units: hidden units of that MLP.
            latent: whether the decoder is conditioned on the latent; without it is Rectified Flow.
            conditional: whether the decoder is conditioned on the class.
            weight: weight of the flow's loss; with 0 the decoder isn't trained ("no gen").
            solver: Euler's method, or Runge-Kutta of order 4 and 5 with adaptive steps.
            steps: steps of Euler's method.
            tolerance: relative and absolute tolerance of `rk45`.
        """
        super().__init__(image, expansion, extra)
        downsampling(image, mult)
        classes = dataset.classes if conditional and dataset is not None else 0
        if conditional and not classes:
            raise Unfit("conditional needs labels, and the dataset has none")
        self.image, self.classes, self.latent, self.weight = image, classes, latent, weight
        self.solver, self.steps, self.tolerance = solver, steps, tolerance
        self.evaluations = steps if solver == "euler" else NFE
        self.spec = LatentSpec(1, channels)
        layout = Layout(image, width, mult, blocks, attention, style, dropout)
        encoder = Encoder(Contraction(layout), reduced, units) if latent else None
        self.decoder = Decoder(layout, classes + (channels if latent else 0))
        if encoder is None:
            self.encoder = MeanColour(image.channels, channels * expansion + extra)
        else:
            encoder.outputs = nn.ModuleList(
                nn.Linear(units, channels * expansion + extra) for _ in encoder.reads
            )
            self.encoder = encoder

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        encoder: Any = self.encoder.outputs[-1] if isinstance(self.encoder, Encoder) else self.encoder
        last: Any = self.decoder.colours[-1]
        return {"encoder": encoder.weight, "decoder": last[-1].weight}

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)[:, None]

    def velocity(self, x: Tensor, t: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        conditions = [z.flatten(1).to(x)] if self.latent else [x.new_zeros(len(x), 0)]
        if self.classes:
            if labels is None:
                labels = torch.full_like(t, -1, dtype=torch.int64)
            conditions.append((labels[:, None] == torch.arange(self.classes, device=x.device)).to(x))
        return self.decoder(x, t, torch.cat(conditions, 1))

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor]:
        if not self.weight:
            return {"flow": 0 * z.sum()}
        noise = step.noise.fork("flow")
        x0 = noise.normal(images, "noise")
        t = START + (1 - START) * noise.uniform(images[:, 0, 0, 0], "time")
        velocity = self.velocity(interpolate(images, x0, t), t, z, step.labels)
        return {"flow": self.weight * (images - x0 - velocity).square().mean()}

    def drawn(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        return self._integrated(x, z, labels, START, 1.0)

    def inverted(self, images: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        x = self._integrated(images, z, labels, 1.0, START)
        return (x - START * images) / (1 - START)

    def decode(  # type: ignore[override]  # as of `FlowTokenizer`
        self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        like = z.new_empty(len(z), self.image.channels, self.image.height, self.image.width)
        return self.drawn((noise or Noise(0, ("decoder",))).normal(like), z, labels)

    def _integrated(self, x: Tensor, z: Tensor, labels: Tensor | None, start: float, stop: float) -> Tensor:
        def velocity(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            return self.velocity(x, t, z[rows], None if labels is None else labels[rows])

        if self.solver == "rk45":
            return rk45(velocity, x, start, stop, self.tolerance, self.tolerance)
        times = torch.linspace(start, stop, self.steps + 1, device=x.device, dtype=x.dtype)
        return euler(lambda x, t: self.velocity(x, t, z, labels), x, times)
