"""What each kind of stage does: features, reference, prior, tokenizer, latents, generator, samples, scores.

A stage is a function of its config and its parents' artifacts and returns a `Result`; nothing else that it
could read changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..api import Diverged, ImageSpec, Metric, Noise, Reference
from ..api.noise import seed_for
from ..data.augment import Augmentation
from ..data.subset import Fewer
from ..metrics.bootstrap import rounded
from ..metrics.names import base_name, check_name
from ..models import build
from ..models.flops import counted, parameters
from ..models.latents import (
    CHUNK,
    DRAWS,
    IDENTITY,
    chunked,
    decode_levels,
    draw,
    encode,
    normalisation,
    round_trip,
)
from ..nn import released_weights
from ..runtime.mapped import allocated, rows
from ..runtime.prefetch import prefetch
from ..runtime.recompute import prepare
from ..store.artifacts import Artifact, Result
from ..training import losses
from ..training.generator import train_generator
from ..training.one_step import reconstruction_step
from ..training.steps import Context
from ..training.tokenizer import train_tokenizer
from .figures import rendered
from .inputs import SPLITS, facts_from, kept, spec_from
from .subject import Cell, Subject, in_its_space, reference_of, rows_of

Inputs = dict[str, Artifact]
Config = dict[str, Any]


def features(config: Config, inputs: Inputs, context: Context) -> Result:
    """Pooled and token features of both splits, or other outputs of an extractor."""
    dataset = Fewer(build.dataset(config["dataset"]), config.get("images"))
    extractor, group = build.extractor(config["extractor"]), context.group
    outputs = config.get("outputs", ["pooled", "tokens"])
    tensors: dict[str, Tensor] = {}
    asked = {split: kept(split, outputs) for split in SPLITS}
    counts = {split: dataset.size(split) if asked[split] else 0 for split in SPLITS}
    total, before = sum(counts.values()), 0
    for split, wanted in asked.items():
        chunks = torch.arange(counts[split]).split(CHUNK) if wanted else ()
        mine = chunks[group.rank :: group.world]
        images = prefetch(dataset, split, mine, context.loaders, context.device)

        def describe(index: Tensor, number: int) -> dict[str, Tensor]:
            found = extractor.describe(next(images), wanted)  # noqa: B023
            context.report(before + int(index[-1]) + 1, total, "images")  # noqa: B023
            return {name: tensor.cpu() for name, tensor in found.items()}

        made = rows(describe, chunks, wanted, lambda name: context.scratch(f"{name}/{split}"), group)  # noqa: B023
        tensors |= {f"{name}/{split}": made[name] for name in wanted}
        before += counts[split]
    return Result({"spec": vars(extractor.spec), "protocol": extractor.protocol()}, tensors)


def reference(config: Config, inputs: Inputs, context: Context) -> Result:
    """Samples of the reference distribution for both splits, before any projection."""
    dataset = Fewer(build.dataset(config["dataset"]), config.get("images"))
    if "features" in inputs:
        features = inputs["features"]
        spec, basis = spec_from(features.info["spec"]), {"features": features.info["protocol"]}
        given = {
            split: [features.tensors[f"{what}/{split}"] for what in ("tokens", "pooled")] for split in SPLITS
        }
    elif "tokenizer" not in inputs:  # no image's
        spec, basis = spec_from(config["spec"]), {}
        given = {split: [torch.zeros(0), torch.zeros(0)] for split in SPLITS}
    else:  # another tokenizer's latents
        cell = Cell(inputs, context.device, scratch=context.scratch)
        spec, noise = cell.tokenizer.spec, Noise(cell.config["seed"], ("reference",))
        basis = {"steps": cell.config["steps"], "seed": cell.config["seed"]}
        given = {
            split: [z := cell.latents(split, noise)[dataset.index[split]], z.mean(1)] for split in SPLITS
        }
    source = build.reference(config["reference"], dataset, spec)
    tensors: dict[str, Tensor] = {}
    for split in SPLITS:
        drawn = source.draw(split, dataset, *given[split])
        tensors[f"samples/{split}"] = drawn.samples
        if drawn.labels is not None:
            tensors[f"labels/{split}"] = drawn.labels
    chosen = config["reference"]
    protocol = {"use": chosen["name"], **chosen["options"], **basis}
    if "images" in config:
        protocol["images"] = config["images"]
    return Result({"spec": vars(source.spec), "protocol": protocol}, tensors)


def _reference(inputs: Inputs, context: Context) -> Reference:
    return reference_of(inputs["reference"], context.scratch(f"reference/{context.group.rank}"))


def prior(config: Config, inputs: Inputs, context: Context) -> Result:
    """One of a regularizer's priors, trained on the reference as it is."""
    spec = spec_from(config["spec"])
    with seeded(config["seed"], "init", "prior", config["prior"]):
        regularizer = build.regularizer(config["regularizer"], spec, facts_from(config["facts"]))
    target = rows_of(in_its_space(regularizer, _reference(inputs, context)), "train")
    model = regularizer.priors()[config["prior"]]
    prepare(config, model)
    state = train_generator(
        model,
        lambda index, step: target.samples[index],
        len(target.samples),
        target.labels,
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        optimizer=config["optimizer"],
        context=context,
    )
    tensors = {f"prior/{name}": tensor for name, tensor in model.state_dict().items()}
    return Result({"curves": state.curves}, tensors, cost={"seconds": state.seconds, "steps": state.step})


