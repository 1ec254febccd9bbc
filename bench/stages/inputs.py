"""The names under which a stage finds its parents' artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..api import Split
from ..store.artifacts import Artifact

Inputs = dict[str, Artifact]  # by role
Config = dict[str, Any]
SPLITS: tuple[Split, ...] = ("train", "val")
UNREAD = {("train", "logits"), ("val", "logits"), ("val", "spatial")}  # no metric reads these


def features_role(place: int, output: str) -> str:
    """The role of the parent of a scores stage that has an output of the matrix's extractor at `place`.

    The first extractor's stage is the teacher's and has pooled and token features. Other outputs that metrics
    need of the dataset are in a stage of their own.
    """
    return "features" if place == 0 and output in ("pooled", "tokens") else f"features/{place}"


def stored_outputs(split: Split, outputs: Sequence[str]) -> list[str]:
    """The outputs that a features stage stores for a split; a `Subject` computes the others on demand."""
    return [name for name in outputs if (split, name) not in UNREAD]
