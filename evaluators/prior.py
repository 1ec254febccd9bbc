"""How well a regularizer's priors know their reference: their samples against fresh reference samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Flow, Generator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics import frechet
from ..bench.metrics.frechet import frechet_estimate, gaussian
from ..bench.metrics.projections import PROJECTIONS, sliced_wasserstein
from ..bench.models.latents import CHUNK, chunked
from ..bench.models.sample_labels import sample_labels
from ..bench.options.options import options_of
from ..bench.registry import register

SETS = {
    "": "samples of the prior",
    "_guided": "samples of the prior with guidance",
    "_gaussian": "draws of one Gaussian that was fitted to the reference's train split",
    "_real": "other reference samples, of the train split: what a perfect prior scores",
}
DISTANCES = {
    "prior_FD": "Fréchet distance to fresh reference samples",
    "prior_SWD": "Sliced 1-Wasserstein distance to fresh reference samples",
}


@register("prior")
class Prior(Evaluator):
    """Samples each of a row's priors and compares them with fresh samples of the reference (its val split).

    A method can be no better than its prior: if a Gaussian is nearer to the reference, tables say so. Whole
    latents are compared, flattened, in the space in which the prior was trained; of a prior that knows single
    tokens, tokens are. All sets have the same size, as Fréchet distances grow with fewer samples. Priors with
    classes are asked for them in the proportions of the reference's train split. Rows without priors have no
    such numbers, and several priors of one row have their names behind an @.
    """

    metrics = {
        f"{base}{suffix}": Metric("tokenizer", None, "", f"{distance}: {of}.")
        for base, distance in DISTANCES.items()
        for suffix, of in SETS.items()
    }

    def __init__(
        self,
        samples: Annotated[int, Field(ge=2)] = 1000,
        guidance: Annotated[float, Field(gt=0)] = 2.0,
    ) -> None:
        """
        Args:
            samples: the largest number of latents (or tokens) of each set; fewer if val has fewer.
            guidance: of the guided samples, which priors without classes don't have.
        """
        self.samples, self.guidance = samples, guidance

    def run(self, subject: Subject) -> dict[str, float]:
        priors = subject.regularizer.priors()
        scores: dict[str, float] = {}
        for name, prior in priors.items():
            behind = f"@{name}" if len(priors) > 1 else ""
            fresh, sets = self._sets(subject, name, prior)
            for suffix, draw in sets.items():
                vectors, metric = draw(), f"prior_FD{suffix}{behind}"
                scores[metric] = frechet_estimate(metric, vectors, fresh)
                scores[f"prior_SWD{suffix}{behind}"] = sliced_wasserstein(vectors, fresh)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        peak = 0
        for prior in sizes.regularizer.priors().values() if sizes.regularizer else ():
            (train, tokens, channels), (fresh, *_) = (
                sizes.reference(split, own=True) for split in ("train", "val")
            )
            rows, width = (
                (tokens, channels) if per_token(prior) else (1, prior.spec.tokens * prior.spec.channels)
            )
            train, fresh = train * rows, fresh * rows
            n = min(self.samples, train, fresh)
            vectors = 4 * n * width + 8 * (train + fresh)
            fitted = frechet.memory_bytes(n, train, width) + 8 * (min(train, width) + n) * width
            drawn = sizes.sampling(prior, min(CHUNK, -(-n // rows)))
            peak = max(peak, vectors + max(fitted, drawn))
        return peak

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        base, _, behind = name.partition("@")
        priors = subject.regularizer.priors()
        prior = priors[behind or next(iter(priors))]
        fresh, _ = self._sets(subject, behind, prior)
        protocol = {
            "n": len(fresh),
            "of": "single tokens" if per_token(prior) else f"whole latents, {fresh.shape[1]} values",
            "reference": subject.reference_protocol(own=True),
            "space": type(subject.regularizer.underlying).__name__,
        }
        if base.startswith("prior_SWD"):
            protocol |= {"projections": PROJECTIONS, "order": 1}
        if base.endswith("_guided"):
            protocol["guidance"] = self.guidance
        if not base.endswith(("_gaussian", "_real")):
            part: Callable[..., Any] = type(prior)
            sampler = options_of(part, method="sample")
            protocol["sampler"] = {option.name: option.default for option in sampler.values()}
        return protocol

    def _sets(
        self, subject: Subject, name: str, prior: Generator
    ) -> tuple[Tensor, Mapping[str, Callable[[], Tensor]]]:
        """Fresh vectors (n, D), and what draws those that are compared with them, by suffix."""
        reference = subject.reference("train", own=True)
        train, fresh = (
            vectors(samples, prior)
            for samples in (reference.samples, subject.reference("val", own=True).samples)
        )
        n = min(self.samples, len(fresh), len(train))
        noise, count = subject.noise.fork("prior").fork(name), -(-n // (len(train) // len(reference.samples)))
        labels = sample_labels(reference.labels if prior.classes else None, count)

        def drawn(guidance: float) -> Tensor:
            device = next(prior.parameters()).device

            def sample(index: Tensor, chunk: int) -> Tensor:
                return prior.sample(labels[index].to(device), guidance, noise.fork(chunk)).cpu()

            with torch.no_grad():
                return vectors(chunked(sample, count), prior)[:n]

        def fitted() -> Tensor:
            one = gaussian(train)
            like = torch.empty(n, one.root.shape[1], dtype=torch.float64)
            return one.mean + noise.normal(like, "gaussian") @ one.root.T

        sets: dict[str, Callable[[], Tensor]] = {"": lambda: drawn(1.0)}
        if prior.classes and reference.labels is not None and getattr(prior, "conditional", True):
            sets["_guided"] = lambda: drawn(self.guidance)
        sets |= {"_gaussian": fitted, "_real": lambda: train[fixed_order(len(train))[:n]]}
        return fresh[fixed_order(len(fresh))[:n]], sets


def per_token(prior: Generator) -> bool:
    """Whether the prior is a distribution of single tokens."""
    return isinstance(prior, Flow) and prior.per_token


def vectors(samples: Tensor, prior: Generator) -> Tensor:
    """Latents (N, T, C) as the vectors that a prior is a distribution of: (N, T C), or tokens (N T, C)."""
    return (samples.flatten(0, 1) if per_token(prior) else samples.flatten(1)).float().cpu()
