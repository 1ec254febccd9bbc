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
    plain |= {role: _located(part) for role, part in plain.items() if _has_paths(part)}
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


def _has_paths(part: Any) -> bool:
    """Whether a part says which of its options are paths, and has the hash of what is there."""
    return isinstance(part, Mapping) and "paths" in part and part.get("fingerprint") is not None


def _located(part: Config) -> dict[str, Any]:
    """A part's config without the options that say where its files are."""
    options = {name: value for name, value in part["options"].items() if name not in part["paths"]}
    return {key: value for key, value in part.items() if key != "paths"} | {"options": options}


def is_file(option: Any) -> bool:
    """Whether an option stands for a file: its path and the hash of its content."""
    return isinstance(option, Mapping) and "fingerprint" in option
