"""Records of matrices that were never run, with the effects and the noise that a test asks for."""

import math
import random
from dataclasses import replace

from latentbench.bench.records.record import Record
from latentbench.bench.records.sweep import Sweep

REPLICATES = 100
QUALITY = {"none": 0.0, "kl": 0.4, "repa": 1.0, "simflow": 0.7}  # how easily latents are modelled
LEVEL = {"lightningdit": 120.0, "mar": 240.0, "tarflow": 300.0}
DISTANCE = {"extractor": "net", "weights_sha256": "ab" * 32, "resolution": 64}


def metric(value, scope, better, n, spread, rng, **protocol):
    """An entry with replicates around its value."""
    return {
        "value": value,
        "n": n,
        "protocol": {"reference": "train", **protocol},
        "scope": scope,
        "better": better,
        "unit": "",
        "about": "A metric that was made up.",
        "replicates": [round(value + rng.gauss(0, spread), 4) for _ in range(REPLICATES)],
    }


def records(
    regularizers=("none", "kl[weight=0.001]", "kl[weight=0.01]", "repa", "simflow"),
    generators=("lightningdit", "mar", "tarflow"),
    seeds=("0", "1", "2"),
    guidances=(1.0, 1.5, 2.0),
    dataset="digits",
    noise=4.0,
    quality=QUALITY,
):
    """One record a cell, and the row of real images; noise is the standard deviation of gFD over seeds."""
    found = [_real(dataset)]
    for regularizer in regularizers:
        base = regularizer.partition("[")[0]
        strength = float(regularizer.partition("weight=")[2].rstrip("]") or 0.0)
        ease = quality.get(base, 0.0) + 20 * strength
        for seed in seeds:
            trained = random.Random(f"{dataset}/{regularizer}/{seed.split('.')[0]}")
            psnr = 40 - 4 * ease + trained.gauss(0, 0.2)
            shared = random.Random("images")
            tokenizer = {
                "PSNR": metric(psnr, "tokenizer", "higher", 360, 0.1, shared),
                "SSIM": metric(1 - math.exp(-psnr / 8), "tokenizer", "higher", 360, 0.002, shared),
                "rFD[net]": metric(10 + 15 * ease, "tokenizer", "lower", 360, 1.0, shared, features=DISTANCE),
                "rFD_noise_0.1[net]": metric(
                    30 + 10 * ease, "tokenizer", "lower", 360, 1.0, shared, features=DISTANCE
                ),
                "kNN_NLL": metric(1 - ease / 2, "tokenizer", "lower", 5760, 0.01, shared),
                "effective_rank": metric(4 + 3 * ease, "tokenizer", None, 360, 0.05, shared),
                "probe_accuracy": metric(0.7 + 0.1 * ease, "tokenizer", "higher", 360, 0.01, shared),
            }
            for generator in generators:
                rng = random.Random(f"{dataset}/{regularizer}/{generator}/{seed}")
                metrics, wobble = dict(tokenizer), rng.gauss(0, noise)
                for w in guidances:
                    gfd = LEVEL.get(generator, 200.0) * (1 - 0.25 * ease + 0.3 * (w - 1.5) ** 2) + wobble
                    for name, value in (("gFD[net]", gfd), ("gFD@360[net]", gfd + 20)):
                        n = 360 if "@" in name else 1437
                        metrics[f"{name}@{w:g}"] = metric(
                            value, "generator", "lower", n, noise / 2, rng, features=DISTANCE
                        )
                    metrics[f"recall[net]@{w:g}"] = metric(
                        max(0.0, 0.9 - gfd / 1000), "generator", "higher", 1437, 0.01, rng, features=DISTANCE
                    )
                cell = {"dataset": dataset, "tokenizer": "vit", "regularizer": regularizer}
                cell |= {"generator": generator, "seed": seed}
                found.append(
                    Record(
                        cell,
                        f"{dataset}{regularizer}{generator}{seed}",
                        "done",
                        None,
                        metrics,
                        _curves(gfd, rng),
                        COST | {"regularizer_gflop_per_image": ease / 100},
                        PROVENANCE | {"seed": seed},
                    )
                )
    return found


def swept(record, chosen, tried=(1.0, 1.5, 2.0), samples=359):
    """The record of a cell that has chosen its guidance by a sweep; each w costs as much as it is far off."""
    if record.real:
        return record
    kept = {
        name: entry
        for name, entry in record.metrics.items()
        if entry["scope"] == "tokenizer" or name.endswith(f"]@{chosen:g}")
    }
    sweep = Sweep("gFD[net]", samples, tuple(tried), tuple(100 + abs(w - chosen) for w in tried))
    cost = {name: c for name, c in record.cost.items() if "@" not in name or name.endswith(f"@{chosen:g}")}
    return replace(record, metrics=kept, cost=cost, curves={**record.curves, "guidance": sweep.curve()})


COST = {
    "tokenizer_seconds": 20.0,
    "tokenizer_gflop_per_image": 0.03,
    "prior_gflop_per_sample": 0.0,
    "tokenizer_parameters_million": 0.3,
    "generator_seconds": 25.0,
    "generator_gflop_per_latent": 0.02,
    "generator_parameters_million": 0.5,
    "samples_seconds@1": 4.0,
    "samples_seconds@1.5": 8.0,
    "samples_seconds@2": 8.0,
}
PROVENANCE = {
    "matrix": "made_up",
    "latentbench": "0.1.0",
    "packages": {"torch": "2.14.1"},
    "git_commit": "0" * 40,
    "git_dirty": False,
    "device": "cpu",
    "machine": "a laptop",
    "date": "2026-01-01",
    "threads": 1,
    "precision": "fp32",
    "budget": {"tokenizer_steps": 400, "generator_steps": 700, "batch": 64, "prior_steps": 700},
    "samples": 1437,
}


def _curves(gfd, rng):
    steps = list(range(7, 701, 7))
    decay = [math.exp(-step / 200) for step in steps]
    return {
        "tokenizer": {"step": list(range(4, 401, 4)), "l1": [0.05 + 0.8 * d for d in decay]},
        "generator": {"step": steps, "velocity": [gfd / 100 + d + rng.gauss(0, 0.02) for d in decay]},
        "quality": {"step": [100, 300, 700], "gFD[net]": [gfd * 4, gfd * 2, gfd]},
    }


def _real(dataset):
    rng = random.Random("real")
    cell = {"dataset": dataset} | dict.fromkeys(("tokenizer", "regularizer", "generator"), "real")
    value = metric(48.0, "generator", "lower", 360, 1.0, rng, features=DISTANCE)
    metrics = {"gFD@360[net]": value}
    return Record({**cell, "seed": "0"}, f"{dataset}real", "done", None, metrics, {}, {}, PROVENANCE)