def tokenizer(config: Config, inputs: Inputs, context: Context) -> Result:
    """A trained tokenizer with its regularizer."""
    dataset, seed = build.dataset(config["dataset"]), config["seed"]
    method = build.regularizer_class(config["regularizer"])
    with seeded(seed, "init", "tokenizer"):
        model = build.tokenizer(config["tokenizer"], dataset, method.expansion)
    with seeded(seed, "init", "regularizer"):
        regularizer = build.regularizer(config["regularizer"], model.spec, facts_from(config["facts"]))
    with seeded(seed, "init", "discriminator"):
        adversary = losses.adversary(config["reconstruction"], dataset.image)
    if "weights" in config:
        file = Path(config["weights"]["file"])
        model.load_state_dict(released_weights.state(model, config["tokenizer"]["name"], file))
    if "start" in inputs:
        model.load_state_dict(inputs["start"].group("tokenizer"))
    for name, module in regularizer.priors().items():
        module.load_state_dict(inputs[f"prior/{name}"].group("prior"))
    prepare(config, model, regularizer)
    target = None
    if "reference" in inputs:
        target = rows_of(in_its_space(regularizer, _reference(inputs, context)), "train")
    state = train_tokenizer(
        model,
        regularizer,
        dataset,
        losses.terms(config["reconstruction"]),
        steps=config["steps"],
        refine_steps=config["refine_steps"],
        batch=config["batch"],
        seed=seed,
        optimizer=config["optimizer"],
        context=context,
        teacher=_teacher(config, inputs),
        reference=target,
        probes=config["probes"],
        adversary=adversary,
        adversary_optimizer=config["reconstruction"].get("gan", {}).get("optimizer", {}),
        augmentation=Augmentation(**config["augment"]) if "augment" in config else None,
    )
    tensors = {f"tokenizer/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"regularizer/{name}": tensor for name, tensor in regularizer.state_dict().items()}
    if state.probes:
        tensors["probes/step"] = torch.tensor(sorted(state.probes))
        tensors["probes/z"] = torch.stack([state.probes[step] for step in sorted(state.probes)])
    steps = config["steps"] + config["refine_steps"]
    cost = {"seconds": state.seconds, "steps": steps} | (_of_losses(config, dataset.image) if steps else {})
    return Result({"curves": state.curves}, tensors, cost=cost)


def _teacher(config: Config, inputs: Inputs) -> Callable[[Tensor, Tensor], Tensor] | None:
    """(images, index) -> token features: kept ones or, of a set that decodes, made of the images at hand."""
    if "teacher" in inputs:
        kept = inputs["teacher"].tensors["tokens/train"]
        return lambda images, index: kept[index]
    if "teacher" not in config:
        return None
    extractor = build.extractor(config["teacher"])
    if extractor.resizing == "clean":
        extractor.resizing = "torch"  # on the device, where the images are
    return lambda images, index: extractor.describe(images, ["tokens"])["tokens"]


def _of_losses(config: Config, image: ImageSpec) -> dict[str, float]:
    """What the networks in the reconstruction losses take, if there are any."""
    distance, adversary = losses.networks(config["reconstruction"], image)
    if distance is None and adversary is None:
        return {}
    count, shape = config["batch"], (image.channels, image.height, image.width)
    step = counted(reconstruction_step, distance, adversary, torch.empty(count, *shape, device="meta"))
    judge = {} if adversary is None else {"discriminator_parameters": parameters(adversary, trainable=True)}
    return {"loss_flops_per_image": step.flops / count, **judge}


def latents(config: Config, inputs: Inputs, context: Context) -> Result:
    """h of both splits, the statistics that generators are normalised by, and the round-trip check."""
    cell, group = Cell(inputs, context.device), context.group
    dataset, model, regularizer = cell.dataset, cell.tokenizer, cell.regularizer
    tensors: dict[str, Tensor] = {}
    for split in SPLITS:
        name = f"h/{split}"
        source = (model, dataset, split, context.device)
        tensors[name] = encode(*source, None, context.loaders, group, context.scratch(name))
    noise = Noise(config["seed"], ("latents",))
    batch, h = cell.config["batch"], tensors["h/train"]
    count = DRAWS if regularizer.couples == "latent" else 1
    shape = (count, len(h), model.spec.tokens, model.spec.channels)
    draws = allocated(shape, h.dtype, context.scratch("draws"), group)
    for k, into in enumerate(draws):
        stream, labels = noise.fork("train").fork(k), dataset.labels("train")
        file = context.scratch("draws")
        draw(regularizer, h, labels, stream, batch, context.device, group, file, into)
    rule = normalisation(draws[0], config["normalise"])
    tensors |= {"mean": rule.mean, "std": rule.std}
    if regularizer.couples == "latent":
        tensors["draws"] = draws
    labels = dataset.labels("val")
    z = draw(regularizer, tensors["h/val"], labels, noise.fork("val"), batch, context.device, group)
    info: Config = {
        "spec": vars(model.spec),
        "dtype": str(z.dtype).removeprefix("torch."),
        "mean": rule.mean.tolist(),
        "std": rule.std.tolist(),
    }
    if model.decodes:
        info["round_trip"] = gap = round_trip(model, dataset.image, z, rule, context.device, group)
        if not gap < 1e-3:
            raise Diverged(f"decoding normalised latents differs from decoding them directly by {gap:.3g}")
        shown = decode_levels(model, z[:CHUNK], context.device, labels=labels, noise=noise.fork("preview"))
        tensors["preview"] = shown[:64]
    return Result(info, tensors)


def generator(config: Config, inputs: Inputs, context: Context) -> Result:
    """A generator trained on normalised latents that are drawn anew at every step."""
    cell = Cell(inputs, context.device)
    joint = config["init"] == "joint"
    with seeded(config["seed"], "init", "generator"):
        model = cell.joint() if joint else cell.fresh(config["generator"])
    prepare(config, model)
    kept, labels = cell.inputs["latents"].tensors, cell.dataset.labels("train")
    h, cached = kept["h/train"], kept.get("draws")
    rule = IDENTITY if joint else cell.normalisation

    def read(index: Tensor, step: int) -> Tensor:
        return h[index] if cached is None else cached[step % len(cached), index]

    @torch.no_grad()
    def latent(given: Tensor, chosen: Tensor | None, noise: Noise) -> Tensor:
        return rule(cell.regularizer.latent(given, noise, chosen) if cached is None else given)

    state = train_generator(
        model,
        read,
        len(h),
        labels,
        latent=latent,
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        optimizer=config["optimizer"],
        context=context,
        snapshots=config.get("snapshots", ()),
    )
    tensors = {f"generator/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"snapshot/{name}": tensor for name, tensor in state.snapshots.items()}
    cost = {"seconds": state.seconds, "steps": state.step} if state.step else {}
    return Result({"curves": state.curves}, tensors, cost=cost)


def samples(config: Config, inputs: Inputs, context: Context) -> Result:
    """Decoded 8-bit samples with their labels, classes in turn."""
    cell = Cell(inputs, context.device, config.get("snapshot"))
    count, classes, spec = config["samples"], cell.dataset.classes, cell.tokenizer.spec
    labels = torch.arange(count) % classes if classes else torch.full((count,), -1)
    noise = Noise(config["seed"], ("samples",))

    def one(index: Tensor, chunk: int) -> Tensor:
        asked = labels[index].to(context.device)
        z = cell.generator.sample(asked, config["guidance"], noise.fork(chunk), **config["sampler"])
        context.report(int(index[-1]) + 1, count, "images")
        return cell.sampled_normalisation.inverse(z.cpu())

    z = chunked(one, count, group=context.group, file=context.scratch("z"))
    if not z.isfinite().all():
        bad = int((~z.isfinite().flatten(1).all(1)).sum())
        raise Diverged(f"{bad} of {count} samples are not finite")
    assert z.shape[1:] == (spec.tokens, spec.channels)
    drawn = noise.fork("decoder")
    file = context.scratch("images")
    images = decode_levels(cell.tokenizer, z, context.device, context.group, labels, drawn, file)
    return Result({}, {"images": images, "labels": labels})


def scores(config: Config, inputs: Inputs, context: Context) -> Result:
    """Every metric of one scope, each with its protocol and n."""
    dataset, extractors = build.dataset(config["dataset"]), [*map(build.extractor, config["extractors"])]
    noise = Noise(config["seed"], ("evaluate",))
    subject = Subject(
        config["scope"],
        inputs,
        dataset,
        extractors,
        noise,
        context.device,
        config.get("guidance"),
        context.scratch,
        context.loaders,
        config.get("samples"),
    )
    metrics: dict[str, Any] = {}
    cost: dict[str, float] = {}
    pictures: dict[str, Tensor] = {}
    for position, part in enumerate(config["evaluators"]):
        evaluator = build.evaluator(part)
        for name, value in evaluator.run(subject).items():
            meaning = evaluator.metrics[base_name(name)]
            if meaning.cost:
                cost[name] = value
            else:
                protocol = evaluator.protocol(name, subject)
                check_name(name, protocol)
                metrics[name] = entry(value, meaning, protocol, config)
        for name, figure in evaluator.figures(subject).items():
            if isinstance(figure, Tensor):
                pictures[f"picture/{name}"] = figure
            else:
                pictures[f"figure/{name}"] = rendered(figure)
        context.report(position + 1, len(config["evaluators"]), part["name"])
    return Result({"metrics": metrics, "cost": cost}, pictures)


STAGES: dict[str, Callable[[Config, Inputs, Context], Result]] = {
    "features": features,
    "reference": reference,
    "prior": prior,
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
    # A latent that depends on the batch that it is encoded in. That is the row's doing, as its losses are:
    # in the protocol it would keep such a row out of every column.
    coupled = {"latent_batch": config["couples"]} if "couples" in config else {}
    replicates, classes = (getattr(value, name, None) for name in ("replicates", "classes"))
    return {
        **({"value": float(value)} if math.isfinite(value) else {"value": None, "note": str(float(value))}),
        "n": int(protocol["n"]),
        "protocol": own | shared,
        **coupled,
        "scope": meaning.scope,
        "better": direction,
        "unit": meaning.unit,
        "about": meaning.about,
        **({"replicates": rounded(replicates)} if replicates else {}),
        **({"classes": dict(classes)} if classes else {}),
    }


@contextmanager
def seeded(*names: str | int) -> Iterator[None]:
    """Initialisation under a seed made of names, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*names))
        yield
