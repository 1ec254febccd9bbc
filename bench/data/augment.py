"""Random crops and colours of training images, as in SimCLR (Chen et al., 2020), different for each image.

The augmentation of an image depends only on the seed, the step and the image's place in the batch. Crops are
taken from images that were resized before; SimCLR crops the originals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..api import Noise
from ..api.transfer import numbers

Share = Annotated[float, Field(ge=0, le=1)]
TRIES = 10  # draws of a crop until one lies in the image; otherwise the crop is the whole image
RATIO = 4 / 3  # largest ratio of a crop's sides
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}  # at strength 1
SIGMA = (0.1, 2.0)  # of the blur, in pixels
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue


@dataclass(frozen=True)
class Augmentation:
    """The options of `augment` in a matrix; the defaults are SimCLR's for ImageNet.

    Args:
        crop: the smallest share of the area that a crop keeps; 1 crops nothing.
        flip: probability of mirroring.
        jitter: probability of changing brightness, contrast, saturation and hue.
        strength: strength of these changes (CIFAR-10: 0.5).
        grey: probability of grey.
        blur: probability of blurring (CIFAR-10: 0).
    """

    crop: Annotated[float, Field(gt=0, le=1)] = 0.08
    flip: Share = 0.5
    jitter: Share = 0.8
    strength: Annotated[float, Field(ge=0)] = 1.0
    grey: Share = 0.2
    blur: Share = 0.5


def augmented(images: Tensor, noise: Noise, options: Augmentation) -> Tensor:
    """Augmented images: (B, c, H, W) in [-1, 1] -> the same shape and range."""
    like = images.new_empty(len(images), 11, dtype=torch.float32)
    drawn = noise.uniform(like, "amounts")
    flip, jitter, grey, blur, down, right, sigma = drawn[:, 4:].unbind(1)
    if options.crop < 1:
        tries = noise.uniform(like.new_empty(len(images), TRIES, 2), "sides")
        sides = crop_sides(tries, options.crop, images.shape[3] / images.shape[2])
        images = cropped(images, *sides, down, right)
    images = torch.where(_per_image(flip < options.flip), images.flip(3), images)
    levels = (images + 1) / 2
    if options.jitter and options.strength:
        order = noise.uniform(like[:, : len(JITTER)], "order").argsort(1)
        changed = jittered(levels, order, options.strength * (2 * drawn[:, :4] - 1))
        levels = torch.where(_per_image(jitter < options.jitter), changed, levels)
    levels = torch.where(_per_image(grey < options.grey), to_grey(levels), levels)
    if options.blur:
        softer = blurred(levels, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma)
        levels = torch.where(_per_image(blur < options.blur), softer, levels)
    return levels * 2 - 1


def crop_sides(tries: Tensor, least: float, aspect: float = 1.0) -> tuple[Tensor, Tensor]:
    """The height and width (B,) of crops, as shares of an image's, from draws (B, TRIES, 2) in [0, 1).

    The area is uniform in [least, 1], the ratio of sides log-uniform in [3/4, 4/3]; the first draw that fits
    the image is taken. `aspect` is the image's W / H.
    """
    area = least + (1 - least) * tries[..., 0]
    ratio = ((2 * tries[..., 1] - 1) * math.log(RATIO)).exp() / aspect
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
    fits = (height <= 1) & (width <= 1)
    first, none = fits.int().argmax(1, keepdim=True), ~fits.any(1)
    height, width = (side.gather(1, first)[:, 0].masked_fill(none, 1) for side in (height, width))
    return height, width


def cropped(images: Tensor, height: Tensor, width: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Crops of images (B, c, H, W) in [-1, 1], enlarged to the images' size by cubic interpolation.

    height, width: (B,) in (0, 1], the crop's shares; down, right: (B,) in [0, 1], its place in the rest.
    """
    none = torch.zeros_like(width)
    # Maps from [-1, 1] in the result to the crop in the image.
    x = torch.stack((width, none, (1 - width) * (2 * right - 1)), 1)
    y = torch.stack((none, height, (1 - height) * (2 * down - 1)), 1)
    grid = F.affine_grid(torch.stack((x, y), 1).to(images), list(images.shape), align_corners=False)
    # Outside the image the edge's values continue, as in torchvision's resize.
    return F.grid_sample(images, grid, "bicubic", "border", align_corners=False).clamp(-1, 1)


def jittered(levels: Tensor, order: Tensor, amounts: Tensor) -> Tensor:
    """Images (B, c, H, W) in [0, 1] with changed brightness, contrast, saturation and hue.

    order: (B, 4), the indices of JITTER that come first, second, … for each image; amounts: (B, 4), 1 being
    the largest change at strength 1.
    """
    levels, changes = levels.clone(), amounts.to(levels) * numbers(list(JITTER.values()), levels)
    for turn in order.unbind(1):
        for which, name in enumerate(JITTER):
            rows = (turn == which).nonzero()[:, 0]
            levels[rows] = _jittered(levels[rows], name, changes[rows, which])
    return levels


def _jittered(levels: Tensor, name: str, change: Tensor) -> Tensor:
    if name == "hue":
        return hue_turned(levels, change)
    grey, factor = to_grey(levels), _per_image(1 + change).clamp(min=0)
    away = {"brightness": 0 * grey, "contrast": grey.mean((1, 2, 3), keepdim=True), "saturation": grey}[name]
    return (factor * levels + (1 - factor) * away).clamp(0, 1)


def to_grey(levels: Tensor) -> Tensor:
    """The brightness of images of three colours, in each colour: (B, c, H, W); other images are unchanged."""
    if levels.shape[1] != len(GREY):
        return levels
    weights = numbers(GREY, levels)[:, None, None]
    return (levels * weights).sum(1, keepdim=True).expand_as(levels)


def hue_turned(levels: Tensor, turns: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with hues moved by turns (B,) of the circle; others are unchanged."""
    if levels.shape[1] != len(GREY):
        return levels
    red, green, blue = levels.unbind(1)
    most, least = levels.amax(1), levels.amin(1)
    spread = most - least
    apart = spread.masked_fill(spread == 0, 1)
    # Hue in sixths of a turn, from red through yellow.
    hue = torch.where(
        red == most,
        (green - blue) / apart,
        torch.where(green == most, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    hue = hue + 6 * turns.to(hue)[:, None, None]
    phases = [(offset + hue) % 6 for offset in (5, 3, 1)]
    return torch.stack([most - spread * torch.minimum(p, 4 - p).clamp(0, 1) for p in phases], 1)


def blurred(levels: Tensor, sigma: Tensor) -> Tensor:
    """Images (B, c, H, W), each blurred by a Gaussian of its sigma (B,) in pixels, a tenth of a side wide."""
    for axis, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        reach = levels.shape[axis] // 20
        if reach == 0:
            continue
        offsets = torch.arange(-reach, reach + 1, device=levels.device)
        kernel = (-0.5 * (offsets / sigma[:, None]).square()).exp().to(levels)  # (B, k)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(levels.shape[1], 0)
        shape = (-1, 1, len(offsets), 1) if axis == 2 else (-1, 1, 1, len(offsets))
        padded = F.pad(levels, [reach * side for side in pad], mode="reflect").flatten(0, 1)[None]
        levels = F.conv2d(padded, kernel.view(shape), groups=len(kernel))[0].view(levels.shape)
    return levels


def _per_image(values: Tensor) -> Tensor:
    """Values of images (B,) in the shape (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
