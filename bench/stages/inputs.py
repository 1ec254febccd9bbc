"""The names under which stages find what other stages made, and plain data turned back into specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..api import LatentSpec, Split
from ..store.artifacts import Artifact

SPLITS: tuple[Split, ...] = ("train", "val")
UNREAD = {("train", "logits"), ("val", "logits"), ("val", "spatial")}  # no metric asks for these


def features_role(place: int, output: str) -> str:
    """The parent of a scores stage that has an output of the matrix's extractor at `place`.

    The first one's stage is the teacher's, with pooled features and tokens; what else metrics need of the
    data is in a stage of its own.
    """
    return "features" if place == 0 and output in ("pooled", "tokens") else f"features/{place}"


def kept(split: Split, outputs: Sequence[str]) -> list[str]:
    """Those of a features stage's outputs that it describes a split by; a subject describes it by others."""
    return [name for name in outputs if (split, name) not in UNREAD]


def spec_from(plain: Mapping[str, Any]) -> LatentSpec:
    """A spec from an artifact's or a config's plain data."""
    grid = plain["grid"]
    return LatentSpec(plain["tokens"], plain["channels"], tuple(grid) if grid else None)


def facts_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a regularizer's constructor asks for by name."""
    return {name: spec_from(fact) if isinstance(fact, Mapping) else fact for name, fact in plain.items()}


Inputs = dict[str, Artifact]
Config = dict[str, Any]
