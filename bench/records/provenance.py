"""Provenance of a record: package versions, git commit, device and machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .git import git

# Packages whose versions are in every record.
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "torch-fidelity", "clean-fid", "numpy", "scipy")
REQUIRED = (*PACKAGES, "pandas", "scikit-learn")  # of an installation


@cache
def provenance(device: str) -> dict[str, Any]:
    """Package versions, git commit and dirty flag of this code, and the machine."""
    return {
        "latentbench": _version("latentbench"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git("rev-parse", "HEAD"),
        # Results that a run writes don't make its code dirty.
        "git_dirty": bool(_git("status", "--porcelain", "--", ".", ":!results")),
        "device": device,
        "machine": _machine(device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def parts(configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The versions of the frame and of the parts in stages' configs; plugins with a hash of their source."""
    versions: dict[str, str] = {}
    for config in configs:
        if "frame" in config:
            versions["frame"] = str(config["frame"])
        for role, value in config.items():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Mapping) and "version" in part:
                    source = part.get("source", "")[:8]
                    versions[f"{role}.{part['name']}"] = f"{part['version']} {source}".rstrip()
                    versions |= parts([part.get("uses", {})])
    return dict(sorted(versions.items()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed wheel has no git history
        return None
    return git(root, *arguments)


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    items: dict[str, Any] = {}
    for key, item in value.items():
        items |= flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return items
