"""Throughput of training, sampling and scoring on a GPU, as a table with the card's name."""

import os
import time
from statistics import median

import torch
from helpers.gpu import BOUNDS, card, computing, finish, on_each_device

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.contracts.common import rand_images, randn
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.registry import build, create, get
from latentbench.bench.training.one_step import generator_step, tokenizer_step

VIT = {"width": 128, "depth": 2, "patch": 8, "channels": 16}
LATENT, CLASSES = LatentSpec(16, 16, (4, 4)), 10  # of the Fashion-MNIST study
# Rows of a batch, and how often each is timed.
SIZES = {"cpu": (4, 1), "cuda": (256, 20)}
IMAGE = create("datasets", "shapes", size=32, count={"train": 4, "val": 4}).image


def per_second(work, device):
    """Rows a second of work on a batch of rows: the median of several turns after two that warm up."""
    rows, turns = SIZES[device]
    seconds = []
    for _ in range(turns + 2):
        finish(device)
        began = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - began)
    return rows / median(seconds[2:])


def training_of_tokenizers(device):
    """Names of rows with their work: a training step of the study's ViT beside a regularizer."""
    rows, _ = SIZES[device]
    images, labels = rand_images(IMAGE, rows, device=device), torch.arange(rows, device=device) % CLASSES
    for name in ("kl", "lzn", "simflow"):
        outputs = {"expansion": get("regularizers", name).expansion, "extra": get("regularizers", name).extra}
        tokenizer = create("tokenizers", "vit", image=IMAGE, **outputs, **VIT).to(device)
        facts = {"spec": tokenizer.spec, "classes": CLASSES}
        regularizer = build("regularizers", name, facts, {}).to(device)
        yield (
            f"forward and backward, vit and {name}",
            lambda t=tokenizer, r=regularizer: tokenizer_step(t, r, images, labels, None, None, True),
        )


def generators(device):
    """The study's generators by name, with the options of their samplers."""
    samplers = {"lightningdit": {"steps": 15}, "mar": {"iterations": 8, "steps": 12}, "tarflow": {}}
    for name, options in samplers.items():
        head = {"head": "flow"} if name == "mar" else {}
        model = create("generators", name, spec=LATENT, classes=CLASSES, width=96, **head).to(device)
        yield name, model, options


def training_of_generators(device):
    rows, _ = SIZES[device]
    z, labels = randn(rows, 16, 16, device=device), torch.arange(rows, device=device) % CLASSES
    for name, model, _ in generators(device):
        yield f"forward and backward, {name}", lambda m=model: generator_step(m, z, labels)


def sampling(device):
    rows, _ = SIZES[device]
    labels = torch.arange(rows, device=device) % CLASSES
    for name, model, options in generators(device):
        model.eval()

        @torch.no_grad()
        def drawn(model=model, options=options):
            return model.sample(labels, 1.5, Noise(0), **options)

        yield f"sampling, {name}", drawn


def scoring(device):
    """Describing images, and a distance of descriptions."""
    rows, _ = SIZES[device]
    images = rand_images(IMAGE, rows, device=device)
    extractor = create("features", "effnet_lite0")
    yield "scoring, features of effnet_lite0", lambda: extractor(images)
    features = [randn(rows, 128, seed=seed, device=device) for seed in (0, 1)]
    yield "scoring, Fréchet distance (on the CPU)", lambda: frechet_distance(*features)


# Training computes in a matrix's precision; stages that encode, sample and score have no autocast.
KINDS = (
    (training_of_tokenizers, ("fp32", "tf32", "bf16")),
    (training_of_generators, ("fp32", "tf32", "bf16")),
    (sampling, ("fp32", "tf32")),
    (scoring, ("fp32", "tf32")),
)


def table(kinds, device):
    """Lines of text: rows a second of each piece of work in each precision."""
    rows, _ = SIZES[device]
    alone = "" if "PYTEST_XDIST_WORKER" not in os.environ else ", beside other tests (-n 0 runs it alone)"
    yield f"rows a second on {card(device)}, batch {rows}{alone}"
    yield f"{'':<40}" + "".join(f"{precision:>10}" for precision in BOUNDS)
    for kind, precisions in kinds:
        found: dict[str, list[float]] = {}
        for precision in precisions:
            torch.manual_seed(0)
            with computing(device, precision):
                for name, work in kind(device):
                    found.setdefault(name, []).append(per_second(work, device))
        for name, speeds in found.items():
            yield f"{name:<40}" + "".join(f"{speed:>10,.0f}" for speed in speeds)


@on_each_device
def test_throughput_is_measured_and_shown(device, record_property):
    # On a CPU the test itself is tried; tests/benchmarks measure CPUs.
    kinds = KINDS if device == "cuda" else ((training_of_tokenizers, ("fp32",)),)
    lines = [*table(kinds, device)]
    if device == "cuda":
        record_property("table", "\n".join(lines))
    assert len(lines) == 2 + sum(len([*kind(device)]) for kind, _ in kinds)
    assert all(float(number.replace(",", "")) > 0 for line in lines[2:] for number in line[40:].split())
