"""Parts from their resolved configs, as plain data: {"name": …, "options": {…}}."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from . import registry
from .api import Dataset, Evaluator, FeatureExtractor, Generator, LatentSpec, Regularizer, Tokenizer

Config = Mapping[str, Any]


def dataset(config: Config) -> Dataset:
    return registry.create("datasets", config["name"], **_options(config))


def extractor(config: Config) -> FeatureExtractor:
    return registry.create("features", config["name"], **_options(config))


def evaluator(config: Config) -> Evaluator:
    return registry.create("evaluators", config["name"], **_options(config))


def tokenizer(config: Config, data: Dataset, expansion: int) -> Tokenizer:
    options = _options(config)
    return registry.create("tokenizers", config["name"], image=data.image, expansion=expansion, **options)


def regularizer_class(config: Config) -> type[Regularizer]:
    return cast(type[Regularizer], registry.get("regularizers", config["name"]))


def regularizer(config: Config, spec: LatentSpec, facts: Mapping[str, Any]) -> Regularizer:
    """With the facts that its constructor names: `classes`, `teacher_spec`, `reference_spec`."""
    cls = regularizer_class(config)
    asked = {name: facts[name] for name in facts_of(cls)}
    return cls(spec, **asked, **_options(config))


def facts_of(cls: type[Regularizer]) -> list[str]:
    """The facts that a regularizer's constructor asks the frame for."""
    known = ("classes", "teacher_spec", "reference_spec")
    return [name for name in inspect.signature(cls).parameters if name in known]


def generator(config: Config, spec: LatentSpec, classes: int) -> Generator:
    return registry.create("generators", config["name"], spec=spec, classes=classes, **_options(config))


def _options(config: Config) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in config["options"].items()}


def _tuples(value: Any) -> Any:
    """JSON knows no tuples; constructors are annotated with them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
