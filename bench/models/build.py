"""Builds parts from their resolved configs, which are plain data: {"name": …, "options": {…}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from .. import registry
from ..api import (
    Dataset,
    Evaluator,
    FeatureExtractor,
    Generator,
    ImageSpec,
    LatentSpec,
    ReferenceSource,
    Regularizer,
    Tokenizer,
    Unfit,
)
from ..nn.corruption import Corruption

Config = Mapping[str, Any]

# The facts for which parameters of named sizes are counted, in words and as arguments of constructors.
COUNTED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "generators": (
        "256 tokens of 32 channels, 1,000 classes",
        {"spec": LatentSpec(256, 32, (16, 16)), "classes": 1000},
    ),
    "tokenizers": ("3 x 256 x 256 pixels", {"image": ImageSpec(3, 256, 256), "expansion": 1}),
}


def parameters_of_sizes(kind: str, name: str) -> dict[str, int]:
    """Numbers of parameters of all named sizes of a generator or tokenizer, for the facts in `COUNTED`."""
    counts: dict[str, int] = {}
    for size, options in cast(Any, registry.get(kind, name)).sizes.items():
        with torch.device("meta"):
            module = registry.build(kind, name, COUNTED[kind][1], options)
        counts[size] = sum(parameter.numel() for parameter in module.parameters())
    return counts


def dataset(config: Config, device: str = "cpu") -> Dataset:
    """A dataset; one that decodes latents does so on the device."""
    made: Dataset = registry.create("datasets", config["name"], **options_from(config["options"]))
    if made.decoded:
        made.device = device
    return made


def extractor(config: Config) -> FeatureExtractor:
    return registry.create("features", config["name"], **options_from(config["options"]))


def evaluator(config: Config) -> Evaluator:
    return registry.create("evaluators", config["name"], **options_from(config["options"]))


def tokenizer(config: Config, data: Dataset, method: type[Regularizer] = Regularizer) -> Tokenizer:
    """A tokenizer with as many outputs of its encoder as the regularizer `method` takes; see `base_class`.

    Raises:
        Unfit: the tokenizer has only multiples of its latent's channels, and the regularizer takes more.
    """
    facts = {"image": data.image, "expansion": method.expansion, "extra": method.extra, "dataset": data}
    return tokenizer_of(config["name"], facts, options_from(config["options"]))


def tokenizer_of(name: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer from its options and those facts that it names; `extra` must be named unless it is 0."""
    extra = facts.get("extra", 0)
    if extra and "extra" not in registry.parameters_of(registry.get("tokenizers", name)):
        raise Unfit(
            f"the encoder of {name} gives multiples of a latent's channels; the method takes {extra} more"
        )
    return registry.build("tokenizers", name, facts, options)


def reference(config: Config, data: Dataset, teacher: LatentSpec) -> ReferenceSource:
    facts = {"image": data.image, "teacher_spec": teacher}
    return registry.build("references", config["name"], facts, options_from(config["options"]))


def regularizer_class(config: Config) -> type[Regularizer]:
    return cast(type[Regularizer], registry.get("regularizers", config["name"]))


def base_config(config: Config) -> Config:
    """The config of the regularizer that makes the latents: of a corruption, of that on which it stands."""
    if not issubclass(regularizer_class(config), Corruption):
        return config
    name, options = registry.named(config["options"].get("on", "none"))
    return base_config({"name": name, "options": options})


def base_class(config: Config) -> type[Regularizer]:
    """The class of the regularizer that makes the latents."""
    return regularizer_class(base_config(config))


def regularizer(config: Config, spec: LatentSpec, facts: Mapping[str, Any]) -> Regularizer:
    """A regularizer; its constructor takes the `facts` that it names: `classes`, `teacher_spec`, …"""
    return registry.build(
        "regularizers", config["name"], {**facts, "spec": spec}, options_from(config["options"])
    )


def facts_of(cls: type[Regularizer]) -> set[str]:
    """The names of facts that a regularizer's constructor takes besides its spec."""
    known = {"classes", "teacher_spec", "reference_spec", "reference_classes"}
    return known & registry.parameters_of(cls)  # type: ignore[arg-type]  # hashable, as classes are


def spec_from(plain: Mapping[str, Any]) -> LatentSpec:
    """A spec from an artifact's or a config's plain data."""
    grid = plain["grid"]
    return LatentSpec(plain["tokens"], plain["channels"], tuple(grid) if grid else None)


def facts_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a regularizer's constructor asks for by name, from a config's plain data."""
    return {name: spec_from(fact) if isinstance(fact, Mapping) else fact for name, fact in plain.items()}


def generator(config: Config, spec: LatentSpec, classes: int, teacher: LatentSpec | None = None) -> Generator:
    """A generator; its constructor takes the spec of the teacher's tokens if it names `teacher_spec`."""
    facts = {"spec": spec, "classes": classes, "teacher_spec": teacher}
    return registry.build("generators", config["name"], facts, options_from(config["options"]))


def options_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a constructor takes them, from a config's plain data."""
    return {name: _tuples(value) for name, value in plain.items()}


def _tuples(value: Any) -> Any:
    """Lists become tuples: JSON has no tuples, and constructors are annotated with them."""
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
