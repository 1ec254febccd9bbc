"""A small matrix, run by one worker or several in a folder of its own within seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..api import Dataset, FeatureExtractor, Noise
from ..contracts import datasets
from ..contracts.common import BrokenPromise, NotApplicable, Part
from ..engine.open_plan import OpenPlan
from ..engine.run import run
from ..engine.run_options import RunError, RunOptions
from ..matrix.load import load_matrix
from ..matrix.yaml_text import MatrixError
from ..models import build
from ..plan.make import make_plan
from ..plan.plan import Plan
from ..records.record import Record
from ..stages.subject import Subject
from ..store.artifacts import Store
from ..store.stage import Stage

MOST = 6000  # images of a dataset for which a cell is run
STEPS = 12
FEATURES = {"use": "effnet_lite0", "resolution": 32}


@dataclass(frozen=True)
class Target:
    """A part to check: its options as given, and the plugin files that it needs."""

    part: Part
    given: Mapping[str, Any]
    plugins: Sequence[Path]

    @property
    def file(self) -> Path:
        return registry.sources(self.part.kind)[self.part.name].file


@dataclass(frozen=True)
class SmallRun:
    """A matrix that has been run, and its records."""

    plan: Plan
    store: Store
    records: list[Record]


def run_matrix(text: str, folder: Path, jobs: int = 1, device: str = "cpu") -> SmallRun:
    """Runs a matrix, given as YAML or JSON, in a folder."""
    folder.mkdir(exist_ok=True)
    file = folder / "matrix.yaml"
    file.write_text(text, encoding="utf-8")
    matrix = load_matrix(file)
    plan, store = make_plan(matrix, device=device), Store(folder / ".bench")
    opened = OpenPlan(matrix, plan, plan.cells, store)
    records = run(opened, RunOptions(folder / "results", jobs, device))
    return SmallRun(plan, store, records)


def run_target(
    target: Target, folder: Path, data: Mapping[str, Any] | None = None, device: str = "cpu"
) -> SmallRun:
    """Runs a small matrix around a part, on digits or other data.

    Raises:
        NotApplicable: the part doesn't fit into a small matrix.
        BrokenPromise: a cell failed, with its reason.
    """
    try:
        text = json.dumps(matrix_around(target, data or {"use": "digits"}))
        small = run_matrix(text, folder, device=device)
    except MatrixError as error:
        raise BrokenPromise("; ".join(problem.message for problem in error.problems)) from error
    except RunError as error:
        raise BrokenPromise(str(error)) from error
    records = [r for r in small.records if target.part.name in r.cell.values()] or small.records
    reasons = {record.status: str(record.reason) for record in reversed(records)}  # the first of each
    if "failed" in reasons:
        raise BrokenPromise(reasons["failed"])
    if "skipped" in reasons:
        raise NotApplicable(f"it is skipped: {reasons['skipped']}")
    return small


def matrix_around(target: Target, data: Mapping[str, Any]) -> dict[str, Any]:
    """A matrix of a few steps with the part, and with the baseline that it is compared with."""
    part, options = target.part, dict(target.given)
    if part.kind == "datasets":
        data = {"use": part.name, **options}
    dataset: Dataset = registry.use(Dataset, data)
    size = sum(dataset.size(split) for split in datasets.SPLITS)
    if size > MOST:
        raise NotApplicable(
            f"{size:,} images are too many for half a minute; with fewer (-o) it would be played"
        )
    points = dataset.image.height * dataset.image.width < 3
    side = math.gcd(dataset.image.height, dataset.image.width)
    vit = {"width": 16, "depth": 1, "heads": 2, "patch": max(1, side // 2), "channels": 4}
    matrix: dict[str, Any] = {
        "name": "check",
        "dataset": dict(data),
        "budget": {"tokenizer_steps": STEPS, "generator_steps": STEPS, "prior_steps": STEPS, "batch": 16},
        "features": {"use": "coordinates"} if points else FEATURES,
        "reference": {"use": "teacher"},
        "samples": 64,
        "tokenizers": {"points": {"count": 64}} if points else {"vit": vit},
        "regularizers": {"none": {}},
        "generators": {"gaussian": {}},
        "evaluators": ["reconstruction", "generation", "cost"],
        "plugins": [str(plugin) for plugin in target.plugins],
    }
    match part.kind:
        case "datasets":
            pass
        case "features":
            matrix["features"] = {"use": part.name, **options}
        case "references":
            matrix |= {"reference": {"use": part.name, **options}, "regularizers": {"mmd": {}}}
            matrix["evaluators"] = ["reconstruction", "density"]
        case "evaluators":
            matrix["evaluators"] = [{part.name: options}]
        case "tokenizers":
            matrix["tokenizers"] = {part.name: options}
        case kind:
            matrix[kind] |= {part.name: options}
            if getattr(part.cls, "two_views", False):
                matrix["augment"] = {"crop": 0.5}
    return matrix


def subjects(target: Target, small: SmallRun, device: str = "cpu") -> list[Callable[[], Subject]]:
    """Makers of the subjects that an evaluator has scored in a small run."""

    def maker(stage: Stage) -> Callable[[], Subject]:
        config = stage.config
        inputs = {role: small.store.get(small.plan.stages[id_]) for role, id_ in stage.parents.items()}
        return lambda: Subject(
            config["scope"],
            inputs,
            build.dataset(config["dataset"], device),
            [build.extractor(extractor) for extractor in config["extractors"]],
            Noise(config["seed"], ("evaluate",)),
            device,
            config.get("guidance"),
        )

    scored = [stage for stage in small.plan.needed(small.plan.cells) if stage.kind == "scores"]
    return [maker(stage) for stage in scored if stage.config["scope"] in target.part.cls.scopes()]


def digits(count: int) -> tuple[Tensor, Tensor]:
    """The first images of train and of val, `count` each."""
    dataset = registry.create("datasets", "digits")
    train, val = (dataset.images(split, torch.arange(count)) for split in ("train", "val"))
    return train, val


def extractor() -> FeatureExtractor:
    return registry.use(FeatureExtractor, FEATURES)
