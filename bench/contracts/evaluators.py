"""The contract of evaluators, checked on the cells of a small matrix."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..api import Evaluator, Metric, Subject
from ..metrics.names import base_name, check_name
from ..options.words import listed
from . import common
from .common import NotApplicable, Part, require

CHUNKS = (50, 7)  # chunk sizes to try instead of the evaluator's own
BETTER = 1e-6  # smaller relative differences don't count as better or worse

Fresh = Callable[[], Subject]


class Scene:
    """An evaluator, and functions that make fresh subjects of its scopes (none without a matrix)."""

    def __init__(self, part: Part, subjects: Sequence[Fresh] = ()) -> None:
        self.part, self.seconds = part, 0.0
        self.metrics: dict[str, Metric] = part.cls.metrics
        self.subjects = subjects

    def fresh(self) -> Evaluator:
        return self.part.make()

    @cached_property
    def scores(self) -> list[tuple[Subject, dict[str, float]]]:
        """The subjects with their metric values."""
        began = time.perf_counter()
        scores = [(subject, self.fresh().run(subject)) for subject in (fresh() for fresh in self.subjects)]
        self.seconds = time.perf_counter() - began
        return scores


def declared(scene: Scene) -> str:
    """It says what its numbers mean"""
    require(scene.metrics, "metrics is empty")
    scopes = scene.part.cls.scopes()
    known = scopes <= {"tokenizer", "generator"}
    require(known, f"the scopes {sorted(scopes)} aren't tokenizer or generator")
    for base, metric in scene.metrics.items():
        require(isinstance(metric, Metric), f"{base} is no Metric")
        good = metric.higher_is_better in (True, False, None)
        require(good, f"higher_is_better of {base} must be True, False or None")
        require(not re.search(r"[\[\]@,|]", base), f"{base!r}: a base name has none of the characters []@,|")
        require(metric.about.strip(), f"{base} lacks a sentence for tables: about=…")
    return ", ".join(list(scene.metrics)[:6])


def values(scene: Scene) -> str:
    """Values are finite, of declared metrics, with protocols"""
    texts = []
    for subject, scores in scene.scores:
        evaluator = scene.fresh()
        for name, value in scores.items():
            metric = scene.metrics.get(base_name(name))
            require(metric is not None, f"{name!r} is reported, but {base_name(name)!r} isn't in metrics")
            assert metric is not None
            same_scope = metric.scope == subject.scope
            why = f"has scope {metric.scope}, but is reported in scope {subject.scope}"
            require(same_scope, f"{name!r} {why}")
            protocol = evaluator.protocol(name, subject)
            require("n" in protocol, f"the protocol of {name!r} has no n")
            json.dumps(protocol, allow_nan=False)  # it goes into records
            if not metric.cost:
                check_name(name, protocol)
            # Metrics that may have no value have "not_reached" in their protocol.
            good = math.isfinite(value) or "not_reached" in protocol
            require(good, f"{name!r} is {value} on an ordinary small cell")
            texts.append(f"{name} {value:.4g}")
    if not texts:
        raise NotApplicable("it has no numbers for this cell")
    return listed(texts)


def repeats(scene: Scene) -> None:
    """Numbers repeat bit for bit"""
    costs = {name for name, metric in scene.metrics.items() if metric.cost}
    for subject, _ in scene.scores:

        def compute(subject: Subject = subject) -> dict[str, Any]:
            scores = scene.fresh().run(subject)
            return {name: str(value) for name, value in scores.items() if base_name(name) not in costs}

        why = "draw from subject.noise, or by api.noise.seed_for(...)"
        require(common.whatever_the_seed(compute), f"they change with torch's global generator; {why}")


def chunks(scene: Scene) -> str:
    """Numbers don't depend on the size of chunks"""
    module = sys.modules[scene.part.cls.__module__]
    usual = getattr(module, "CHUNK", None)
    if usual is None:
        raise NotApplicable("its file has no constant CHUNK: the frame's chunks are fixed")
    for subject, scores in scene.scores:
        for size in CHUNKS:
            try:
                vars(module)["CHUNK"] = size
                others = scene.fresh().run(subject)
            finally:
                vars(module)["CHUNK"] = usual
            for name, value in scores.items():
                close = math.isclose(value, others[name], rel_tol=1e-4, abs_tol=1e-6)
                good = close or math.isnan(value) or scene.metrics[base_name(name)].cost
                text = f"{name!r} is {value:.6g} in chunks of {usual}, {others[name]:.6g} in chunks of {size}"
                require(good, f"{text}: a mean of means?")
    return ", ".join(map(str, (usual, *CHUNKS)))


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    for subject in (fresh() for fresh in scene.subjects):
        shared: dict[str, Tensor | None] = {"samples": subject.samples}
        shared["images"] = subject.images("val")
        if subject.scope == "tokenizer":
            shared |= {"reconstructions": subject.reconstructions(), "latents": subject.latents("val")}
        guard = common.InputGuard(**shared)
        scene.fresh().run(subject)
        guard.require()


def directions(scene: Scene) -> str:
    """Perfect reconstructions are better than bad ones"""
    checked = []
    for fresh, (subject, scores) in zip(scene.subjects, scene.scores, strict=True):
        if subject.scope != "tokenizer":
            continue
        perfect: Any = fresh()
        perfect.reconstructions = lambda deterministic=False, p=perfect: p.images("val")
        for name, best in scene.fresh().run(perfect).items():
            metric = scene.metrics[base_name(name)]
            gap = best - scores.get(name, math.nan)
            if metric.higher_is_better is None or metric.cost or not abs(gap) > BETTER * abs(best):
                continue
            direction = "higher" if metric.higher_is_better else "lower"
            text = f"{name!r} is {best:.4g} for perfect reconstructions and {scores[name]:.4g} for bad ones"
            require((gap > 0) == metric.higher_is_better, f"{text}, but {direction} is declared as better")
            checked.append(name)
    if not checked:
        raise NotApplicable("none of its metrics of reconstructions has a direction")
    return ", ".join(checked)


def figures(scene: Scene) -> str:
    """Pictures are matplotlib Figures or 8-bit pixels"""
    names = []
    for subject, _ in scene.scores:
        for name, picture in scene.fresh().figures(subject).items():
            pixels = isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.dim() == 3
            good = pixels or isinstance(picture, Figure)
            require(good, f"{name!r} is neither a matplotlib Figure nor pixels, uint8 (H, W, 3)")
            names.append(name)
    if not names:
        raise NotApplicable("it has no figures")
    return ", ".join(names)


def fingerprint(scene: Scene) -> None:
    """Its fingerprint is a text, and repeats"""
    first, second = (scene.fresh().fingerprint() for _ in range(2))
    require(isinstance(first, str), f"the fingerprint {first!r} is no text")
    require(first == second, "two fingerprints differ: nothing would ever be cached")


def cost(scene: Scene) -> str:
    """Scoring the small cell"""
    return f"{scene.seconds:.2g} s" if scene.scores else "nothing"


STATIC: tuple[Callable[[Scene], str | None], ...] = (
    common.documented,
    common.versioned,
    declared,
    fingerprint,
)
CHECKS: tuple[Callable[[Scene], str | None], ...] = (
    *STATIC,
    values,
    repeats,
    chunks,
    inputs,
    directions,
    figures,
    cost,
)
