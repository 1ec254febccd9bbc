"""How well latents fill a reference distribution: nearest-neighbour NLL, both ways (Flow Priors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import faiss
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Split, Subject
from ..bench.metrics.bootstrap import counts
from ..bench.registry import register


def neighbour_distances(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """(n, C), (m, C) -> (n,) float64 Euclidean distance of each query to its k-th neighbour in the bank.

    A bank entry that equals the query is a neighbour like any other (queries and bank are drawn apart).
    """
    if k > len(bank):
        raise ValueError(f"k = {k} neighbours were asked for, but the bank holds {len(bank)} tokens")
    # faiss expands |q - b|^2 in float32, which loses small distances: it searches around the bank's mean, and
    # the distances to what it found are then taken directly.
    centre = bank.double().mean(0)
    queries, bank = queries.double() - centre, bank.double() - centre
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(np.ascontiguousarray(bank.cpu().numpy(), dtype=np.float32))
    _, found = index.search(np.ascontiguousarray(queries.cpu().numpy(), dtype=np.float32), k)
    neighbours = bank[torch.from_numpy(found).to(bank.device)]  # (n, k, C)
    return (queries[:, None] - neighbours).norm(dim=2).amax(1)


def log_distances(queries: Tensor, bank: Tensor, k: int, floor: float) -> Tensor:
    """(n,) logs of the distance to the k-th neighbour; times C, NLLs in nats up to a constant.

    Distances below `floor` count as `floor`: duplicates lie at distance 0 and would make the mean infinite.
    """
    return neighbour_distances(queries, bank, k).clamp(min=floor).log()


@dataclass(frozen=True)
class Tokens:
    """Tokens (n, C) and the images (n,) that they are of."""

    values: Tensor
    images: Tensor


def drawn(sets: Tensor, count: int) -> Tokens:
    """`count` tokens of (N, T, C) without replacement, the same for every set of this size."""
    tokens = sets.flatten(0, 1)
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:count]
    return Tokens(tokens[chosen.to(tokens.device)], chosen // sets.shape[1])


def mean_over_images(metric: str, values: Tensor, images: Tensor) -> Estimate:
    """The mean of (n,) values; resamples are of the images, as the tokens of one are alike."""
    _, image = images.unique(return_inverse=True)
    sums, sizes = (image.bincount(weights) for weights in (values.cpu(), torch.ones(len(values)).double()))
    times = counts(metric, len(sums))
    return Estimate(values.mean().item(), (times @ sums) / (times @ sizes))


@register("density")
class Density(Evaluator):
    """k-NN NLL between latent tokens and the reference's, both ways, beside the reference's own value."""

    metrics = {
        "kNN_NLL": Metric(
            "tokenizer",
            False,
            "",
            "Log distance from latents to the reference; low also for collapsed latents.",
        ),
        "kNN_NLL_reverse": Metric(
            "tokenizer",
            False,
            "",
            "From the reference to latents; high for collapsed ones. Read both with the next.",
        ),
        "kNN_NLL_real": Metric(
            "tokenizer", None, "", "From fresh reference samples to the reference: what a perfect match has."
        ),
        "kNN_NLL_own": Metric("tokenizer", False, "", "kNN_NLL in the row's own space of the reference."),
        "kNN_NLL_reverse_own": Metric("tokenizer", False, "", "kNN_NLL_reverse in the row's own space."),
        "kNN_NLL_real_own": Metric("tokenizer", None, "", "kNN_NLL_real in the row's own space."),
    }

    def __init__(
        self,
        k: Annotated[int, Field(ge=1)] = 5,
        queries: Annotated[int, Field(ge=1)] = 10_000,
        bank: Annotated[int, Field(ge=1)] = 100_000,
    ) -> None:
        self.k, self.queries, self.bank = k, queries, bank

    def run(self, subject: Subject) -> dict[str, float]:
        return self._score(subject, own=False) | (
            self._score(subject, own=True) if subject.own_reference else {}
        )

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        own = name.endswith("_own")
        queries, bank = self._sizes(*self._sets(subject, own))
        return {
            "n": queries,
            "bank": bank,
            "k": self.k,
            "reference": subject.reference_protocol(own),
            "search": "faiss IndexFlatL2, float32",
            "space": "the regularizer's own" if own else "pooled tokens, random projection (seed 42)",
            "queries_from": "latents of val"
            if name.removesuffix("_own") == "kNN_NLL"
            else "reference of val",
            "bank_from": "latents of train" if "reverse" in name else "reference of train",
            "floor": "1e-6 of the reference's rms distance from its mean",
        }

    def _score(self, subject: Subject, own: bool) -> dict[str, float]:
        sets = self._sets(subject, own)
        queries, bank = self._sizes(*sets)
        z, reference = (drawn(some, queries) for some in sets[:2])
        z_bank, reference_bank = (drawn(some, bank).values for some in sets[2:])
        spread = reference_bank.double() - reference_bank.double().mean(0)
        floor = 1e-6 * spread.square().sum(1).mean().sqrt().item()
        pairs = {
            "kNN_NLL": (z, reference_bank),
            "kNN_NLL_reverse": (reference, z_bank),
            "kNN_NLL_real": (reference, reference_bank),
        }
        found: dict[str, float] = {}
        for base, (asking, among) in pairs.items():
            name = f"{base}_own" if own else base
            logs = log_distances(asking.values, among, self.k, floor)
            found[name] = mean_over_images(name, logs, asking.images)
        return found

    def _sets(self, subject: Subject, own: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and reference of val, latents and reference of train, each (n, T, C)."""

        def latents(split: Split) -> Tensor:
            z = subject.latents(split)
            with torch.no_grad():
                return subject.regularizer.aligned(z) if own else z

        return (
            latents("val"),
            subject.reference("val", own).samples,
            latents("train"),
            subject.reference("train", own).samples,
        )

    def _sizes(self, z: Tensor, reference: Tensor, z_bank: Tensor, reference_bank: Tensor) -> tuple[int, int]:
        """Equal numbers of queries and equal banks in both directions: log r_k falls as a bank grows."""
        tokens = [some.shape[0] * some.shape[1] for some in (z, reference, z_bank, reference_bank)]
        return min(self.queries, *tokens[:2]), min(self.bank, *tokens[2:])
