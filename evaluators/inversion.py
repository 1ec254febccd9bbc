"""Reconstruction error of flow decoders: an image is mapped to noise and back (LZN, Lin et al., 2025)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, FlowTokenizer, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK, chunked, draw
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]


@register("inversion")
class Inversion(Evaluator):
    """LZN's reconstruction error for tokenizers whose decoder is a flow (`ncsnpp`); no value for others.

    An image's latent is drawn; the flow is inverted from the image to noise, then run forward again with the
    same latent and the image's class. The defaults are the paper's for CIFAR-10; at 256 pixels the paper has
    256 images.
    """

    metrics = {
        "reconstruction_l2": Metric(
            "tokenizer", False, "", "Euclidean distance of training images, in [-1, 1], from noise and back."
        )
    }

    def __init__(self, images: Positive = 2000, repeats: Positive = 20) -> None:
        """
        Args:
            images: number of training images, the same ones for every row.
            repeats: number of latents drawn per image.
        """
        self.images, self.repeats = images, repeats

    @torch.no_grad()
    def run(self, subject: Subject) -> dict[str, float]:
        tokenizer = subject.tokenizer
        if not isinstance(tokenizer, FlowTokenizer):
            return {}
        chosen = self._chosen(subject)
        train_labels = subject.labels("train")
        labels = None if train_labels is None else train_labels[chosen]
        device, noise = next(tokenizer.parameters()).device, subject.noise.fork("inversion")

        def pixels(index: Tensor) -> Tensor:
            return subject.dataset.images("train", chosen[index]).to(device)

        h = chunked(lambda index, _: tokenizer.encode(pixels(index)).cpu(), len(chosen))
        batch = subject.latent_batch or CHUNK
        total, errors, previous = torch.zeros(len(chosen)), torch.zeros(0), torch.zeros(0)
        for repeat in range(self.repeats):
            z = draw(subject.regularizer, h, labels, noise.fork(repeat), batch, device)

            def error(index: Tensor, _: int, z: Tensor = z) -> Tensor:
                images, latent = pixels(index), z[index].to(device)
                classes = None if labels is None else labels[index].to(device)
                reconstructed = tokenizer.drawn(tokenizer.inverted(images, latent, classes), latent, classes)
                return (reconstructed - images).flatten(1).norm(dim=1).cpu()

            if not torch.equal(z, previous):  # deterministic latents have the same errors in every repeat
                errors, previous = chunked(error, len(chosen)), z
            total += errors
        name = "reconstruction_l2"
        return {name: mean_estimate(name, total / self.repeats, labels)}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not isinstance(sizes.tokenizer, FlowTokenizer):
            return 0
        n, spec = min(self.images, sizes.train), sizes.tokenizer.spec
        kept = 3 * 4 * n * spec.tokens * spec.channels
        return kept + max(sizes.decoding(min(CHUNK, n)), sizes.drawing(sizes.latent_batch or CHUNK))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": len(self._chosen(subject)),
            "repeats": self.repeats,
            "of": "train, a permutation of seed 0",
            "norm": "over channels and pixels, not clamped",
        }

    def _chosen(self, subject: Subject) -> Tensor:
        """Indices (n,) of training images, shuffled, as a dataset may be sorted by class."""
        return fixed_order(subject.dataset.size("train"), seed=0)[: self.images]
