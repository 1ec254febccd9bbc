"""How well latents fill a reference distribution: nearest-neighbour NLL in both directions (Flow Priors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import faiss
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Split, Subject, SubjectSizes, Unfit
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.latent_loss import along, draw_along, is_potential, pearson, repeats
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def neighbour_distances(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """Euclidean distance (n,), in float64, of each query (n, C) to its k-th neighbour in the bank (m, C).

    A bank entry that equals the query counts as a neighbour: queries and bank are drawn separately.
    """
    if k > len(bank):
        raise Unfit(f"k = {k} neighbours were asked for, but the bank holds {len(bank)} tokens")
    # faiss expands |q - b|^2 in float32, which loses small distances. So the search is around the bank's
    # mean, and distances to the neighbours are then computed directly.
    centre = bank.double().mean(0)
    queries, bank = queries.double() - centre, bank.double() - centre
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(np.ascontiguousarray(bank.cpu().numpy(), dtype=np.float32))
    _, rows = index.search(np.ascontiguousarray(queries.cpu().numpy(), dtype=np.float32), k)
    neighbours = bank[torch.from_numpy(rows).to(bank.device)]  # (n, k, C)
    return (queries[:, None] - neighbours).norm(dim=2).amax(1)


def log_distances(queries: Tensor, bank: Tensor, k: int, floor: float) -> Tensor:
    """Log distances (n,) to the k-th neighbour; times C, they are NLLs in nats up to a constant.

    Distances are clamped to at least `floor`, as duplicates at distance 0 would make the mean infinite.
    """
    return neighbour_distances(queries, bank, k).clamp(min=floor).log()


def floor_of(bank: Tensor) -> float:
    """The smallest distance that counts: 1e-6 of the root mean square distance of a bank from its mean."""
    spread = bank.double() - bank.double().mean(0)
    return 1e-6 * spread.square().sum(1).mean().sqrt().item()


@dataclass(frozen=True)
class Tokens:
    """Tokens (n, C), and the indices of their images (n,)."""

    values: Tensor
    images: Tensor


def drawn(z: Tensor, count: int) -> Tokens:
    """`count` tokens of z (N, T, C) without replacement, the same for all z of this size."""
    tokens = z.flatten(0, 1)
    chosen = fixed_order(len(tokens), seed=0)[:count]
    return Tokens(tokens[chosen.to(tokens.device)], chosen // z.shape[1])


def mean_over_images(metric: str, values: Tensor, images: Tensor) -> Estimate:
    """The mean of values (n,), resampled by images, as the tokens of an image are correlated."""
    _, image = images.unique(return_inverse=True)
    sums, sizes = (image.bincount(weights) for weights in (values.cpu(), torch.ones(len(values)).double()))
    multiplicities = counts(metric, len(sums))
    return Estimate(values.mean().item(), (multiplicities @ sums) / (multiplicities @ sizes))


def rms(tokens: Tensor) -> float:
    """Root mean square of tokens (n, C) about their channels' means."""
    tokens = tokens.double()
    return (tokens - tokens.mean(0)).square().mean().sqrt().item()


@dataclass(frozen=True)
class Trajectory:
    """The mean log distance to the reference, and the regularizer's loss, at several training steps."""

    steps: Tensor  # (P,)
    distances: Tensor  # (P,)
    fresh: float  # the distance of fresh reference samples
    losses: Tensor | None  # (P,), None where the loss isn't a function of single latents


