"""Operations on images: 8-bit rounding, PSNR, grey to colour, clean-fid's resizing (Parmar, 2022), crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..api import from_uint8, to_uint8
from ..runtime.onednn import by_onednn


def round_to_8_bits(images: Tensor) -> Tensor:
    """Images (..., H, W) in [-1, 1] as they are after being written to an 8-bit file and read back."""
    return from_uint8(to_uint8(images))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """The PSNR of uint8 images (B, c, H, W) twice -> (B,) in decibels, for a peak of 255.

    An exact image counts as one level off in one value, the smallest error in 8 bits, so that it doesn't make
    the mean infinite.
    """
    error = (a.double() - b.double()).square().flatten(1)
    return 10 * torch.log10(255**2 / error.mean(1).clamp(min=1 / error.shape[1]))


def to_rgb(images: Tensor) -> Tensor:
    """Images in colour: (B, 1 or 3, H, W) -> (B, 3, H, W); a grey image is repeated."""
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have {images.shape[1]} channels; feature networks take 1 (grey) or 3 (colour)"
        )
    return images.expand(-1, 3, -1, -1)


RESIZINGS = {  # with their names in protocols
    "clean": "clean-fid: PIL bicubic, float",
    "clean_rounded": "PIL bicubic, rounded to 8 bits",
    "legacy": "PyTorch bilinear, not anti-aliased",
    "torch": "PyTorch bicubic, anti-aliased: clean-fid's filter on the device",
    "bicubic": "PyTorch bicubic, not anti-aliased",
}


def resize(levels: Tensor, resolution: int, how: str = "clean") -> Tensor:
    """Resized images: (B, 3, H, W) in [0, 255] -> float32 (B, 3, resolution, resolution) in [0, 255].

    "clean" is clean-fid's mode: PIL's bicubic filter on floats, which widens when it shrinks an image,
    without rounding. Papers have used the other modes too (see `bench audit`). A rectangle becomes a square,
    as in clean-fid.
    """
    from cleanfid.resize import make_resizer

    size = (resolution, resolution)
    if how == "torch":
        if levels.shape[2:] == size:
            return levels.float()
        larger = torch.nn.functional.interpolate(levels.float(), size, mode="bicubic", antialias=True)
        return larger.clamp(0, 255)
    if how in ("legacy", "bicubic"):
        mode = "bilinear" if how == "legacy" else how
        return torch.nn.functional.interpolate(levels.float(), size, mode=mode, align_corners=False)
    if levels.is_meta:  # PIL's filter needs values
        return levels.new_empty(len(levels), 3, *size, dtype=torch.float32)
    resizer = make_resizer("PIL", False, "bicubic", (resolution, resolution))
    resized = np.stack([resizer(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()])
    resized = resized.round() if how == "clean_rounded" else resized
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(levels.device)


def prepared(images: Tensor, resolution: int | None, resizing: str = "clean", rounds: bool = True) -> Tensor:
    """Inputs of feature networks: (B, 1 or 3, H, W) in [-1, 1] -> (B, 3, resolution, resolution) in [0, 255].

    Without a resolution images keep their size.
    """
    levels = to_uint8(images) if rounds else (images.float() * 127.5 + 127.5).clamp(0, 255)
    if resolution is None:
        return to_rgb(levels).float()
    if levels.shape[1] != 1:
        return resize(to_rgb(levels), resolution, resizing)
    # Channels are resized independently, so three grey images are resized as one in colour.
    filled = torch.cat([levels, levels[:1].expand(-len(levels) % 3, -1, -1, -1)])
    resized = resize(filled.unflatten(0, (-1, 3)).squeeze(2), resolution, resizing)
    return to_rgb(resized.flatten(0, 1)[: len(levels), None])


LONGEST = 64  # times as long as it is wide is a picture that is cut before it is resized


def adm_centre_crop(image: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """ADM's crop, uint8 (H, W, c) -> (side, c): halved by boxes, bicubic to the shorter side, cropped."""
    from PIL import Image

    height, width = side
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    # All of a strip of 1 x 60,000 pixels would be enlarged to gigabytes, of which one square is kept.
    if picture.width * scale > LONGEST * width or picture.height * scale > LONGEST * height:
        across, down = LONGEST * width / scale, LONGEST * height / scale
        left, top = max(0.0, (picture.width - across) / 2), max(0.0, (picture.height - down) / 2)
        picture = picture.crop(
            (round(left), round(top), round(picture.width - left), picture.height - round(top))
        )
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    array = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width].reshape(height, width, image.shape[2])


def squash(image: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """An image resized by PIL's bicubic filter, uint8 (H, W, c) -> (side, c), without its proportions."""
    from PIL import Image

    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    array = np.asarray(picture.resize(side[::-1], Image.Resampling.BICUBIC))
    return array.reshape(*side, image.shape[2])


@torch.no_grad()
def in_chunks(
    describe: Callable[[Tensor], dict[str, Tensor]], images: Tensor, size: int, outputs: Sequence[str]
) -> dict[str, Tensor]:
    """The outputs of a network for all images (B, c, H, W), computed for `size` images at a time."""
    with by_onednn():
        chunks = [describe(chunk) for chunk in images.split(size)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in outputs}
