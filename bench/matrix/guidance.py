"""Reads a row's `guidance`: a number or a list, each scored in full, or a sweep that one is chosen from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import registry
from ..options.options import Trail
from ..options.words import shown
from .checker import Checker
from .matrix import MatrixRow, Sweep
from .settings import Autoguidance, Settings

EXAMPLE = "guidance: {sweep: [1.0, 1.5, 2.0, 3.0, 4.0]}"
SHARE = 4  # a sweep has a quarter of the matrix's samples at each guidance, unless it says how many
LEAST = 4  # samples that a distance needs


def read_guidance(checker: Checker, guidance: Any, trail: Trail) -> dict[str, Any]:
    """The fields `guidance` and `sweep` of a row."""
    if isinstance(guidance, dict):
        return {"guidance": (1.0,), "sweep": _sweep(checker, guidance, trail)}
    if guidance is None:
        return {"guidance": (1.0,)}
    if guidance == []:
        checker.report(trail, "guidance is empty; it needs at least one number")
    values = guidance if isinstance(guidance, list) else [guidance]
    trails: list[Trail] = [(*trail, i) if isinstance(guidance, list) else trail for i in range(len(values))]
    return {"guidance": tuple(_numbers(checker, values, trails))}


def read_autoguidance(checker: Checker, options: Mapping[str, Any], trail: Trail) -> Autoguidance | None:
    """The field `autoguidance` of a row, of whose options `trail` is the place."""
    at = (*trail, "autoguidance")
    given = checker.mapping(at, options, "a mapping such as `{row: LABEL}` or `{snapshot: 200}`")
    chosen = Autoguidance(**checker.explicit_options(Autoguidance, given, at))
    if chosen != Autoguidance():
        return chosen
    if options.get("autoguidance") == {}:
        checker.report(at, "autoguidance needs a `row`, another generator's label, or a `snapshot`, or both")
    return None


def check_autoguidance(
    checker: Checker, places: Iterable[tuple[MatrixRow, Trail]], generators: Sequence[MatrixRow]
) -> None:
    """Reports a row that is guided by a row that isn't there, or by its own finished model."""
    labels = [row.label for row in generators]
    for row, trail in places:
        weak = row.autoguidance
        if weak is None or weak.row is None:
            continue
        at = (*trail, "autoguidance", "row")
        if weak.row not in labels:
            checker.report(at, registry.unknown("generator of this matrix", weak.row, labels))
        elif weak.row == row.label and weak.snapshot is None:
            checker.report(at, f"{weak.row!r} is no worse than itself; a `snapshot` is its earlier weights")


def _sweep(checker: Checker, options: dict[str, Any], trail: Trail) -> Sweep | None:
    for key in options:
        if key not in ("sweep", "samples"):
            message = registry.unknown("key of guidance", key, ["sweep", "samples"])
            checker.report((*trail, key), message, on_key=True)
    values, at = options.get("sweep"), (*trail, "sweep")
    if not isinstance(values, list) or len(values) < 2:
        message = f"a sweep is a list of two guidances or more, such as `{EXAMPLE}`, not {shown(values)}"
        checker.report(at if "sweep" in options else trail, message)
        return None
    checked = _numbers(checker, values, [(*at, i) for i in range(len(values))])
    return Sweep(tuple(sorted(checked)), _samples(checker, options.get("samples"), (*trail, "samples")))


def _numbers(checker: Checker, values: Sequence[Any], trails: Sequence[Trail]) -> list[float]:
    checked: list[float] = []
    for value, at in zip(values, trails, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            checker.report(at, f"guidance must be a number >= 0, or a list of them, not {shown(value)}")
        elif any(f"{value:g}" == f"{other:g}" for other in checked):
            checker.report(at, f"guidance has {value:g} twice")  # metrics are named by this text
        else:
            checked.append(float(value))
    return checked


def _samples(checker: Checker, samples: Any, trail: Trail) -> int:
    """The number of samples at each guidance of a sweep; the matrix's own number is checked elsewhere."""
    ranked = checker.data.get("samples")
    if type(ranked) is not int or ranked < LEAST:
        ranked = Settings.samples
    quarter = max(LEAST, ranked // SHARE)
    if samples is None:
        return quarter
    hint = f"without `samples` it has a quarter of the matrix's, {quarter}"
    if type(samples) is not int or samples < LEAST:
        message = f"a sweep's samples must be a number of them >= {LEAST}, not {shown(samples)}; {hint}"
        checker.report(trail, message)
    elif samples > ranked:
        checker.report(trail, f"a sweep's {samples:,} samples are more than the matrix's {ranked:,}; {hint}")
    else:
        return samples
    return quarter
