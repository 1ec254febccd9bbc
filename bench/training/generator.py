"""The one loop that trains generators, whatever they model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from ..api import Dataset, Generator, Noise
from ..api.transfer import sent
from ..runtime.prefetch import Ahead, BatchReader
from ..runtime.processes import ALONE, Group
from .checkpoint import State
from .context import Context
from .ema import Average
from .optimizers import GENERATOR_DEFAULTS, Learner, adamw, group_settings, last_steps
from .steps import batch_index, run_steps


class LatentLoader:
    """Loads the latents of a generator's updates with what its loss takes beside them."""

    def __init__(
        self,
        read: Callable[[Tensor, int], Tensor],
        size: int,
        labels: Tensor | None,
        batch: int,
        seed: int,
        context: Context,
        latent: Callable[[Tensor, Tensor | None, Noise], Tensor],
        teacher: Callable[[Tensor | None, Tensor], Tensor] | None,
        images: Dataset | None,
    ) -> None:
        """
        Args:
            read, size, labels, latent, teacher, images: as of `train_generator`.
        """
        self.read, self.size, self.labels, self.batch, self.seed = read, size, labels, batch, seed
        self.latent, self.teacher, self.group = latent, teacher, context.group
        self.accelerator = context.accelerator()
        self.device = self.accelerator.device
        self._ahead = Ahead(self._read, self.device)
        self._images: BatchReader | None = None
        if images is not None:
            self._images = BatchReader(images, "train", self._index, context.loaders, self.device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None, Noise, tuple[Tensor, ...]]:
        """Latents, labels and noise of an update and, with a teacher, the tokens of the latents' images."""
        index, rows = self._ahead(step)
        return *self._prepare(index, rows, step, self.group), self._described(index, step)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All latents with their labels, the same in all processes."""
        for step, index in enumerate(torch.arange(self.size).split(self.batch)):
            z, labels, _ = self._prepare(index, self.read(index, step), step, ALONE)
            yield z, labels

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        self._ahead.close()
        if self._images is not None:
            self._images.close()

    def _index(self, step: int, stream: str = "data") -> Tensor:
        return self.group.rows(batch_index(self.size, self.batch, step, self.seed, stream))

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        index = self._index(step)
        return index, self.read(index, step)

    def _prepare(
        self, index: Tensor, rows: Tensor, step: int, group: Group
    ) -> tuple[Tensor, Tensor | None, Noise]:
        noise = group.noise(Noise(self.seed, ("generator", str(step))))
        labels = None if self.labels is None else sent(self.labels[index], self.device)
        z = self.latent(sent(rows, self.device), labels, noise.fork("latent"))
        return z, labels, noise.fork("loss")

    @torch.no_grad()
    def _described(self, index: Tensor, step: int) -> tuple[Tensor, ...]:
        if self.teacher is None:
            return ()
        images = None if self._images is None else self._images(step, "data")
        with self.accelerator.autocast():
            return (sent(self.teacher(images, index), self.device).float(),)


def train_generator(
    generator: Generator,
    read: Callable[[Tensor, int], Tensor],
    size: int,
    labels: Tensor | None,
    *,
    steps: int,
    batch: int,
    seed: int,
    optimizer: Mapping[str, Any],
    context: Context,
    latent: Callable[[Tensor, Tensor | None, Noise], Tensor] = lambda rows, labels, noise: rows,
    teacher: Callable[[Tensor | None, Tensor], Tensor] | None = None,
    images: Dataset | None = None,
    snapshots: Collection[int] = (),
) -> State:
    """Trains a generator in place and leaves the averaged weights in it.

    Args:
        read: maps (index, step) to rows (B, …) on the CPU, possibly of a mapped file.
        size: the number of training latents, which `read` indexes.
        labels: (size,) int64 or None.
        latent: maps (rows on the device, labels, noise) to z (B, T, C), normalised; called at every step, so
            that a stochastic latent is drawn anew.
        teacher: maps (images on the device, index) to the teacher's tokens (B, N, F), for generators that
            learn from them.
        images: the training images that `read` has the latents of, if the teacher looks at them.
        snapshots: updates after which the averaged weights are kept in the state, besides the final ones.
    """
    loader = LatentLoader(read, size, labels, batch, seed, context, latent, teacher, images)
    accelerator, group = loader.accelerator, context.group
    generator.to(loader.device).train()
    if not generator.takes_steps():
        with closing(loader):
            generator.fit(loader.epoch())
        generator.eval()
        return State({"generator": generator}, {}, {})

    settings = group_settings(GENERATOR_DEFAULTS, optimizer)
    trained = [p for p in generator.parameters() if p.requires_grad]
    adam = adamw(_groups(generator, optimizer))
    learner = Learner(adam, trained, settings["clip"], steps, accelerator, group)
    average, ends = Average(generator, settings["ema"]), last_steps(learner.optimizer)
    state = State({"generator": generator}, {"main": learner.optimizer}, {"generator": average})

    def train(step: int) -> dict[str, Tensor]:
        z, batch_labels, noise, features = loader(step)
        learner.zero_grad()
        with accelerator.autocast():
            losses = generator.loss(z, batch_labels, noise, *features)  # type: ignore[call-arg]
        learner.descend(sum(losses.values()), step)
        average.update(generator, step, ends)
        if step + 1 in snapshots:
            weights = average.weights(generator)
            state.snapshots |= {f"{step + 1}/{name}": t.detach().cpu().clone() for name, t in weights.items()}
        return losses

    with closing(loader):
        run_steps(state, steps, train, context, seed, "generator")
    generator.load_state_dict(average.weights(generator))
    generator.eval()
    return state


def _groups(
    generator: Generator, optimizer: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], list[nn.Parameter]]]:
    """Settings and parameters of each module that the settings name, then of all other parameters."""
    seen: set[int] = set()
    for name in (*optimizer.get("modules", {}), ""):
        module = generator.get_submodule(name)
        parameters = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in parameters}
        path = f"modules.{name}" if name else ""
        yield group_settings(GENERATOR_DEFAULTS, optimizer, group=path), parameters
