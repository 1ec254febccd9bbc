"""How many images a second a row encodes, decodes and samples, and how many latents an image takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from statistics import median
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.models.latents import decode_batch
from ..bench.registry import register
from ..bench.runtime.onednn import by_onednn

REPEATS, LEAST = 5, 3  # timed batches after one that warms up: at most, and at least
SECONDS = 1.0  # after which no further batch begins, once there are LEAST
ABOUT = {
    "encode": ("tokenizer", "Images a second through the encoder, without the regularizer's noise."),
    "decode": ("tokenizer", "Images a second through the decoder."),
    "sampling": ("generator", "Images a second whose latents the generator draws; decoding isn't counted."),
}


def durations(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of `run`, 3 to 5 times after one run that isn't counted: more than 3 only within a second."""
    run()
    found: list[float] = []
    began = clock()
    while len(found) < LEAST or (len(found) < REPEATS and clock() - began < SECONDS):
        start = clock()
        run()
        found.append(clock() - start)
    return found


def rates(name: str, batch: int, seconds: list[float]) -> dict[str, float]:
    """Images a second: of the median duration, the range over repeats, and the number of repeats."""
    each = [batch / max(one, 1e-9) for one in seconds]
    return {
        f"{name}_images_per_second": batch / max(median(seconds), 1e-9),
        f"{name}_images_per_second_range": max(each) - min(each),
        f"{name}_repeats": len(seconds),
    }


@register("throughput")
class Throughput(Evaluator):
    """Times the encoder, the decoder and the sampler on a few batches, as the row's samples are drawn.

    These are costs of one machine: they are never ranked, nor compared bit by bit, and other work beside them
    lowers them. Networks run in single precision, as everywhere outside training. A rate is that of the
    median of 3 to 5 batches; its range over them is the largest minus the smallest.
    """

    metrics = {
        f"{name}_{what}": Metric(scope, None if plain else True, unit, about.format(said), cost=True)  # type: ignore[arg-type]
        for name, (scope, said) in ABOUT.items()
        for what, unit, about, plain in (
            ("images_per_second", "images/s", "{}", False),
            ("images_per_second_range", "images/s", "Largest minus smallest rate over repeats. {}", True),
            ("repeats", "", "Batches that were timed. {}", True),
        )
    } | {
        "throughput_batch": Metric("tokenizer", None, "", "Images of a timed batch.", cost=True),
        "latents_per_image": Metric("tokenizer", False, "", "Tokens of an image's latent.", cost=True),
        "values_per_image": Metric("tokenizer", False, "", "Numbers of an image's latent.", cost=True),
    }

    def __init__(self, batch: Annotated[int, Field(ge=1)] = 16) -> None:
        """
        Args:
            batch: images at a time; larger batches are faster by image, most of all on GPUs.
        """
        self.batch = batch

    def run(self, subject: Subject) -> dict[str, float]:
        if subject.real:
            return {}
        with torch.no_grad(), by_onednn():
            return self._generator(subject) if subject.generator is not None else self._tokenizer(subject)

    def _tokenizer(self, subject: Subject) -> dict[str, float]:
        tokenizer, device = subject.tokenizer, device_of(subject.tokenizer)
        rows = torch.arange(self.batch) % subject.dataset.size("val")
        images = subject.dataset.images("val", rows).to(device)
        found: dict[str, float] = {
            "latents_per_image": tokenizer.spec.tokens,
            "values_per_image": tokenizer.spec.tokens * tokenizer.spec.channels,
            "throughput_batch": self.batch,
        }
        found |= self._rates("encode", lambda: tokenizer.encode(images), device)
        if subject.decodes:
            z, noise = subject.latents("val")[rows].to(device), subject.noise.fork("throughput")
            known = subject.labels("val")
            labels = None if known is None else known[rows].to(device)
            found |= self._rates("decode", lambda: decode_batch(tokenizer, z, labels, noise), device)
        return found

    def _generator(self, subject: Subject) -> dict[str, float]:
        generator, known, w = subject.generator, subject.sample_labels, subject.guidance
        assert generator is not None and known is not None and w is not None
        device, noise, options = device_of(generator), subject.noise.fork("throughput"), subject.sampler()
        labels = known[torch.arange(self.batch) % len(known)].to(device)
        return self._rates("sampling", lambda: generator.sample(labels, w, noise, **options), device)

    def _rates(self, name: str, work: Callable[[], Tensor], device: torch.device) -> dict[str, float]:
        def run() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return rates(name, self.batch, durations(run))

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if sizes.real:
            return 0
        if sizes.generator is not None:
            return sizes.sampling(sizes.generator, self.batch)
        if not sizes.decodes:
            return sizes.encoding(self.batch)
        sizes.latents("val")
        return max(sizes.encoding(self.batch), sizes.decoding(self.batch))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name.endswith("_per_image") or name.endswith(("_batch", "_repeats")):
            return {"n": 1}
        device = device_of(subject.generator or subject.tokenizer).type
        timed = {"batch": self.batch, "warm_up": 1, "statistic": "median"}
        if name.endswith("_range"):
            timed["statistic"] = "largest minus smallest"
        machine = {"device": device, "threads": torch.get_num_threads(), "precision": "fp32"}
        return {"n": self.batch, **timed, "repeats": f"{LEAST} to {REPEATS}", **machine}


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters or buffers; of a module without any, the CPU."""
    return next(chain(module.parameters(), module.buffers()), torch.zeros(())).device
