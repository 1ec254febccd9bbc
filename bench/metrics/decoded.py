"""Scores of what a tokenizer decodes of changed latents, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..api import FeatureExtractor, Subject, SubjectSizes, to_uint8
from ..data.images import psnr
from ..models.latents import CHUNK, decode_batch
from ..runtime.onednn import by_onednn


@torch.no_grad()
def scored(
    subject: Subject,
    latents: Callable[[Tensor], Tensor],
    labels: Tensor | None,
    images: Callable[[Tensor], Tensor] | None,
    extractors: Sequence[FeatureExtractor] = (),
    grid: tuple[int, int] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Decodes latents(index) of the held-out split and scores the decoded images.

    Images are decoded chunk by chunk, and none is kept. Labels (n,) and noise are for stochastic decoders.

    Args:
        images: index -> uint8 images (B, c, H, W) to which the decoded ones are compared; None: no PSNR.
        grid: that of the decoded latents where it isn't the spec's.

    Returns:
        PSNRs (n,) in dB, empty without images; and each extractor's pooled features (n, F).
    """
    device, noise = next(subject.tokenizer.parameters()).device, subject.noise.fork("decoder")
    psnrs, features = [torch.zeros(0).double()], [list[Tensor]() for _ in extractors]
    for number, index in enumerate(torch.arange(len(subject.latents("val"))).split(CHUNK)):
        classes = None if labels is None else labels[index].to(device)
        z, stream = latents(index).to(device), noise.fork(number)
        with by_onednn():
            decoded = decode_batch(subject.tokenizer, z, classes, stream, grid)
        decoded = decoded.clamp(-1, 1)
        if images is not None:
            psnrs.append(psnr(to_uint8(decoded).cpu(), images(index)))
        for extractor, parts in zip(extractors, features, strict=True):
            parts.append(extractor.describe(decoded, ["pooled"])["pooled"].cpu())
    return torch.cat(psnrs), [torch.cat(parts) for parts in features]


def memory_bytes(sizes: SubjectSizes) -> int:
    """Bytes that PSNRs by `scored` take beside what the subject holds."""
    n, tokens, channels = sizes.latents("val")
    chunk, image = min(CHUNK, sizes.images("val"), n), sizes.image
    pixels = image.channels * image.height * image.width
    return sizes.decoding(chunk) + 4 * chunk * (2 * tokens * channels + 5 * pixels)