@register("density")
class Density(Evaluator):
    """k-NN NLL from latent tokens to the reference's and back, and between two samples of the reference.

    With `probes: {every: N}` in the matrix it also follows the tokens of some training images along
    training, beside the regularizer's loss on them, in the row's own space of the reference: Flow Priors'
    figures 4 (`flow_prior`) and 7 (`none`). `figures/` has the two curves.

    None of these has a direction: the best value is that of fresh reference samples.
    """

    version = 3  # since the reference's tokens are chosen, not pooled, and nearness has no direction
    metrics = {
        "kNN_NLL": Metric(
            "tokenizer",
            None,
            "",
            "Log distance from latents to the reference; low also for collapsed latents.",
        ),
        "kNN_NLL_reverse": Metric(
            "tokenizer",
            None,
            "",
            "From the reference to latents; high for collapsed ones. Read both with the next.",
        ),
        "kNN_NLL_real": Metric(
            "tokenizer", None, "", "From fresh reference samples to the reference: what a perfect match has."
        ),
        "kNN_NLL_own": Metric("tokenizer", None, "", "kNN_NLL in the row's own space of the reference."),
        "kNN_NLL_reverse_own": Metric("tokenizer", None, "", "kNN_NLL_reverse in the row's own space."),
        "kNN_NLL_real_own": Metric("tokenizer", None, "", "kNN_NLL_real in the row's own space."),
        "kNN_NLL_change": Metric(
            "tokenizer",
            None,
            "",
            "kNN_NLL of some training images at the end of training minus that at its start, own space.",
        ),
        "kNN_NLL_correlation_training": Metric(
            "tokenizer", None, "", "Correlation of the regularizer's loss with kNN_NLL along training."
        ),
        "latent_scale": Metric(
            "tokenizer",
            None,
            "",
            "Root mean square of latents about their channels' means, over that of fresh reference samples.",
        ),
        "latent_scale_own": Metric("tokenizer", None, "", "latent_scale in the row's own space."),
    }

    def __init__(
        self,
        k: Annotated[int, Field(ge=1)] = 5,
        queries: Annotated[int, Field(ge=1)] = 10_000,
        bank: Annotated[int, Field(ge=1)] = 100_000,
    ) -> None:
        """
        Args:
            k: which neighbour's distance counts.
            queries: largest number of tokens whose distance is measured.
            bank: largest number of tokens among which neighbours are found.
        """
        self.k, self.queries, self.bank = k, queries, bank
        self._last: tuple[Subject, Trajectory | None] | None = None

    def run(self, subject: Subject) -> dict[str, float]:
        scores = self._score(subject, own=False)
        if subject.own_reference:
            scores |= self._score(subject, own=True)
        followed = self._followed(subject)
        if followed is None:
            return scores
        scores["kNN_NLL_change"] = (followed.distances[-1] - followed.distances[0]).item()
        correlation = None if followed.losses is None else pearson(followed.losses, followed.distances)
        return scores if correlation is None else scores | {"kNN_NLL_correlation_training": correlation}

    def figures(self, subject: Subject) -> dict[str, Figure]:
        followed = self._followed(subject)
        return {} if followed is None else {"density": drawing(followed)}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        own = sizes.own_reference
        shapes = [sizes.latents("val"), sizes.latents("train")]
        references = [sizes.reference(split, of) for of in {False, own} for split in ("val", "train")]
        tokens = [n * t for n, t, _ in (*shapes, *references)]
        channels, bank = shapes[0][2], min(self.bank, *tokens)
        queries = min(self.queries, *tokens)
        # The bank in both precisions and about its mean; each query's neighbours with their differences.
        search = bank * channels * (4 + 3 * 8) + 3 * 8 * queries * self.k * channels
        return search + 2 * 8 * max(tokens) + bootstrap.memory_bytes(sizes.val, 6)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name in ("kNN_NLL_change", "kNN_NLL_correlation_training"):
            return self._protocol_of_training(name, subject)
        own = name.endswith("_own")
        queries, bank = self._sizes(*self._sets(subject, own))
        common = {
            "reference": subject.reference_protocol(own),
            "space": "the regularizer's own" if own else "tokens, random projection (seed 42)",
        }
        if name.startswith("latent_scale"):
            return {"n": queries, **common, "of": "tokens of val", "about": "the mean of each channel"}
        return {
            "n": queries,
            "bank": bank,
            "k": self.k,
            **common,
            "search": "faiss IndexFlatL2, float32",
            "queries_from": "latents of val"
            if name.removesuffix("_own") == "kNN_NLL"
            else "reference of val",
            "bank_from": "latents of train" if "reverse" in name else "reference of train",
            "floor": "1e-6 of the reference's rms distance from its mean",
        }

    def _score(self, subject: Subject, own: bool) -> dict[str, float]:
        sets = self._sets(subject, own)
        queries, bank = self._sizes(*sets)
        z, reference = (drawn(tokens, queries) for tokens in sets[:2])
        z_bank, reference_bank = (drawn(tokens, bank).values for tokens in sets[2:])
        floor = floor_of(reference_bank)
        pairs = {
            "kNN_NLL": (z, reference_bank),
            "kNN_NLL_reverse": (reference, z_bank),
            "kNN_NLL_real": (reference, reference_bank),
        }
        scale = "latent_scale_own" if own else "latent_scale"
        scores: dict[str, float] = {scale: rms(z.values) / rms(reference.values)}
        for base, (from_tokens, to_bank) in pairs.items():
            name = f"{base}_own" if own else base
            logs = log_distances(from_tokens.values, to_bank, self.k, floor)
            scores[name] = mean_over_images(name, logs, from_tokens.images)
        return scores

    def _followed(self, subject: Subject) -> Trajectory | None:
        """The probes of training, measured; None without any."""
        if self._last is None or self._last[0] is not subject:
            steps, probes = subject.trajectory()
            self._last = subject, self._follow(subject, steps, probes) if len(steps) > 1 else None
        return self._last[1]

    @torch.no_grad()
    def _follow(self, subject: Subject, steps: Tensor, probes: Tensor) -> Trajectory:
        regularizer, noise = subject.regularizer, subject.noise.fork("density")
        device = next((p.device for p in regularizer.parameters()), probes.device)
        fresh, reference = (subject.reference(split, own=True).samples for split in ("val", "train"))
        bank = drawn(reference, self.bank).values
        floor = floor_of(bank)

        def distance(tokens: Tensor) -> Tensor:
            return log_distances(drawn(tokens, self.queries).values, bank, self.k, floor).mean()

        distances = [distance(regularizer.aligned(z.to(device)).to(bank)) for z in probes]
        # Tested at the start, as trained latents may lie where the loss is flat. Weights that grow with the
        # step have their last value.
        last, losses = int(steps[-1]), None
        if is_potential(regularizer, probes[0, :64].to(device), noise, last):
            losses = along(regularizer, probes.to(device), noise, last).cpu()
        return Trajectory(steps, torch.stack(distances).cpu(), distance(fresh).item(), losses)

    def _protocol_of_training(self, name: str, subject: Subject) -> dict[str, Any]:
        steps, probes = subject.trajectory()
        reference = subject.reference("train", own=True).samples
        images, tokens = probes.shape[1:3]
        protocol = {
            "n": len(steps),
            "latents": f"of {images} training images, a fixed random choice",
            "queries": min(self.queries, images * tokens),
            "bank": min(self.bank, len(reference) * reference.shape[1]),
            "k": self.k,
            "reference": subject.reference_protocol(own=True),
            "space": "the regularizer's own",
        }
        if name == "kNN_NLL_change":
            return protocol
        return protocol | {"loss": "of the trained regularizer", "draws": repeats(images)}

    def _sets(self, subject: Subject, own: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and reference of val, then latents and reference of train, each (n, T, C)."""

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
        """Numbers of queries and bank entries, equal in both directions: log r_k falls as a bank grows."""
        tokens = [len(x) * x.shape[1] for x in (z, reference, z_bank, reference_bank)]
        return min(self.queries, *tokens[:2]), min(self.bank, *tokens[2:])


def drawing(followed: Trajectory) -> Figure:
    """The loss (solid) and the mean log distance (dashed) along training, as in Flow Priors' figure 4."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.0), dpi=100, layout="constrained")
    labels = ("log distance (dotted: fresh samples)", "the regularizer's loss")
    draw_along(figure.subplots(), followed.steps, followed.distances, followed.fresh, followed.losses, labels)
    return figure
