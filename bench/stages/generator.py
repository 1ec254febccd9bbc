"""The generator stage: a generator trained on latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api import Noise
from ..api.noise import seeded
from ..models.latents import IDENTITY
from ..runtime.recompute import prepare
from ..store.artifacts import Result
from ..training.context import Context
from ..training.generator import train_generator
from .inputs import Config, Inputs
from .teacher import teacher
from .trained_cell import TrainedCell


def generator(config: Config, inputs: Inputs, context: Context) -> Result:
    """A generator trained on normalised latents that are drawn anew at every step.

    Latents that depend on their minibatch are read from their stored draws (`DRAWS`), in turn.
    """
    cell = TrainedCell(inputs, context.device)
    joint = config["init"] == "joint"
    with seeded(config["seed"], "init", "generator"):
        model = cell.joint() if joint else cell.fresh(config)
    prepare(config, model)
    stored, labels = cell.inputs["latents"].tensors, cell.dataset.labels("train")
    h, draws = stored["h/train"], stored.get("draws")
    normalise = (IDENTITY if joint else cell.normalisation).on(context.device)

    def read(index: Tensor, step: int) -> Tensor:
        return h[index] if draws is None else draws[step % len(draws), index]

    @torch.no_grad()
    def latent(rows: Tensor, labels: Tensor | None, noise: Noise) -> Tensor:
        return normalise(cell.regularizer.latent(rows, noise, labels) if draws is None else rows)

    state = train_generator(
        model,
        read,
        len(h),
        labels,
        latent=latent,
        teacher=teacher(config, inputs),
        images=cell.dataset if "teacher" in config else None,
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        optimizer=config["optimizer"],
        context=context,
        snapshots=config.get("snapshots", ()),
    )
    tensors = {f"generator/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"snapshot/{name}": tensor for name, tensor in state.snapshots.items()}
    cost = {"seconds": state.seconds, "steps": state.step} if state.step else {}
    return Result({"curves": state.curves}, tensors, cost=cost)
