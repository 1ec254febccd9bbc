"""How well a decoder that draws gives an image back: to noise and forth again (LZN, Lin et al., 2025)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, FlowTokenizer, Metric, Subject
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK, chunked, draw
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]


@register("inversion")
class Inversion(Evaluator):
    """For tokenizers whose decoder is a flow (`ncsnpp`), nothing for others: LZN's reconstruction error.

    An image's latent is drawn, the flow inverted from the image to noise, and followed from there again, with
    the same latent and the image's own class. The defaults are the paper's for CIFAR-10; it has 256 images at
    256 pixels.
    """

    metrics = {
        "reconstruction_l2": Metric(
            "tokenizer", False, "", "Euclidean distance of training images, in [-1, 1], from noise and back."
        )
    }

    def __init__(self, images: Positive = 2000, repeats: Positive = 20) -> None:
        """
        Args:
            images: of the training set, which ones being the same for every row.
            repeats: latents drawn of each image.
        """
        self.images, self.repeats = images, repeats

    @torch.no_grad()
    def run(self, subject: Subject) -> dict[str, float]:
        tokenizer = subject.tokenizer
        if not isinstance(tokenizer, FlowTokenizer):
            return {}
        chosen = self._chosen(subject)
        everyones = subject.labels("train")
        labels = None if everyones is None else everyones[chosen]
        device, noise = next(tokenizer.parameters()).device, subject.noise.fork("inversion")

        def pixels(index: Tensor) -> Tensor:
            return subject.dataset.images("train", chosen[index]).to(device)

        h = chunked(lambda index, _: tokenizer.encode(pixels(index)).cpu(), len(chosen))
        batch = subject.latent_batch or CHUNK
        total, found, before = torch.zeros(len(chosen)), torch.zeros(0), torch.zeros(0)
        for repeat in range(self.repeats):
            z = draw(subject.regularizer, h, labels, noise.fork(repeat), batch, device)

            def error(index: Tensor, _: int, z: Tensor = z) -> Tensor:
                images, latent = pixels(index), z[index].to(device)
                known = None if labels is None else labels[index].to(device)
                again = tokenizer.drawn(tokenizer.inverted(images, latent, known), latent, known)
                return (again - images).flatten(1).norm(dim=1).cpu()

            if not torch.equal(z, before):  # the same latents have the same errors
                found, before = chunked(error, len(chosen)), z
            total += found
        name = "reconstruction_l2"
        return {name: mean_estimate(name, total / self.repeats, labels)}

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": len(self._chosen(subject)),
            "repeats": self.repeats,
            "of": "train, a permutation of seed 0",
            "norm": "over channels and pixels, not clamped",
        }

    def _chosen(self, subject: Subject) -> Tensor:
        """(n,) training images, in an order without classes."""
        order = torch.randperm(subject.dataset.size("train"), generator=torch.Generator().manual_seed(0))
        return order[: self.images]
