"""The latents stage: the encoder's outputs for both splits, and their normalisation."""

from __future__ import annotations

from torch import Tensor

from ..api import Diverged, Noise
from ..api.returned import checked_hidden
from ..data.fixed_order import fixed_order
from ..models.latents import DRAWS, decode_all_uint8, draw, encode, normalisation, round_trip
from ..runtime.mapped import allocated
from ..store.artifacts import Result
from ..training.context import Context
from .inputs import SPLITS, Config, Inputs
from .trained_cell import TrainedCell

PREVIEW = 64  # held-out images whose reconstructions are kept to be shown


def latents(config: Config, inputs: Inputs, context: Context) -> Result:
    """h of both splits, the statistics that normalise latents for generators, and the round-trip check."""
    cell, group = TrainedCell(inputs, context.device), context.group
    dataset, model, regularizer = cell.dataset, cell.tokenizer, cell.regularizer
    tensors: dict[str, Tensor] = {}
    for split in SPLITS:
        name = f"h/{split}"
        stored, file = model.stored(split), context.scratch(name)
        if stored is None:
            tensors[name] = encode(model, dataset, split, context.device, None, context.loaders, group, file)
        else:
            tensors[name] = checked_hidden(model, stored, dataset.size(split))
    noise = Noise(config["seed"], ("latents",))
    batch, h = cell.config["batch"], tensors["h/train"]
    count = DRAWS if regularizer.couples == "latent" else 1
    shape = (count, len(h), model.spec.tokens, model.spec.channels)
    file, labels = context.scratch("draws"), dataset.labels("train")
    draws = allocated(shape, h.dtype, file, group)
    for k, into in enumerate(draws):
        stream = noise.fork("train").fork(k)
        draw(regularizer, h, labels, stream, batch, context.device, group, file, into)
    rule = normalisation(draws[0], config["normalise"])
    tensors |= {"mean": rule.mean, "std": rule.std}
    if regularizer.couples == "latent":
        tensors["draws"] = draws
    labels = dataset.labels("val")
    z = draw(regularizer, tensors["h/val"], labels, noise.fork("val"), batch, context.device, group)
    info: Config = {
        "spec": vars(model.spec),
        "dtype": str(z.dtype).removeprefix("torch."),
    }
    if not rule.by_position:  # those of each position are many, and are among the tensors
        info |= {"mean": rule.mean.tolist(), "std": rule.std.tolist()}
    if model.decodes:
        info["round_trip"] = gap = round_trip(model, dataset.image, z, rule, context.device, group)
        if not gap < 1e-3:
            raise Diverged(f"decoding normalised latents differs from decoding them directly by {gap:.3g}")
        shown = fixed_order(len(z))[:PREVIEW]
        shown_labels = None if labels is None else labels[shown]
        tensors["preview"] = decode_all_uint8(
            model, z[shown], context.device, labels=shown_labels, noise=noise.fork("preview")
        )
    return Result(info, tensors)
