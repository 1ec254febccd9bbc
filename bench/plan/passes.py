"""The memory of passes through networks outside of training, in bytes, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..api import (
    FlowTokenizer,
    Generator,
    ImageSpec,
    LatentSpec,
    Likelihood,
    Noise,
    Reference,
    Regularizer,
    Split,
    Tokenizer,
)
from ..api.reference import CHUNK as REFERENCE_CHUNK
from ..models.activations import forward_tensors, step_cost
from ..models.live_tensors import LiveTensors
from ..models.storage import storage_id
from ..runtime.parts_of_batches import planned_on_cpu, rows_at_a_time

CALLS = 1_000  # operations of a sampler that are followed: its peak comes early
STEPS = 2  # of a sampler of equal steps
SOLVER_STATES = 16  # tensors of float64 that an adaptive solver keeps of its state


@dataclass(frozen=True, order=True)
class PassMemory:
    """Bytes of the tensors that are alive at a pass's peak; the larger peak is the larger one."""

    peak: int = 0
    gaps: int = 0  # what a CPU's heap takes beside the peak

    @property
    def on_cpu(self) -> int:
        return self.peak + self.gaps

    def __add__(self, tensors: int) -> PassMemory:
        """The memory with further tensors beside the pass."""
        return PassMemory(self.peak + tensors, self.gaps)


def encoding(tokenizer: Tokenizer, image: ImageSpec, count: int) -> PassMemory:
    """Encoding so many images at a time, their pixels included."""
    images = _empty(count, image.channels, image.height, image.width)
    return _pass(tokenizer.encode, images) + images.nbytes


def decoding(tokenizer: Tokenizer, image: ImageSpec, classes: int, count: int) -> PassMemory:
    """Decoding so many latents at a time, the images included."""
    z = _empty(count, tokenizer.spec.tokens, tokenizer.spec.channels)
    if not isinstance(tokenizer, FlowTokenizer):
        return _pass(lambda z: tokenizer.decode(z).clamp(-1, 1), z) + z.nbytes
    x, t = _empty(count, image.channels, image.height, image.width), _empty(count)
    labels = _labels(count) if classes else None
    states = SOLVER_STATES * 2 * x.nbytes
    return _pass(tokenizer.velocity, x, t, z, labels) + z.nbytes + states


def drawing(regularizer: Regularizer, spec: LatentSpec, classes: int, count: int) -> PassMemory:
    """Drawing so many latents at a time from what was encoded."""
    h = _empty(count, spec.tokens, regularizer.encoder_outputs)
    labels = _labels(count) if classes else None

    def latent(h: Tensor) -> Tensor:
        return regularizer.latent(h, Noise(0, ("memory",)), labels)

    return _pass(latent, h) + h.nbytes


def sampling(
    generator: Generator,
    classes: int,
    guided: bool,
    options: Mapping[str, Any],
    count: int,
    weak: Generator | None = None,
    on_cpu: bool = True,
) -> PassMemory:
    """Sampling so many latents at a time; `weak` is the model that guides it.

    A CPU takes parts of them at a time through a network. Of a sampler of many operations the first are
    followed, and then those of its scores.
    """
    guidance = 2.0 if guided else 1.0
    labels = _labels(count) if classes else torch.full((count,), -1, device="meta")
    few = {name: min(value, STEPS) if name == "steps" and value else value for name, value in options.items()}

    other = {} if weak is None else {"weak": weak}

    def sample(labels: Tensor) -> Tensor:
        return generator.sample(labels, guidance, Noise(0), **other, **few)

    with planned_on_cpu(on_cpu):
        memory = _pass(sample, labels, calls=CALLS)
    if isinstance(generator, Likelihood) and generator.sampling_scores(guided and classes > 0, options):
        tokens = generator.spec.tokens
        rows = min(count, rows_at_a_time(tokens)) if on_cpu else count
        z, labels = _empty(rows, tokens, generator.spec.channels), labels[:rows]

        def score(generator: Likelihood, z: Tensor) -> None:
            z = z.requires_grad_()
            torch.autograd.grad(generator.log_prob(z, labels if classes else None).sum(), z)

        step = step_cost(score, generator, z)
        memory = max(memory, PassMemory(step.peak, step.gaps) + z.nbytes * count // rows)
    return memory


def fitting(generator: Generator, classes: int, batch: int) -> PassMemory:
    """Fitting a generator in one pass over batches of this size."""
    z, labels = _empty(batch, generator.spec.tokens, generator.spec.channels), None
    if classes:
        labels = _labels(batch)

    def fit(generator: Generator, z: Tensor) -> None:
        def batches() -> Iterator[tuple[Tensor, Tensor | None]]:
            for _ in range(2):
                yield z, labels

        generator.fit(batches())

    return _pass(fit, generator, z) + z.nbytes


def mapping(
    map: Callable[[Reference], Reference], spec: LatentSpec, counts: Mapping[Split, int], labelled: bool
) -> tuple[int, int]:
    """A reference's samples in a latent's space: what lasts, and what takes its making at its peak.

    Large sets are mapped by chunks: of these, memory is extrapolated from two numbers of samples.
    """

    def measure(train: int, val: int) -> tuple[int, int]:
        samples = _empty(train + val, spec.tokens, spec.channels)
        labels = _labels(train + val) if labelled else None
        alive = LiveTensors()
        with torch.no_grad(), alive:
            mapped = map(Reference(samples, labels, spec.grid, train)).samples
        lasting = 0 if storage_id(mapped) == storage_id(samples) else mapped.untyped_storage().nbytes()
        return lasting, alive.peak

    total = sum(counts.values())
    few, more = REFERENCE_CHUNK, 2 * REFERENCE_CHUNK
    if total <= more:
        return measure(counts["train"], counts["val"])
    share = counts["train"] / total
    ends = [measure(round(share * n), n - round(share * n)) for n in (few, more)]
    lasting, peak = (round(a + (b - a) * (total - few) / (more - few)) for a, b in zip(*ends, strict=True))
    return lasting, peak


def _pass(function: Callable[..., Any], *arguments: Any, calls: int | None = None) -> PassMemory:
    """The memory of function(*arguments), arguments not included; `calls` as of `forward_memory`."""
    alive = forward_tensors(function, *arguments, calls=calls)
    return PassMemory(alive.peak, alive.gaps)


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def _labels(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device="meta")
