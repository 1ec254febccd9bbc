"""What every evaluator promises, on the cells of a small matrix."""

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
from . import common
from .common import Beside, Part, equal, require

CHUNKS = (50, 7)  # in place of an evaluator's own
BETTER = 1e-6  # relative

Fresh = Callable[[], Subject]


class Scene:
    """An evaluator, and fresh subjects of the scopes that it has metrics for; none without a matrix."""

    def __init__(self, part: Part, subjects: Sequence[Fresh] = ()) -> None:
        self.part, self.seconds = part, 0.0
        self.metrics: dict[str, Metric] = part.cls.metrics
        self.subjects = subjects

    def fresh(self) -> Evaluator:
        return self.part.make()

    @cached_property
    def found(self) -> list[tuple[Subject, dict[str, float]]]:
        """Each subject with its numbers."""
        began = time.perf_counter()
        found = [(subject, self.fresh().run(subject)) for subject in (fresh() for fresh in self.subjects)]
        self.seconds = time.perf_counter() - began
        return found


def declared(scene: Scene) -> str:
    """It says what its numbers mean"""
    require(scene.metrics, "metrics is empty")
    scopes = scene.part.cls.scopes()
    require(
        scopes <= {"tokenizer", "generator"}, f"the scopes {sorted(scopes)} aren't tokenizer or generator"
    )
    for base, metric in scene.metrics.items():
        require(isinstance(metric, Metric), f"{base} is no Metric")
        good = metric.higher_is_better in (True, False, None)
        require(good, f"higher_is_better of {base} must be True, False or None")
        require(not re.search(r"[\[\]@,|]", base), f"{base!r}: a base name stands before any [ or @")
        require(metric.about.strip(), f"{base} lacks a sentence for tables: about=…")
    return ", ".join(list(scene.metrics)[:6])


def values(scene: Scene) -> str:
    """Values are finite, of declared metrics, with protocols"""
    said = []
    for subject, found in scene.found:
        evaluator = scene.fresh()
        for name, value in found.items():
            meaning = scene.metrics.get(base_name(name))
            require(meaning is not None, f"{name!r} is reported, but {base_name(name)!r} isn't in metrics")
            assert meaning is not None
            scoped = meaning.scope == subject.scope
            require(scoped, f"{name!r} is of scope {meaning.scope}, but comes for a {subject.scope}'s cell")
            protocol = evaluator.protocol(name, subject)
            require("n" in protocol, f"the protocol of {name!r} has no n")
            json.dumps(protocol, allow_nan=False)  # it goes into records
            if not meaning.cost:
                check_name(name, protocol)
            # A value that needn't exist says so in its protocol.
            sure = math.isfinite(value) or "not_reached" in protocol
            require(sure, f"{name!r} is {value} on an ordinary small cell")
            said.append(f"{name} {value:.4g}")
    if not said:
        raise Beside("it has no numbers for this cell")
    return ", ".join(said[:4]) + (f" and {len(said) - 4} more" if len(said) > 4 else "")


def repeats(scene: Scene) -> None:
    """Numbers repeat bit for bit"""
    timed = {name for name, metric in scene.metrics.items() if metric.cost}
    for subject, _ in scene.found:

        def compute(subject: Subject = subject) -> dict[str, Any]:
            found = scene.fresh().run(subject)
            return {name: str(v) for name, v in found.items() if base_name(name) not in timed}

        why = "draw from subject.noise, or by seeds.seed_for(...)"
        require(common.whatever_the_seed(compute), f"they change with torch's global generator; {why}")


def chunks(scene: Scene) -> str:
    """Numbers don't depend on the size of chunks"""
    module = sys.modules[scene.part.cls.__module__]
    usual = getattr(module, "CHUNK", None)
    if usual is None:
        raise Beside("its file has no CHUNK (bench.latents): the frame's chunks are fixed")
    for subject, found in scene.found:
        for size in CHUNKS:
            try:
                vars(module)["CHUNK"] = size
                others = scene.fresh().run(subject)
            finally:
                vars(module)["CHUNK"] = usual
            for name, value in found.items():
                same = math.isclose(value, others[name], rel_tol=1e-4, abs_tol=1e-6) or value != value
                said = f"{name!r} is {value:.6g} in chunks of {usual}, {others[name]:.6g} in chunks of {size}"
                require(same or scene.metrics[base_name(name)].cost, f"{said}: a mean of means?")
    return f"{', '.join(map(str, (usual, *CHUNKS)))}"


def inputs(scene: Scene) -> None:
    """It leaves its inputs as they were"""
    for subject in (fresh() for fresh in scene.subjects):
        shared: dict[str, Tensor | None] = {"samples": subject.samples}
        shared["images"] = subject.images("val")
        if subject.scope == "tokenizer":
            shared |= {"reconstructions": subject.reconstructions(), "latents": subject.latents("val")}
        given = common.Kept(**shared)
        scene.fresh().run(subject)
        given.require()


def directions(scene: Scene) -> str:
    """Perfect reconstructions are better than bad ones"""
    said = []
    for fresh, (subject, found) in zip(scene.subjects, scene.found, strict=True):
        if subject.scope != "tokenizer":
            continue
        perfect: Any = fresh()
        perfect.reconstructions = lambda deterministic=False, p=perfect: p.images("val")
        for name, best in scene.fresh().run(perfect).items():
            metric = scene.metrics[base_name(name)]
            gap = best - found.get(name, math.nan)
            if metric.higher_is_better is None or metric.cost or not abs(gap) > BETTER * abs(best):
                continue
            which = "higher" if metric.higher_is_better else "lower"
            told = f"{name!r} is {best:.4g} for perfect reconstructions and {found[name]:.4g} for bad ones"
            require((gap > 0) == metric.higher_is_better, f"{told}, yet {which} is to be better")
            said.append(name)
    if not said:
        raise Beside("nothing that it measures of reconstructions has a direction")
    return ", ".join(said)


def figures(scene: Scene) -> str:
    """Pictures are matplotlib Figures or 8-bit pixels"""
    drawn = []
    for subject, _ in scene.found:
        for name, picture in scene.fresh().figures(subject).items():
            pixels = isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.dim() == 3
            good = pixels or isinstance(picture, Figure)
            require(good, f"{name!r} is neither a matplotlib Figure nor pixels, uint8 (H, W, 3)")
            drawn.append(name)
    if not drawn:
        raise Beside("it draws nothing")
    return ", ".join(drawn)


def fingerprint(scene: Scene) -> None:
    """Its fingerprint is a text, and repeats"""
    one, two = (scene.fresh().fingerprint() for _ in range(2))
    require(isinstance(one, str) and equal(one, two), "two fingerprints differ: nothing would ever be cached")


def cost(scene: Scene) -> str:
    """Scoring the small cell"""
    return f"{scene.seconds:.2g} s" if scene.found else "nothing"


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
