"""The one loop that trains generators, whatever they model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from ..api import Dataset, Generator, Noise
from ..runtime.prefetch import Ahead, BatchReader
from ..runtime.processes import ALONE, Group
from .checkpoint import State
from .context import Context
from .ema import Average
from .optimizers import GENERATOR_DEFAULTS, Learner, adamw, group_settings, last_steps
from .steps import batch_index, run_steps


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
    accelerator = context.accelerator()
    device, group = accelerator.device, context.group

    def rows_of(step: int, stream: str = "data") -> Tensor:
        return group.rows(batch_index(size, batch, step, seed, stream))

    decoded = None if images is None else BatchReader(images, "train", rows_of, context.loaders, device)
    generator.to(device).train()

    def prepare(index: Tensor, rows: Tensor, step: int, group: Group) -> tuple[Tensor, Tensor | None, Noise]:
        """Latents, labels and noise of a batch."""
        noise = group.noise(Noise(seed, ("generator", str(step))))
        batch_labels = None if labels is None else labels[index].to(device)
        z = latent(rows.to(device, non_blocking=True), batch_labels, noise.fork("latent"))
        return z, batch_labels, noise.fork("loss")

    def read_step(step: int) -> tuple[Tensor, Tensor]:
        index = rows_of(step)
        return index, read(index, step)

    if type(generator).fit is not Generator.fit:

        def epoch() -> Iterator[tuple[Tensor, Tensor | None]]:
            for step, index in enumerate(torch.arange(size).split(batch)):
                z, batch_labels, _ = prepare(
                    index, read(index, step), step, ALONE
                )  # the same in all processes
                yield z, batch_labels

        generator.fit(epoch())
        generator.eval()
        return State({"generator": generator}, {}, {})

    settings = group_settings(GENERATOR_DEFAULTS, optimizer)
    trained = [p for p in generator.parameters() if p.requires_grad]
    adam = adamw(_groups(generator, optimizer))
    learner = Learner(adam, trained, settings["clip"], steps, accelerator, group)
    average, ends = Average(generator, settings["ema"]), last_steps(learner.optimizer)
    state = State({"generator": generator}, {"main": learner.optimizer}, {"generator": average})

    @torch.no_grad()
    def described(index: Tensor, step: int) -> tuple[Tensor, ...]:
        """The teacher's tokens, if the generator learns from them."""
        if teacher is None:
            return ()
        with accelerator.autocast():
            return (teacher(decoded(step, "data") if decoded else None, index).to(device).float(),)

    def train(step: int) -> dict[str, Tensor]:
        index, rows = ahead(step)
        z, batch_labels, noise = prepare(index, rows, step, group)
        features = described(index, step)
        learner.zero_grad()
        with accelerator.autocast():
            losses = generator.loss(z, batch_labels, noise, *features)  # type: ignore[call-arg]
        learner.descend(sum(losses.values()), step)
        average.update(generator, step, ends)
        if step + 1 in snapshots:
            weights = average.weights(generator)
            state.snapshots |= {f"{step + 1}/{name}": t.detach().cpu().clone() for name, t in weights.items()}
        return losses

    with closing(Ahead(read_step, device)) as ahead, closing(decoded or ahead):
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
