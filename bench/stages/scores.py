"""The scores stage: the metrics of a trained tokenizer or of generated samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..api import Bound, Metric, Noise
from ..metrics.bootstrap import rounded
from ..metrics.names import base_name, check_name
from ..models import build
from ..models.latents import CHUNK
from ..store.artifacts import Result
from ..training.context import Context
from .guidance import guidance_of
from .inputs import Config, Inputs
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scores(config: Config, inputs: Inputs, context: Context) -> Result:
    """All metrics of one scope, each with its protocol and n."""
    dataset, extractors = build.dataset(config["dataset"]), [*map(build.extractor, config["extractors"])]
    noise = Noise(config["seed"], ("evaluate",))
    subject = Subject(
        config["scope"],
        inputs,
        dataset,
        extractors,
        noise,
        context.device,
        guidance_of(config, inputs),
        context.scratch,
        context.loaders,
        config.get("samples"),
    )
    judges = [extractor.protocol() for extractor in extractors]  # tables are in their order
    metrics: dict[str, Any] = {}
    cost: dict[str, float] = {}
    pictures: dict[str, Tensor] = {}
    for position, part in enumerate(config["evaluators"]):
        evaluator = build.evaluator(part)
        for name, value in evaluator.run(subject).items():
            metric = evaluator.metrics[base_name(name)]
            if metric.cost:
                cost[name] = value
            else:
                protocol = evaluator.protocol(name, subject)
                check_name(name, protocol)
                metrics[name] = entry(value, metric, protocol, config)
                if protocol.get("features") in judges[1:]:
                    metrics[name]["place"] = judges.index(protocol["features"])
        for name, figure in evaluator.figures(subject).items():
            if isinstance(figure, Tensor):
                pictures[f"picture/{name}"] = figure
            else:
                pictures[f"figure/{name}"] = rendered(figure)
        context.report(position + 1, len(config["evaluators"]), part["name"])
    chosen = {"guidance": inputs["guidance"].info} if "guidance" in inputs else {}
    return Result({"metrics": metrics, "cost": cost, **chosen}, pictures)


def entry(value: float, metric: Metric, protocol: dict[str, Any], config: Config) -> dict[str, Any]:
    """A value with everything that is needed to read and to compare it."""
    direction = {True: "higher", False: "lower", None: None}[metric.higher_is_better]
    own = {key: item for key, item in protocol.items() if key != "n"}
    data, env = config["dataset"], config["env"]
    shared = {
        "data": f"{data['name']} {data['fingerprint'][:12]}",
        "chunk": CHUNK,
        "precision": env["precision"],
    }
    # The batch size that the row's latents depend on. It is a choice of the row, like its losses; in the
    # protocol it would exclude the row from every column.
    coupled = {"latent_batch": config["couples"]} if "couples" in config else {}
    number: dict[str, Any] = {"value": float(value)}
    if not math.isfinite(value):
        number = {"value": None, "note": str(float(value))}
    if isinstance(value, Bound):
        number["bound"] = value.side
    replicates, classes = (getattr(value, name, None) for name in ("replicates", "classes"))
    bounds = {label: one.side for label, one in (classes or {}).items() if isinstance(one, Bound)}
    return {
        **number,
        "n": int(protocol["n"]),
        "protocol": own | shared,
        **coupled,
        "scope": metric.scope,
        "better": direction,
        "unit": metric.unit,
        "about": metric.about,
        **({"replicates": rounded(replicates)} if replicates else {}),
        **({"classes": {label: float(one) for label, one in classes.items()}} if classes else {}),
        **({"class_bounds": bounds} if bounds else {}),
    }


def rendered(figure: Figure) -> Tensor:
    """A figure as uint8 (H, W, 3), drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
