"""Where a number was made: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
        # What a run itself writes doesn't make its code dirty.
        "git_dirty": bool(_git("status", "--porcelain", "--", ".", ":!results")),
        "device": device,
        "machine": _machine(device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def parts(configs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The versions of the frame and of the parts in stages' configs, a plugin's with its source's hash."""
    found: dict[str, str] = {}
    for config in configs:
        if "frame" in config:
            found["frame"] = str(config["frame"])
        for role, item in config.items():
            for one in item if isinstance(item, list) else [item]:
                if isinstance(one, Mapping) and "version" in one:
                    source = one.get("source", "")[:8]
                    found[f"{role}.{one['name']}"] = f"{one['version']} {source}".rstrip()
                    found |= parts([one.get("uses", {})])
    return dict(sorted(found.items()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed wheel has no history of its own
        return None
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found
