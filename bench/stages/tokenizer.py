"""The tokenizer stage: a tokenizer and its regularizer, trained together."""

from __future__ import annotations

from pathlib import Path

import torch

from ..api import ImageSpec
from ..api.noise import seeded
from ..data.augment import Augmentation
from ..models import build
from ..models.activations import step_cost
from ..models.flops import parameters
from ..nn import released_weights
from ..runtime.recompute import prepare
from ..store.artifacts import Result
from ..training import losses
from ..training.context import Context
from ..training.objective import Objective, TrainingBudget
from ..training.one_step import reconstruction_step
from ..training.tokenizer import train_tokenizer
from .inputs import Config, Inputs
from .reference import regularizer_reference
from .reference_samples import in_space_of, split_of
from .teacher import teacher


def tokenizer(config: Config, inputs: Inputs, context: Context) -> Result:
    """A trained tokenizer with its regularizer."""
    dataset, seed = build.dataset(config["dataset"], context.device), config["seed"]
    method = build.base_class(config["regularizer"])
    with seeded(seed, "init", "tokenizer"):
        model = build.tokenizer(config["tokenizer"], dataset, method)
    with seeded(seed, "init", "regularizer"):
        regularizer = build.regularizer(config["regularizer"], model.spec, build.facts_from(config["facts"]))
    with seeded(seed, "init", "discriminator"):
        adversary = losses.build_adversary(config["reconstruction"], dataset.image)
    if "weights" in config:
        file = Path(config["weights"]["file"])
        model.load_state_dict(released_weights.state(model, file))
    if "start" in inputs:
        model.load_state_dict(inputs["start"].group("tokenizer"))
    for name, module in regularizer.priors().items():
        module.load_state_dict(inputs[f"prior/{name}"].group("prior"))
    prepare(config, model, regularizer)
    target = None
    if "reference" in inputs:
        target = split_of(in_space_of(regularizer, regularizer_reference(inputs, context)), "train")
    objective = Objective(
        losses.terms(config["reconstruction"]),
        adversary,
        config["reconstruction"].get("gan", {}).get("optimizer", {}),
        Augmentation(**config["augment"]) if "augment" in config else None,
    )
    budget = TrainingBudget(config["steps"], config["batch"], config["refine_steps"], config["probes"])
    state = train_tokenizer(
        model,
        regularizer,
        dataset,
        objective,
        budget,
        seed=seed,
        optimizer=config["optimizer"],
        context=context,
        teacher=teacher(config, inputs),
        reference=target,
    )
    tensors = {f"tokenizer/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"regularizer/{name}": tensor for name, tensor in regularizer.state_dict().items()}
    if state.probes:
        tensors["probes/step"] = torch.tensor(sorted(state.probes))
        tensors["probes/z"] = torch.stack([state.probes[step] for step in sorted(state.probes)])
    steps = config["steps"] + config["refine_steps"]
    cost = {"seconds": state.seconds, "steps": steps} | (_loss_cost(config, dataset.image) if steps else {})
    return Result({"curves": state.curves}, tensors, cost=cost)


def _loss_cost(config: Config, image: ImageSpec) -> dict[str, float]:
    """The cost of the networks in the reconstruction losses, if there are any."""
    distance, adversary = losses.networks(config["reconstruction"], image)
    if distance is None and adversary is None:
        return {}
    count, shape = config["batch"], (image.channels, image.height, image.width)
    step = step_cost(reconstruction_step, distance, adversary, torch.empty(count, *shape, device="meta"))
    cost = {"loss_flops_per_image": step.flops / count}
    if adversary is not None:
        cost["discriminator_parameters"] = parameters(adversary, trainable=True)
    return cost
