"""The Fréchet distance of images decoded between neighbouring latents (iFID)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import decoded, frechet
from ..bench.metrics.decoded import scored
from ..bench.metrics.frechet import distance_extractors, frechet_estimate
from ..bench.metrics.names import metric_name
from ..bench.metrics.protocols import distance_protocol
from ..bench.metrics.proxies import BLOCK, SPARE, interpolation_neighbours, ordered_at_a_time, slerp
from ..bench.registry import register


def chosen_neighbours(z: Tensor, train: Tensor, near: Tensor, uniform: Tensor) -> Tensor:
    """One of each latent's neighbours, the nearer the likelier, in mean squared difference: (n,) int64.

    Probabilities are the softmax of minus the mean squared difference, as in the released code; they depend
    on the latents' scale.

    Args:
        z: latents (n, T, C).
        train: latents (M, T, C).
        near: the candidates' rows of `train`, (n, k).
        uniform: draws (n,) from [0, 1).
    """
    chosen, few = [], ordered_at_a_time(near.shape[1], z[0].numel())
    for latents, rows, draws in zip(z.split(few), near.split(few), uniform.split(few), strict=True):
        gaps = (latents[:, None].double() - train[rows].double()).square().mean((2, 3))
        cumulative = (-gaps).softmax(1).cumsum(1)
        place = (cumulative <= draws.double()[:, None] * cumulative[:, -1:]).sum(1)
        chosen.append(rows.gather(1, place[:, None])[:, 0])
    return torch.cat(chosen)


@register("interpolation")
class Interpolation(Evaluator):
    """iFD: decodes points half-way between held-out latents and near training latents, and compares images.

    Of each held-out latent's `k` nearest training latents, by the cosine of flattened latents, one is drawn;
    the decoded image of the midpoint on the great circle is compared with the held-out images. On Inception's
    features this is iFID, which the paper finds to go with gFID where rFID doesn't. Its code neither clamps
    nor rounds images before Inception; here they are clamped to [-1, 1], as all decoded images are.
    `rFD_interpolated` of the evaluator `robustness` is another metric: its pairs are random.

    Paper: "Making Reconstruction FID Predictive of Diffusion Generation FID", 2026 (arXiv 2603.05630).
    """

    metrics = {
        "iFD": Metric(
            "tokenizer",
            False,
            "",
            "Frechet distance of images decoded between latents and near training latents to held-out ones.",
        ),
        "iFID": Metric("tokenizer", False, "", "iFD on the features of Inception-v3."),
    }

    def __init__(
        self,
        k: Annotated[int, Field(ge=1)] = 10,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
        train: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        """
        Args:
            k: number of nearest training latents, of which one is drawn.
            alpha: where on the way from the held-out latent (0) to the training latent (1) images are
                decoded.
            train: how many training latents, a fixed random choice, are searched; null: all. The search
                takes `train` times as many operations as there are held-out numbers.
        """
        self.k, self.alpha, self.train = k, alpha, train

    def run(self, subject: Subject) -> dict[str, float]:
        extractors = distance_extractors(subject)
        if not subject.decodes or not extractors:
            return {}
        z, train = subject.latents("val"), self._bank(subject)
        near = interpolation_neighbours(train, z, min(self.k, len(train)))
        uniform = subject.noise.fork("interpolation").uniform(torch.empty(len(z)), "neighbour")
        other = chosen_neighbours(z, train, near, uniform)

        def between(index: Tensor) -> Tensor:
            return slerp(z[index], train[other[index]], self.alpha).to(z)

        _, features = scored(subject, between, subject.labels("val"), None, extractors)
        scores: dict[str, float] = {}
        for extractor, found in zip(extractors, features, strict=True):
            name = metric_name("iFD", extractor)
            val = subject.features("val", extractor=extractor)
            scores[name] = frechet_estimate(name, found, val, paired=True)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        extractors = distance_extractors(sizes)
        if not sizes.decodes or not extractors:
            return 0
        n, tokens, channels = sizes.latents("val")
        m, numbers = sizes.latents("train")[0], tokens * channels
        m = min(self.train or m, m)
        candidates = self.k + SPARE
        search = (2 * 8 + 4) * n * numbers + 2 * 4 * min(m * numbers, BLOCK) + 4 * 12 * n * candidates
        ordering = 4 * 8 * ordered_at_a_time(candidates, numbers) * candidates * numbers
        held = 4 * (m * numbers if self.train else 0)
        width = sum(sizes.features("val", extractor=e)[1] for e in extractors)
        most = max(sizes.features("val", extractor=e)[1] for e in extractors)
        decode = decoded.memory_bytes(sizes) + max(e.memory_bytes() for e in extractors)
        distances = 2 * 4 * n * width + frechet.memory_bytes(n, n, most)
        # A heap keeps what the search and its ordering took.
        return held + search + ordering + max(decode + 4 * n * width, distances)

    def flops(self, sizes: SubjectSizes) -> int:
        extractors = distance_extractors(sizes)
        if not sizes.decodes or not extractors:
            return 0
        n, tokens, channels = sizes.latents("val")
        m = min(self.train or sizes.train, sizes.train)
        search = 2 * n * m * tokens * channels
        return search + n * sizes.decoding_flops()

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n = len(subject.latents("val"))
        extractor = next(e for e in distance_extractors(subject) if name == metric_name("iFD", e))
        return {
            "n": n,
            "reference": "val, paired",
            "latent": "drawn",
            "train_n": len(self._rows(subject)),
            "neighbours": f"one of {self.k} by cosine, softmax of minus the mean square",
            "alpha": self.alpha,
            "way": "spherical, about 0",
            "rounding": "none",
            "features": extractor.protocol(),
            **distance_protocol(name, n, n),
        }

    def _rows(self, subject: Subject) -> Tensor:
        return random_rows(subject.dataset.size("train"), self.train)

    def _bank(self, subject: Subject) -> Tensor:
        """The training latents that are searched, (M, T, C)."""
        z = subject.latents("train")
        return z if self.train is None else z[self._rows(subject)]
