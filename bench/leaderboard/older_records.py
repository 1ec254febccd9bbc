"""Metrics of records as today's evaluators define them, so that old and new records share a table.

Records themselves are never changed. Each change is by a metric's definition:

- Nearness to a reference has no direction: its best value is that of fresh reference samples. The k-NN NLL
  from latents to the reference is lowest where latents have collapsed to a mode, the recall highest where
  they are spread too wide. Distances (SWD, as gFD) are lowest at equality, and keep theirs.
- A `noise_tolerance` without a value, where the PSNR never fell by 3 dB, lies above the largest noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics.names import base_name

DESCRIPTIVE = frozenset(
    "kNN_NLL kNN_NLL_reverse kNN_NLL_own kNN_NLL_reverse_own NLL latent_recall latent_precision".split()
)
TOLERANCE = "noise_tolerance"
Entry = dict[str, Any]


def updated(metrics: Mapping[str, Entry]) -> dict[str, Entry]:
    """A record's metrics by name, with today's directions and bounds."""
    found = {
        name: entry | {"better": None} if base_name(name) in DESCRIPTIVE else entry
        for name, entry in metrics.items()
    }
    if TOLERANCE in found and found[TOLERANCE]["protocol"].get("not_reached") == "no value":
        found[TOLERANCE] = _with_bounds(found[TOLERANCE], metrics)
    return found


def _with_bounds(entry: Entry, metrics: Mapping[str, Entry]) -> Entry:
    """A noise tolerance with its bound, and those of classes, by the record's PSNRs with noise."""
    levels = [f"PSNR_noise_{s:g}" for s in entry["protocol"]["noise"] if s]
    curve = [metrics[name] for name in ("PSNR", *levels) if name in metrics]
    limit, fall = entry["protocol"]["noise"][-1], entry["protocol"]["fall_dB"]
    if len(curve) <= len(levels):
        return entry
    classes = dict(entry.get("classes") or {})
    bounds = {
        label: "above"
        for label in curve[0].get("classes") or {}
        if label not in classes and _holds([point.get("classes", {}).get(label) for point in curve], fall)
    }
    by_class = {"classes": classes | dict.fromkeys(bounds, limit), "class_bounds": bounds} if bounds else {}
    whole = entry["value"] is None and _holds([point["value"] for point in curve], fall)
    return entry | by_class | ({"value": limit, "bound": "above"} if whole else {})


def _holds(curve: list[float | None], fall: float) -> bool:
    """Whether a curve of PSNRs, the first without noise, is known and falls by less."""
    known = [value for value in curve if value is not None]
    return len(known) == len(curve) and min(known) > known[0] - fall
