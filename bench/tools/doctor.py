"""Checks that this installation gives the numbers that others get, however they are computed.

The invariance checks score a fixed set of images and show the largest difference found: between batch sizes,
worker counts and process counts. Differences of rounding pass, anything larger fails.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..api import ImageSpec, Noise
from ..engine.start_process import process_context, start_variables
from ..metrics.frechet import frechet_distance
from ..models import latents
from ..records.provenance import REQUIRED
from ..records.record import comparable
from . import small_cell

ROUNDING = 1e-4  # relative: what float32 kernels of different sizes may differ by in a distance
IMAGES = 256
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


@dataclass(frozen=True)
class Check:
    """The outcome of one check; `ok` None is a remark."""

    name: str
    ok: bool | None
    found: str


def checks(device: str = "cpu") -> Iterator[Check]:
    """Runs all checks in turn; about a minute on one core."""
    yield from installed()
    yield from features_ignore_batches(device)
    yield latents_ignore_batches(device)
    yield draws_ignore_processes()
    yield features_ignore_processes()
    yield runs_ignore_workers()


def installed() -> Iterator[Check]:
    """Versions, the weights of feature extractors, disk and device."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info >= (3, 11), python)
    for name in REQUIRED:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, f"not installed: pip install {name}")
    faiss = importlib.util.find_spec("faiss") is not None
    yield Check("faiss", faiss, "found" if faiss else 'missing: pip install "latentbench[cpu]" (or [gpu])')
    for name in registry.names("features"):
        try:
            weights = registry.create("features", name).fingerprint()
        except (TypeError, ValueError, registry.PartError) as error:
            yield Check(f"features {name}", None, str(error))
            continue
        ok = None if weights is None else True
        yield Check(f"features {name}", ok, weights or "no weights on this machine")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Check("disk", free > 1, f"{free:.1f} GiB free in {Path.cwd()}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; --device cpu"
    yield Check("CUDA", None, cuda)


def features_ignore_batches(device: str) -> Iterator[Check]:
    """A distance over features that were computed in batches of 256, 100 and 7."""
    train, val = small_cell.digits(IMAGES)
    extractor = small_cell.extractor()

    def pooled(images: torch.Tensor, batch: int) -> torch.Tensor:
        chunks = [extractor.describe(chunk.to(device), ["pooled"])["pooled"] for chunk in images.split(batch)]
        return torch.cat([chunk.cpu() for chunk in chunks])

    by_batch = {batch: pooled(val, batch) for batch in (len(val), 100, 7)}
    complete = all(len(features) == len(val) for features in by_batch.values())
    yield Check("exact count", complete, f"{len(val)} images, {len(val)} features")
    real = pooled(train, len(train))
    distances = {batch: frechet_distance(features, real) for batch, features in by_batch.items()}
    yield _alike(f"FD[{extractor.name}] by batch size", distances)


def latents_ignore_batches(device: str) -> Check:
    """Reconstructions of an untrained tokenizer, encoded and decoded in chunks of 128, 50 and 7.

    Noise is keyed by the chunk of 128, which is in every protocol: it is drawn once, for all three.
    """
    _, val = small_cell.digits(IMAGES)
    torch.manual_seed(0)
    tokenizer = registry.create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1).to(device).eval()
    regularizer = registry.create("regularizers", "fixed_variance", spec=tokenizer.spec).eval()
    errors = {}
    for chunk in (128, 50, 7):
        h = latents.chunked(lambda index, _: tokenizer.encode(val[index].to(device)).cpu(), len(val), chunk)
        z = latents.draw(regularizer, h, None, Noise(0, ("doctor",)), 64, device)
        decode = latents.chunk_decoder(tokenizer, z, device, None, None)
        images = latents.chunked(decode, len(z), chunk)
        errors[chunk] = float((images - val).square().mean())
    return _alike("reconstruction error by chunk size", errors)


def draws_ignore_processes() -> Check:
    """The noise of four processes is the rows of one process's noise."""
    like = torch.zeros(8, 3, 5)
    noise = Noise(0, ("latent",)).normal(like)
    parts = [Noise(0, ("latent",), rank=rank, world=4).normal(like[:2]) for rank in range(4)]
    return Check("noise by process count", torch.equal(torch.cat(parts), noise), "1 and 4 processes: equal")


def features_ignore_processes() -> Check:
    """A distance over features that two processes computed, half of them each."""
    with ProcessPoolExecutor(2, process_context(start_variables(1))) as pool:
        halves = list(pool.map(_described, [(0, 2), (1, 2)]))
        (alone,) = pool.map(_described, [(0, 1)])
    extractor, (train, _) = small_cell.extractor(), small_cell.digits(IMAGES)
    real = extractor.describe(train, ["pooled"])["pooled"]
    features = {1: torch.from_numpy(alone), 2: torch.cat([torch.from_numpy(half) for half in halves])}
    distances = {processes: frechet_distance(val, real) for processes, val in features.items()}
    return _alike(f"FD[{extractor.name}] by process count", distances)


def _described(part: tuple[int, int]) -> Any:
    torch.set_num_threads(1)
    rank, world = part
    _, val = small_cell.digits(IMAGES)
    size = -(-len(val) // world)
    images = val[rank * size : (rank + 1) * size]
    return small_cell.extractor().describe(images, ["pooled"])["pooled"].numpy()


def runs_ignore_workers() -> Check:
    """A small matrix, from nothing, by one worker and by two: all metrics, with their replicates."""
    digests: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for jobs in (1, 2):
            records = small_cell.run_matrix(MATRIX, Path(scratch) / str(jobs), jobs).records
            failed = [record.reason for record in records if record.status == "failed"]
            if failed:
                return Check("a small matrix runs", False, str(failed[0]))
            text = json.dumps([comparable(record) for record in records], sort_keys=True)
            digests[jobs] = hashlib.sha256(text.encode()).hexdigest()[:12]
    same = len(set(digests.values())) == 1
    return Check("records by worker count", same, f"{len(records)} cells, 1 and 2 workers: {_text(digests)}")


def _alike(name: str, values: dict[int, float]) -> Check:
    largest = max(abs(a - b) for a in values.values() for b in values.values())
    gap = largest / max(abs(value) for value in values.values())
    return Check(name, gap <= ROUNDING, f"{_text(values)}; largest difference {gap:.1e}")


def _text(values: dict[int, Any]) -> str:
    texts = {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in values.items()}
    return ", ".join(f"{key}: {text}" for key, text in texts.items())
