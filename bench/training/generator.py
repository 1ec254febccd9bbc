"""The one loop that trains generators, whatever they model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from ..api import Generator, Noise
from ..runtime.prefetch import Ahead
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
    latent: Callable[[Tensor, Tensor | None, Noise], Tensor] = lambda given, labels, noise: given,
    snapshots: Collection[int] = (),
) -> State:
    """Trains a generator in place and leaves the averaged weights in it.

    Args:
        read: (index, step) -> rows (B, …) on the CPU, maybe of a mapped file.
        size: number of training latents, of which `read` takes indices.
        labels: (size,) int64 or None.
        latent: (rows on the device, labels, noise) -> z (B, T, C), normalised; called anew at every step, so
            that a stochastic latent is never frozen to one draw.
        snapshots: updates after which the averaged weights are kept in the state, beside the final ones.
    """
    accelerator = context.accelerator()
    device, group = accelerator.device, context.group
    generator.to(device).train()

    def load(index: Tensor, given: Tensor, step: int, share: Group) -> tuple[Tensor, Tensor | None, Noise]:
        noise = share.noise(Noise(seed, ("generator", str(step))))
        chosen = None if labels is None else labels[index].to(device)
        return (
            latent(given.to(device, non_blocking=True), chosen, noise.fork("latent")),
            chosen,
            noise.fork("loss"),
        )

    def rows(step: int) -> tuple[Tensor, Tensor]:
        index = group.rows(batch_index(size, batch, step, seed, "data"))
        return index, read(index, step)

    if type(generator).fit is not Generator.fit:

        def epoch() -> Iterator[tuple[Tensor, Tensor | None]]:
            for step, index in enumerate(torch.arange(size).split(batch)):
                z, chosen, _ = load(index, read(index, step), step, ALONE)  # each process estimates the same
                yield z, chosen

        generator.fit(epoch())
        generator.eval()
        return State({"generator": generator}, {}, {})

    settings = group_settings(GENERATOR_DEFAULTS, optimizer)
    trained = [p for p in generator.parameters() if p.requires_grad]
    adam = adamw(_groups(generator, optimizer))
    learner = Learner(adam, trained, settings["clip"], steps, accelerator, group)
    average, over = Average(generator, settings["ema"]), last_steps(learner.optimizer)
    state = State({"generator": generator}, {"main": learner.optimizer}, {"generator": average})

    def train(step: int) -> dict[str, Tensor]:
        index, given = ahead(step)
        z, chosen, noise = load(index, given, step, group)
        learner.zero_grad()
        with accelerator.autocast():
            losses = generator.loss(z, chosen, noise)
        learner.descend(sum(losses.values()), step)
        average.update(generator, step, over)
        if step + 1 in snapshots:
            weights = average.weights(generator)
            state.snapshots |= {f"{step + 1}/{name}": t.detach().cpu().clone() for name, t in weights.items()}
        return losses

    with closing(Ahead(rows, device)) as ahead:
        run_steps(state, steps, train, context, seed, "generator")
    generator.load_state_dict(average.weights(generator))
    generator.eval()
    return state


def _groups(
    generator: Generator, optimizer: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], list[nn.Parameter]]]:
    """Of the modules that the settings name, then of all other parameters."""
    seen: set[int] = set()
    for name in (*optimizer.get("modules", {}), ""):
        module = generator.get_submodule(name)
        parameters = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in parameters}
        yield (
            group_settings(GENERATOR_DEFAULTS, optimizer, group=f"modules.{name}" if name else ""),
            parameters,
        )
