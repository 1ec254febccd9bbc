"""A part's resolved config, as it stands in a stage's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from .. import registry
from ..api import LatentSpec
from ..matrix.matrix import MatrixRow
from ..options.options import options_of


def part_config(kind: str, row: MatrixRow) -> dict[str, Any]:
    """A part's resolved config: its version and every option.

    A plugin's source is hashed as well: whoever edits a plugin doesn't think of its version.
    """
    return _part(kind, row.part, row.options)


def _part(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    cls = registry.get(kind, name)
    version = getattr(cls, "version", 1)
    config: dict[str, Any] = {"name": name, "version": version, "options": in_keys(cls, options)}
    source = registry.sources(kind)[name]
    if not source.module.startswith(f"{registry.FOLDERS[kind]}."):
        config["source"] = hashlib.sha256(source.file.read_bytes()).hexdigest()
    # A part's number changes with the parts that it is made of.
    for option in options_of(cls).values():
        chosen = options.get(option.name)
        if option.needs and chosen:
            inner = {key: value for key, value in chosen.items() if key != "use"}
            used = _part(registry.kind_of(option.needs[0]), chosen["use"], inner)
            config.setdefault("uses", {})[option.name] = {k: v for k, v in used.items() if k != "options"}
    return config


def in_keys(cls: type, options: Mapping[str, Any], method: str = "") -> dict[str, Any]:
    """Options without those that a part has called `later` and that are at their defaults."""
    later: Collection[str] = getattr(cls, "later", ())
    known = options_of(cls, method) if later else {}
    return plain({k: v for k, v in options.items() if k not in later or v != known[k].default})


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as plain data: a LatentSpec by its fields."""
    return {k: vars(v) if isinstance(v, LatentSpec) else v for k, v in sorted(facts.items())}


def plain(value: Any) -> Any:
    """As JSON would have it."""
    return json.loads(
        json.dumps(value, default=lambda item: dict(item) if hasattr(item, "keys") else str(item))
    )
