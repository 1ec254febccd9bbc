"""Whether this installation gives the numbers that others get, and that nothing changes them that must not.

The invariance checks score a fixed set of images and show the largest difference found: between batch sizes,
worker counts and process counts. Differences of rounding pass, anything larger fails.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-4  # relative: what float32 kernels of different sizes may differ by in a distance
IMAGES = 256
PACKAGES = ("torch", "timm", "accelerate", "torch-fidelity", "clean-fid", "pandas", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found; `ok` None is a remark."""

    name: str
    ok: bool | None
    found: str


def checks(device: str = "cpu") -> Iterator[Check]:
    """All checks, as they are made; about a minute on one core."""
    yield from installed()
    yield from features_ignore_batches(device)
    yield from latents_ignore_batches(device)
    yield draws_ignore_processes()
    yield features_ignore_processes()
    yield from runs_ignore_workers()


def installed() -> Iterator[Check]:
    """Versions, the weights of feature extractors, disk and device."""
    import torch

    from .. import registry

    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info >= (3, 11), python)
    for name in PACKAGES:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, f"not installed: pip install {name}")
    import importlib.util

    faiss = importlib.util.find_spec("faiss") is not None
    yield Check("faiss", faiss, "found" if faiss else 'missing: pip install "latentbench[cpu]" (or [gpu])')
    for name in registry.names("features"):
        try:
            there = registry.create("features", name).fingerprint()
        except (TypeError, ValueError, registry.PartError) as error:
            yield Check(f"features {name}", None, str(error))
            continue
        yield Check(
            f"features {name}", None if there is None else True, there or "no weights on this machine"
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Check("disk", free > 1, f"{free:.1f} GiB free in {Path.cwd()}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; --device cpu"
    yield Check("CUDA", None, cuda)


def features_ignore_batches(device: str) -> Iterator[Check]:
    """A distance over features that were computed in batches of 256, 100 and 7."""
    import torch

    from ..metrics.frechet import frechet_distance

    train, val = _digits()
    extractor = _extractor()
    sets = {}
    for batch in (len(val), 100, 7):
        parts = [
            extractor.describe(chunk.to(device), ["pooled"])["pooled"].cpu() for chunk in val.split(batch)
        ]
        sets[batch] = torch.cat(parts)
    yield Check(
        "exact count",
        all(len(one) == len(val) for one in sets.values()),
        f"{len(val)} images, {len(val)} features",
    )
    real = extractor.describe(train.to(device), ["pooled"])["pooled"].cpu()
    distances = {batch: frechet_distance(one, real) for batch, one in sets.items()}
    yield _alike(f"FD[{extractor.name}] by batch size", distances)


def latents_ignore_batches(device: str) -> Iterator[Check]:
    """Reconstructions of an untrained tokenizer, encoded and decoded in chunks of 128, 50 and 7.

    Noise is keyed by the chunk of 128, which is in every protocol: it is drawn once, for all three.
    """
    import torch

    from .. import registry
    from ..api import ImageSpec, Noise
    from ..models import latents

    _, val = _digits()
    torch.manual_seed(0)
    tokenizer = registry.create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1).to(device).eval()
    regularizer = registry.create("regularizers", "fixed_variance", spec=tokenizer.spec).eval()
    found = {}
    for chunk in (128, 50, 7):
        h = latents.chunked(lambda index, _: tokenizer.encode(val[index].to(device)).cpu(), len(val), chunk)
        z = latents.draw(regularizer, h, None, Noise(0, ("doctor",)), 64, device)
        decode = latents.chunk_decoder(tokenizer, z, device, None, None)
        images = latents.chunked(decode, len(z), chunk)
        found[chunk] = float((images - val).square().mean())
    yield _alike("reconstruction error by chunk size", found)


def draws_ignore_processes() -> Check:
    """Noise of four processes is the rows of one's."""
    import torch

    from ..api import Noise

    like = torch.zeros(8, 3, 5)
    whole = Noise(0, ("latent",)).normal(like)
    parts = [Noise(0, ("latent",), rank=rank, world=4).normal(like[:2]) for rank in range(4)]
    return Check("noise by process count", torch.equal(torch.cat(parts), whole), "1 and 4 processes: equal")


def features_ignore_processes() -> Check:
    """A distance over features that two processes computed, each the half."""
    from ..metrics.frechet import frechet_distance

    train, val = _digits()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = pool.map(_described, [(0, 2), (1, 2)])
        (one,) = pool.map(_described, [(0, 1)])
    import torch

    both = torch.cat([torch.from_numpy(half) for half in halves])
    real = _extractor().describe(train, ["pooled"])["pooled"]
    name = f"FD[{_extractor().name}] by process count"
    return _alike(name, {1: frechet_distance(torch.from_numpy(one), real), 2: frechet_distance(both, real)})


def _described(part: tuple[int, int]) -> Any:
    import torch

    torch.set_num_threads(1)
    rank, world = part
    _, val = _digits()
    size = -(-len(val) // world)
    return _extractor().describe(val[rank * size : (rank + 1) * size], ["pooled"])["pooled"].numpy()


MATRIX = """
name: doctor
dataset: {use: digits}
budget: {tokenizer_steps: 4, generator_steps: 4, batch: 16}
features: {use: effnet_lite0, resolution: 32}
samples: 64
tokenizers: {vit: {width: 16, depth: 1}}
regularizers: {none: {}, kl: {}}
generators: {gaussian: {}}
evaluators: [reconstruction, generation]
"""


def runs_ignore_workers() -> Iterator[Check]:
    """A small matrix, from nothing, by one worker and by two: all metrics, with their replicates."""
    from ..engine import run, run_options
    from ..matrix.load import load_matrix
    from ..plan.make import make_plan
    from ..records.record import comparable
    from ..store.artifacts import Store

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "doctor.yaml"
        file.write_text(MATRIX)
        loaded = load_matrix(file)
        texts = {}
        for jobs in (1, 2):
            made = make_plan(loaded)
            folder = Path(scratch) / str(jobs)
            options = run_options.RunOptions(folder / "results", jobs)
            found = run.run(
                loaded, made, made.cells, Store(folder / ".bench"), options, lambda _: None, lambda *_: None
            )
            failed = [one.reason for one in found if one.status == "failed"]
            if failed:
                yield Check("a small matrix runs", False, str(failed[0]))
                return
            texts[jobs] = json.dumps([comparable(one) for one in found], sort_keys=True)
        digests = {jobs: hashlib.sha256(text.encode()).hexdigest()[:12] for jobs, text in texts.items()}
        same = len(set(digests.values())) == 1
        yield Check("records by worker count", same, f"{len(found)} cells, 1 and 2 workers: {_said(digests)}")


def _alike(name: str, values: dict[int, float]) -> Check:
    largest = max(abs(a - b) for a in values.values() for b in values.values())
    gap = largest / max(abs(value) for value in values.values())
    return Check(name, gap <= ROUNDING, f"{_said(values)}; largest difference {gap:.1e}")


def _said(values: dict[int, Any]) -> str:
    return ", ".join(
        f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in values.items()
    )


def _digits() -> tuple[Tensor, Tensor]:
    import torch

    from .. import registry

    data = registry.create("datasets", "digits")
    train, val = (data.images(split, torch.arange(IMAGES)) for split in ("train", "val"))
    return train, val


def _extractor() -> Any:
    from .. import registry

    return registry.create("features", "effnet_lite0", resolution=32)
