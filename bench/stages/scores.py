"""The scores stage: the metrics of a trained tokenizer or of generated samples."""

from __future__ import annotations

import math
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..api import Bound, Diverged, Evaluator, Metric, Noise, Unfit
from ..metrics.bootstrap import rounded
from ..metrics.names import base_name, check_name, decoded_name
from ..models import build
from ..models.latents import CHUNK
from ..store.artifacts import Result
from ..store.disk import explain_disk_full
from ..training.context import Context, Stopped
from ..user_error import UserError
from .guidance import guidance_of
from .inputs import Config, Inputs
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# What ends the whole stage: it says nothing about the evaluator, and another attempt may well succeed.
NOT_THE_EVALUATORS = (UserError, Stopped, Diverged, MemoryError, torch.OutOfMemoryError)


def scores(config: Config, inputs: Inputs, context: Context) -> Result:
    """All metrics of one scope, each with its protocol and n.

    An evaluator that raises an exception costs only its own numbers: `missing` has its reason. If none of the
    evaluators has any number, the first exception ends the stage.
    """
    dataset = build.dataset(config["dataset"], context.device)
    extractors = [*map(build.extractor, config["extractors"])]
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
    missing: dict[str, dict[str, Any]] = {}  # by evaluator, or by metric
    errors: list[Exception] = []
    for position, part in enumerate(config["evaluators"]):
        try:
            with explain_disk_full(context.work):
                evaluator = build.evaluator(part)
                found = measured(evaluator, subject, judges, config)
                drawn = pictures_of(evaluator, subject)
        except NOT_THE_EVALUATORS:
            raise
        except Exception as error:
            failed = not isinstance(error, Unfit)
            reason = described(error) if failed else str(error)
            missing[part["name"]] = {"reason": reason, "failed": failed, "scope": config["scope"]}
            context.note(f"no numbers of {part['name']}: {reason}")
            errors += [error] if failed else []
        else:
            reasons = {
                decoded_name(name) if subject.compares_decoded else name: {"reason": why, "failed": False}
                for name, why in subject.left_out.items()
            }
            missing |= {name: {**why, "scope": config["scope"]} for name, why in reasons.items()}
            subject.left_out.clear()
            metrics |= found[0]
            cost |= found[1]
            pictures |= drawn
        context.report(position + 1, len(config["evaluators"]), part["name"])
    if errors and not metrics and not cost:
        raise errors[0]
    chosen = {"guidance": inputs["guidance"].info} if "guidance" in inputs else {}
    left_out = {"missing": missing} if missing else {}
    return Result({"metrics": metrics, "cost": cost, **left_out, **chosen}, pictures)


def measured(
    evaluator: Evaluator, subject: Subject, judges: list[dict[str, Any]], config: Config
) -> tuple[dict[str, Any], dict[str, float]]:
    """An evaluator's metrics, as entries of a record, and its costs."""
    metrics: dict[str, Any] = {}
    cost: dict[str, float] = {}
    subject.compares_decoded = subject.dataset.decoded and subject.scope == "generator"
    for name, value in evaluator.run(subject).items():
        metric = evaluator.metrics.get(base_name(name))
        if metric is None:
            known = ", ".join(evaluator.metrics)
            raise ValueError(f"it returns {name!r}, which isn't in its `metrics`: {known}")
        if metric.cost:
            cost[name] = value
            continue
        protocol = evaluator.protocol(name, subject)
        if subject.compares_decoded:
            judging = [e.name for e in subject.extractors if e.protocol() == protocol.get("features")]
            name = decoded_name(name, *judging[:1])
            protocol = protocol | {"images": "decoded latents"}
            metric = replace(metric, about=f"{metric.about} Decoded latents stand for images.".lstrip())
        check_name(name, protocol)
        metrics[name] = entry(value, metric, protocol, config)
        if protocol.get("features") in judges[1:]:
            metrics[name]["place"] = judges.index(protocol["features"])
    return metrics, cost


def pictures_of(evaluator: Evaluator, subject: Subject) -> dict[str, Tensor]:
    """An evaluator's figures and pictures as tensors of pixels, by their names in the artifact."""
    return {
        f"picture/{name}" if isinstance(figure, Tensor) else f"figure/{name}": (
            figure if isinstance(figure, Tensor) else rendered(figure)
        )
        for name, figure in evaluator.figures(subject).items()
    }


def described(error: Exception) -> str:
    """An exception in one line, with the file and line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text} ({Path(place.filename).name}, line {place.lineno})"


def entry(value: float, metric: Metric, protocol: dict[str, Any], config: Config) -> dict[str, Any]:
    """A value with everything that is needed to read and to compare it."""
    direction = {True: "higher", False: "lower", None: None}[metric.higher_is_better]
    own = {key: item for key, item in protocol.items() if key != "n"}
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
        "protocol": own | shared_protocol(config),
        **coupled,
        "scope": metric.scope,
        "better": direction,
        "unit": metric.unit,
        "about": metric.about,
        **({"replicates": rounded(replicates)} if replicates else {}),
        **({"classes": {label: float(one) for label, one in classes.items()}} if classes else {}),
        **({"class_bounds": bounds} if bounds else {}),
    }


def shared_protocol(config: Config) -> dict[str, Any]:
    """The keys that the protocols of all metrics of a scores stage have."""
    data, env = config["dataset"], config["env"]
    return {
        "data": f"{data['name']} {data['fingerprint'][:12]}",
        "chunk": CHUNK,
        "precision": env["precision"],
    }


def rendered(figure: Figure) -> Tensor:
    """A figure on white as uint8 (H, W, 3), drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    colours = np.asarray(canvas.buffer_rgba()).astype(np.float64)
    opacity = colours[..., 3:] / 255  # 1 everywhere, unless the figure has no background
    return torch.from_numpy((colours[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8))
