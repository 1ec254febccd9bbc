"""What each kind of stage does: features, tokenizer, latents, generator, samples, scores.

A stage is a function of its config and its parents' artifacts and returns a `Result`; nothing else that it
could read changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import build
from .api import Diverged, Metric, Noise
from .generator_loop import train_generator
from .images import to_uint8
from .latents import CHUNK, DRAWS, chunked, decode, draw, encode, normalisation
from .losses import RECONSTRUCTION
from .records import base_name
from .seeds import seed_for
from .store import Artifact, Result
from .subject import Cell, Subject, facts_for, reference_of
from .tokenizer_loop import train_tokenizer
from .training import Context

Inputs = dict[str, Artifact]
Config = dict[str, Any]
VERSION = 1  # of the frame's own arithmetic; part of every key: raise it when numbers change


def features(config: Config, inputs: Inputs, context: Context) -> Result:
    """Pooled and token features of both splits."""
    dataset, extractor = build.dataset(config["dataset"]), build.extractor(config["extractor"])
    tensors: dict[str, Tensor] = {}
    total = dataset.size("train") + dataset.size("val")
    done = 0
    for split in ("train", "val"):
        parts = []
        for index in torch.arange(dataset.size(split)).split(CHUNK):
            parts.append(extractor(dataset.images(split, index)))
            done += len(index)
            context.report(done, total, "images")
        tensors[f"pooled/{split}"] = torch.cat([pooled for pooled, _ in parts])
        tensors[f"tokens/{split}"] = torch.cat([tokens for _, tokens in parts])
    return Result({"spec": vars(extractor.spec), "protocol": extractor.protocol()}, tensors)


def tokenizer(config: Config, inputs: Inputs, context: Context) -> Result:
    """A trained tokenizer with its regularizer."""
    dataset, seed = build.dataset(config["dataset"]), config["seed"]
    method = build.regularizer_class(config["regularizer"])
    with seeded(seed, "init", "tokenizer"):
        model = build.tokenizer(config["tokenizer"], dataset, method.expansion)
    with seeded(seed, "init", "regularizer"):
        regularizer = build.regularizer(
            config["regularizer"], model.spec, facts_for(dataset, config.get("teacher"))
        )
    asked = build.facts_of(method)
    teacher = inputs.get("teacher")
    reference = None
    if teacher is not None and "reference_spec" in asked:
        reference = regularizer.reference(reference_of(teacher, dataset, "train"))
    state = train_tokenizer(
        model,
        regularizer,
        dataset,
        {name: (weight, RECONSTRUCTION[name]) for name, weight in config["reconstruction"].items()},
        steps=config["steps"],
        batch=config["batch"],
        seed=seed,
        optimizer=config["optimizer"],
        context=context,
        features=teacher.tensors["tokens/train"] if teacher is not None and "teacher_spec" in asked else None,
        reference=reference,
    )
    tensors = {f"tokenizer/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"regularizer/{name}": tensor for name, tensor in regularizer.state_dict().items()}
    return Result(
        {"curves": state.curves}, tensors, cost={"seconds": state.seconds, "steps": config["steps"]}
    )


def latents(config: Config, inputs: Inputs, context: Context) -> Result:
    """h of both splits, the statistics that generators are normalised by, and the round-trip check."""
    cell = Cell(inputs, context.device)
    dataset, model, regularizer = cell.dataset, cell.tokenizer, cell.regularizer
    tensors = {f"h/{split}": encode(model, dataset, split, context.device) for split in ("train", "val")}
    noise = Noise(config["seed"], ("latents",))
    batch = cell.config["batch"]
    draws = [
        draw(
            regularizer,
            tensors["h/train"],
            dataset.labels("train"),
            noise.fork("train").fork(k),
            batch,
            context.device,
        )
        for k in range(DRAWS if regularizer.couples == "latent" else 1)
    ]
    rule = normalisation(draws[0], config["normalise"])
    tensors |= {"mean": rule.mean, "std": rule.std}
    if regularizer.couples == "latent":
        tensors["draws"] = torch.stack(draws)
    z = draw(regularizer, tensors["h/val"], dataset.labels("val"), noise.fork("val"), batch, context.device)
    straight, there_and_back = (decode(model, v, context.device) for v in (z, rule.inverse(rule(z))))
    gap = float((straight - there_and_back).abs().max())
    if not gap < 1e-3:
        raise Diverged(f"decoding normalised latents differs from decoding them directly by {gap:.3g}")
    tensors["preview"] = to_uint8(straight[:64])
    info = {
        "spec": vars(model.spec),
        "dtype": str(z.dtype).removeprefix("torch."),
        "mean": rule.mean.tolist(),
        "std": rule.std.tolist(),
        "round_trip": gap,
    }
    return Result(info, tensors)


def generator(config: Config, inputs: Inputs, context: Context) -> Result:
    """A generator trained on normalised latents that are drawn anew at every step."""
    cell = Cell(inputs, context.device)
    with seeded(config["seed"], "init", "generator"):
        model = build.generator(config["generator"], cell.tokenizer.spec, cell.dataset.classes)
    h, labels = cell.inputs["latents"].tensors["h/train"].to(context.device), cell.dataset.labels("train")
    cached = cell.inputs["latents"].tensors.get("draws")

    @torch.no_grad()
    def sample(index: Tensor, noise: Noise, step: int) -> Tensor:
        if cached is not None:
            return cell.normalisation(cached[step % len(cached), index].to(context.device))
        chosen = None if labels is None else labels[index].to(context.device)
        return cell.normalisation(cell.regularizer.latent(h[index], noise, chosen))

    state = train_generator(
        model,
        sample,
        len(h),
        labels,
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        optimizer=config["optimizer"],
        context=context,
    )
    tensors = {f"generator/{name}": tensor for name, tensor in model.state_dict().items()}
    cost = {"seconds": state.seconds, "steps": state.step} if state.step else {}
    return Result({"curves": state.curves}, tensors, cost=cost)


def samples(config: Config, inputs: Inputs, context: Context) -> Result:
    """Decoded 8-bit samples with their labels, classes in turn."""
    cell = Cell(inputs, context.device)
    count, classes, spec = config["samples"], cell.dataset.classes, cell.tokenizer.spec
    labels = torch.arange(count) % classes if classes else torch.full((count,), -1)
    noise = Noise(config["seed"], ("samples",))

    def one(index: Tensor, chunk: int) -> Tensor:
        asked = labels[index].to(context.device)
        z = cell.generator.sample(asked, config["guidance"], noise.fork(chunk), **config["sampler"])
        context.report(int(index[-1]) + 1, count, "images")
        return z.cpu()

    z = cell.normalisation.inverse(chunked(one, count))
    if not z.isfinite().all():
        bad = int((~z.isfinite().flatten(1).all(1)).sum())
        raise Diverged(f"{bad} of {count} samples are not finite")
    assert z.shape[1:] == (spec.tokens, spec.channels)
    return Result({}, {"images": to_uint8(decode(cell.tokenizer, z, context.device)), "labels": labels})


def scores(config: Config, inputs: Inputs, context: Context) -> Result:
    """Every metric of one scope, each with its protocol and n."""
    dataset, extractor = build.dataset(config["dataset"]), build.extractor(config["extractor"])
    noise = Noise(config["seed"], ("evaluate",))
    subject = Subject(
        config["scope"], inputs, dataset, extractor, noise, context.device, config.get("guidance")
    )
    metrics: dict[str, Any] = {}
    cost: dict[str, float] = {}
    for position, part in enumerate(config["evaluators"]):
        evaluator = build.evaluator(part)
        for name, value in evaluator.run(subject).items():
            meaning = evaluator.metrics[base_name(name)]
            if meaning.cost:
                cost[name] = value
            else:
                metrics[name] = entry(value, meaning, evaluator.protocol(name, subject), config)
        context.report(position + 1, len(config["evaluators"]), part["name"])
    return Result({"metrics": metrics, "cost": cost})


STAGES: dict[str, Callable[[Config, Inputs, Context], Result]] = {
    "features": features,
    "tokenizer": tokenizer,
    "latents": latents,
    "generator": generator,
    "samples": samples,
    "scores": scores,
}


def entry(value: float, meaning: Metric, protocol: dict[str, Any], config: Config) -> dict[str, Any]:
    """A value with all that is needed to read and to compare it."""
    direction = {True: "higher", False: "lower", None: None}[meaning.higher_is_better]
    own = {key: item for key, item in protocol.items() if key != "n"}
    data, env = config["dataset"], config["env"]
    shared = {
        "data": f"{data['name']} {data['fingerprint'][:12]}",
        "chunk": CHUNK,
        "precision": env["precision"],
    }
    if "couples" in config:  # such a latent depends on the batch that it is encoded in
        shared["latent_batch"] = config["couples"]
    return {
        "value": float(value) if math.isfinite(value) else None,
        "n": int(protocol["n"]),
        "protocol": own | shared,
        "scope": meaning.scope,
        "better": direction,
        "unit": meaning.unit,
        "about": meaning.about,
    }


@contextmanager
def seeded(*names: str | int) -> Iterator[None]:
    """Initialisation under a seed made of names, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*names))
        yield
