"""A stage: one content-addressed step of work, and the hash that is its key.

What goes into a stage's config is decided in `plan/stage_graph.py` and, for parts, in `plan/part_config.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]

UNKNOWN = "unknown"

# The version of the frame's own arithmetic, part of every key: raise it when numbers change beyond rounding.
FRAME_VERSION = 4


@dataclass(frozen=True)
class Stage:
    """One content-addressed step of work."""

    kind: str
    label: str
    config: dict[str, Any] = field(repr=False)
    parents: dict[str, str] = field(repr=False)  # role -> the parent's id
    id: str
    known: bool  # False if data or weights that the stage needs are missing

    @property
    def key(self) -> str:
        """The id, which names the artifact in the cache, or "unknown" as long as it may still change."""
        return self.id if self.known else UNKNOWN


def digest(value: Any) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def stage_id(kind: str, config: Config, parents: Mapping[str, str]) -> str:
    """The hash that names a stage; files, such as weights, count by their hash and not by their path."""
    return digest({"kind": kind, "config": _without_paths(config), "parents": parents})


def _without_paths(config: Config) -> dict[str, Any]:
    plain = dict(config)
    # Checkpointing changes only the rounding of gradients, as the number of processes does.
    plain.pop("checkpointing", None)
    plain = {role: without_locations(value) for role, value in plain.items()}
    if "weights" in plain:
        plain["weights"] = plain["weights"]["fingerprint"]
    if "reconstruction" in plain:
        plain["reconstruction"] = {
            name: {k: v["fingerprint"] if is_file(v) else v for k, v in loss.items()}
            if isinstance(loss, Mapping)
            else loss
            for name, loss in plain["reconstruction"].items()
        }
    return plain


def without_locations(value: Any) -> Any:
    """A part's config without the options that say where its files are; parts in a list likewise."""
    if isinstance(value, list):
        return [without_locations(one) for one in value]
    if not isinstance(value, Mapping) or "options" not in value:
        return value
    part, options = _without_own_paths(value, value["options"])
    return part | {"options": options}


def _without_own_paths(part: Config, options: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """A part's config and its options, both without paths, and likewise those of the parts that it uses.

    A path stays where the hash of what is there isn't known.
    """
    plain, kept = {key: value for key, value in part.items() if key != "options"}, dict(options)
    if part.get("fingerprint") is not None:
        for name in plain.pop("paths", ()):
            kept.pop(name, None)
    if "uses" in part:
        plain["uses"] = dict(part["uses"])
        for name, used in part["uses"].items():
            if name in kept:
                plain["uses"][name], kept[name] = _without_own_paths(used, kept[name])
    return plain, kept


def hashes_of_used(part: Config) -> list[str]:
    """The hashes of the files of the parts that a part uses, at any depth."""
    found = []
    for used in part.get("uses", {}).values():
        found += [used["fingerprint"]] if used.get("fingerprint") else []
        found += hashes_of_used(used)
    return found


def is_file(option: Any) -> bool:
    """Whether an option stands for a file: its path and the hash of its content."""
    return isinstance(option, Mapping) and "fingerprint" in option
