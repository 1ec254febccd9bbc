"""The prior stage: a regularizer's prior, trained on the reference."""

from __future__ import annotations

from ..api.noise import seeded
from ..models import build
from ..runtime.recompute import prepare
from ..store.artifacts import Result
from ..training.context import Context
from ..training.generator import train_generator
from .inputs import Config, Inputs
from .reference import regularizer_reference
from .reference_samples import in_space_of, split_of


def prior(config: Config, inputs: Inputs, context: Context) -> Result:
    """One of a regularizer's priors, trained on the reference without normalisation."""
    spec = build.spec_from(config["spec"])
    with seeded(config["seed"], "init", "prior", config["prior"]):
        regularizer = build.regularizer(config["regularizer"], spec, build.facts_from(config["facts"]))
    target = split_of(in_space_of(regularizer, regularizer_reference(inputs, context)), "train")
    model = regularizer.priors()[config["prior"]]
    prepare(config, model)
    state = train_generator(
        model,
        lambda index, step: target.samples[index],
        len(target.samples),
        target.labels,
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        optimizer=config["optimizer"],
        context=context,
    )
    tensors = {f"prior/{name}": tensor for name, tensor in model.state_dict().items()}
    return Result({"curves": state.curves}, tensors, cost={"seconds": state.seconds, "steps": state.step})
