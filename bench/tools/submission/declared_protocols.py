"""The protocols that this version's evaluators declare for the cells of a plan, without any image or weight.

An evaluator's protocol asks its subject mostly for sizes. Where one asks for numbers, as of a reference, its
protocol can't be told from a plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...api import Dataset, FeatureExtractor, Of, Split, Subject
from ...metrics.names import base_name
from ...models import build
from ...plan.plan import PROBE, Built, Cell, Plan
from ...stages.guidance import CHOSEN
from ...stages.scores import shared_protocol
from ...store.stage import Stage

UNTOLD = (NotImplementedError, AttributeError, RuntimeError, ValueError)  # of a subject without numbers


class PlannedSubject(Subject):
    """The subject of a planned scores stage: tensors have shapes and no numbers."""

    def __init__(
        self, plan: Plan, stage: Stage, dataset: Dataset, extractors: tuple[FeatureExtractor, ...]
    ) -> None:
        config, parents = stage.config, stage.parents
        self.scope, self.real = config["scope"], "tokenizer" not in parents
        self.dataset, self.extractors, self.left_out = dataset, extractors, {}
        self.samples = None
        shape = (dataset.image.channels, dataset.image.height, dataset.image.width)
        if self.real:
            count = min(config.get("samples") or dataset.size("val"), dataset.size("val"))
            self.samples = _empty(count, *shape)
        elif "samples" in parents:
            self.samples = _empty(plan.stages[parents["samples"]].config["samples"], *shape)
        if not self.real:
            built: Built = plan.built[parents["tokenizer"]]
            assert built.tokenizer is not None and built.regularizer is not None
            self.tokenizer, self.regularizer = built.tokenizer, built.regularizer
            self.latent_batch = config.get("couples")

    def images(self, split: Split) -> Tensor:
        image = self.dataset.image
        return _empty(self.dataset.size(split), image.channels, image.height, image.width)

    def labels(self, split: Split) -> Tensor | None:
        return self.dataset.labels(split)

    def requested_labels(self) -> Tensor | None:
        known = self.labels("train")
        return None if known is None or len(known.unique()) < 2 else known

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        return self.images("val")

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        spec = self.tokenizer.spec
        return _empty(self.dataset.size(split), spec.tokens, spec.channels)

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        count = len(self.samples) if of == "samples" and self.samples is not None else None
        split: Split = "train" if of == "train" else "val"
        return _empty(self.dataset.size(split) if count is None else count, 1)


class DeclaredProtocols:
    """The protocols of a plan's metrics, each computed once for all seeds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._known: dict[str, dict[str, Any] | None] = {}
        self._dataset, self._extractor = cache(_dataset), cache(_extractor)

    def of(self, cell: Cell, name: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """The protocol with `n` of a metric by its full name in a record; None where it can't be told.

        Raises:
            KeyError: no evaluator of the matrix has such a metric.
        """
        stage, own_name = self._stage(cell, name, entry["scope"])
        if stage is None:
            return None
        evaluators = [e for e in map(build.evaluator, stage.config["evaluators"])]
        found = [e for e in evaluators if base_name(own_name) in e.metrics]
        dataset = self._dataset(json.dumps(stage.config["dataset"], sort_keys=True))
        if not found and dataset.decoded:
            return None  # its metrics have names of their own
        if not found:
            raise KeyError(name)
        config = {k: v for k, v in stage.config.items() if k not in ("seed", "guidance")}
        key = json.dumps([config, list(cell.identity.values())[:4], own_name], sort_keys=True)
        if key not in self._known:
            extractors = tuple(
                self._extractor(json.dumps(e, sort_keys=True)) for e in stage.config["extractors"]
            )
            subject = PlannedSubject(self.plan, stage, dataset, extractors)
            try:
                protocol = found[0].protocol(own_name, subject)
            except StopIteration:
                raise KeyError(name) from None
            except UNTOLD:
                self._known[key] = None
            else:
                self._known[key] = protocol | shared_protocol(stage.config)
        return self._known[key]

    def _stage(self, cell: Cell, name: str, scope: str) -> tuple[Stage | None, str]:
        """The scores stage of a metric, and the metric's name without the guidance."""
        if scope == "tokenizer" or cell.real:
            stage = cell.scores.get("")
            return (self.plan.stages[stage] if stage else None), name
        own_name, _, guidance = name.rpartition("@")
        stage = cell.scores.get(guidance) or cell.scores.get(CHOSEN)
        assert not guidance.startswith(PROBE)
        return (self.plan.stages[stage] if stage else None), own_name


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _dataset(config: str) -> Dataset:
    return build.dataset(json.loads(config))


def _extractor(config: str) -> FeatureExtractor:
    return build.extractor(json.loads(config))
