"""PSNR of what a tokenizer decodes of changed latents, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..api import Subject, SubjectSizes, to_uint8
from ..data.images import psnr
from ..models.latents import CHUNK, decode_batch
from ..runtime.onednn import by_onednn


@torch.no_grad()
def decoded_psnr(
    subject: Subject,
    latents: Callable[[Tensor], Tensor],
    images: Callable[[Tensor], Tensor],
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """PSNRs (n,) in dB of decoded images to others, both rounded to 8 bits, for the held-out split.

    Args:
        latents: maps the held-out latents (B, T, C) to those that are decoded, on the same device.
        images: maps the held-out images uint8 (B, c, H, W) to those that are compared.
        grid: that of the decoded latents where it isn't the spec's.
    """
    device, noise = next(subject.tokenizer.parameters()).device, subject.noise.fork("decoder")
    z, pixels, labels = subject.latents("val"), subject.images("val"), subject.labels("val")
    found = []
    for number, index in enumerate(torch.arange(len(z)).split(CHUNK)):
        classes = None if labels is None else labels[index].to(device)
        with by_onednn():
            decoded = decode_batch(
                subject.tokenizer, latents(z[index].to(device)), classes, noise.fork(number), grid
            )
        found.append(psnr(to_uint8(decoded.clamp(-1, 1)).cpu(), images(pixels[index])))
    return torch.cat(found)


def memory_bytes(sizes: SubjectSizes) -> int:
    """Bytes that `decoded_psnr` takes beside what the subject holds."""
    n, tokens, channels = sizes.latents("val")
    chunk, image = min(CHUNK, sizes.images("val"), n), sizes.image
    pixels = image.channels * image.height * image.width
    return sizes.decoding(chunk) + 4 * chunk * (2 * tokens * channels + 5 * pixels)
