"""What the stages of a plan will take, from modules on the meta device: no data, no weights, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..api import (
    Dataset,
    FlowTokenizer,
    Generator,
    ImageSpec,
    LatentSpec,
    Likelihood,
    Noise,
    Reference,
    Regularizer,
    Split,
    Tokenizer,
)
from ..data.subset import originals
from ..models import flops
from ..models.flops import Counted, TooLong, counted
from ..models.latents import CHUNK, DRAWS
from ..runtime.mapped import LARGE
from ..stages.inputs import SPLITS, kept
from ..store.stage import Stage
from ..training import losses
from ..training.adversary import Adversary
from ..training.one_step import generator_step, reconstruction_step, regularizer_step, tokenizer_step
from ..training.optimizers import DEFAULTS, GENERATOR_DEFAULTS, group_settings
from .cost import Cost
from .plan import Built, Plan

parameters = lru_cache(maxsize=256)(flops.parameters)  # stages of equal rows have the same modules
CALLS = 4_000  # of torch's functions while a sampler is followed
ITERATED = ("steps", "iterations")  # options of samplers that their work is linear in
FLOAT = 4  # bytes
GRADIENT, ADAM = FLOAT, 2 * FLOAT  # a parameter's; weights stay in single precision, autocast casts them


def costs(plan: Plan, stages: Iterable[Stage]) -> dict[str, Cost]:
    """By stage id. Seeds change nothing: what equal modules take is counted once."""
    estimates = _Estimates(plan)
    return {stage.id: estimates.of(stage) for stage in stages}


class _Estimates:
    """Costs by kind of stage. What modules take is kept by their identity: a plan builds equal ones once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.known: dict[tuple[Any, ...], Any] = {}

    def of(self, stage: Stage) -> Cost:
        built, config = self.plan.built.get(stage.id), stage.config
        if built is None:
            return Cost(flops_per_image=None, note="not counted: what evaluators compute")
        if stage.kind == "features":
            return _features(built, config)
        if stage.kind == "reference":
            return _reference(built, config)
        kinds = {"tokenizer": self._tokenizer, "latents": self._latents, "samples": self._samples}
        return kinds.get(stage.kind, self._generator)(built, stage)

    def _tokenizer(self, built: Built, stage: Stage) -> Cost:
        tokenizer, regularizer, config = built.tokenizer, built.regularizer, stage.config
        assert tokenizer is not None and regularizer is not None
        batch, precision = config["batch"], config["env"]["precision"]
        # As the training loop has it: a generator that is trained along is averaged as others are.
        top, own = config["optimizer"]
        decay = group_settings(DEFAULTS, top)["ema"]
        joint = GENERATOR_DEFAULTS["ema"] if regularizer.generator() is not None else decay
        averaged = ((tokenizer, decay), (regularizer, own.get("ema", joint)))
        distance, adversary = self._networks(config["reconstruction"], built.dataset.image)
        learning = parameters(adversary, trainable=True) if adversary is not None else 0
        kept = 0
        if probes := config["probes"]:
            looks = config["steps"] // probes["every"] + 1
            kept = looks * probes["images"] * tokenizer.spec.tokens * tokenizer.spec.channels * FLOAT
        again = config.get("checkpointing", False)
        step = self._step(built, config, batch, precision, again)
        if distance is not None or adversary is not None:
            added = self._once(_reconstruction_step, distance, adversary, batch, precision, of=built)
            step = _both(step, added)
        found = _training(
            (tokenizer, regularizer),
            self.plan.parameters[stage.id],
            sum(_bytes(module) for module, decay in averaged if decay),
            batch,
            config["steps"] + config["refine_steps"],  # refinement of the decoder counts as whole steps
            step,
            kept,
        )
        if not found.images:
            return found
        if "teacher" in config and not found.note:
            found = replace(found, note="without the teacher, which describes each batch")
        # The networks of losses are there in training, and not kept.
        return replace(
            found,
            parameters=found.parameters + learning,
            parameters_total=found.parameters_total
            + sum(map(parameters, filter(None, (distance, adversary)))),
            weights_memory_bytes=found.weights_memory_bytes
            + sum(map(_bytes, filter(None, (distance, adversary)))),
            optimizer_memory_bytes=found.optimizer_memory_bytes + learning * (GRADIENT + ADAM),
        )

    def _step(
        self, built: Built, config: Mapping[str, Any], batch: int, precision: str, again: bool
    ) -> Counted | str:
        """The tokenizer's part, which rows share, and the regularizer's, which its strengths do."""
        tokenizer, regularizer = built.tokenizer, built.regularizer
        assert tokenizer is not None and regularizer is not None
        how = (batch, precision, again)
        if regularizer.two_views or not tokenizer.decodes or isinstance(tokenizer, FlowTokenizer):
            return self._once(_tokenizer_step, tokenizer, regularizer, *how, of=built)
        alike = _likeness([config["regularizer"], config["facts"]])
        encoded = self._once(_encode, tokenizer, of=built)
        plain = self._once(_bare_step, tokenizer, *how, of=built)
        added, judged = (
            self._once(_regularizer_step, tokenizer, alike, critics, *how, of=built)
            for critics in (False, True)
        )
        if not (isinstance(plain, Counted) and isinstance(added, Counted) and isinstance(judged, Counted)):
            return _why(plain, added, judged)
        further = regularizer.critic_steps - 1 if regularizer.critics() else 0
        judging = (1 + further) * judged.flops + further * batch * encoded.flops
        most = max(plain.activations + added.activations, judged.activations)
        return Counted(plain.flops + added.flops + judging, most)

    def _networks(
        self, config: Mapping[str, Any], image: ImageSpec
    ) -> tuple[nn.Module | None, Adversary | None]:
        """Of the reconstruction losses: one reconstruction a plan, one network a shape of images."""
        key = ("losses", image)
        if key not in self.known:
            self.known[key] = losses.networks(config, image)
        return self.known[key]

    def _generator(self, built: Built, stage: Stage) -> Cost:
        model, config, trainable = built.generator, stage.config, self.plan.parameters[stage.id]
        assert model is not None
        if type(model).fit is not Generator.fit:
            size = _bytes(model)
            return Cost(trainable, parameters(model), weights_memory_bytes=size, disk_bytes=size)
        return _training(
            (model,),
            trainable,
            _bytes(model) if group_settings(GENERATOR_DEFAULTS, config["optimizer"])["ema"] else 0,
            config["batch"],
            config["steps"],
            self._once(
                _generator_step,
                model,
                config["batch"],
                config["env"]["precision"],
                config.get("checkpointing", False),
                of=built,
            ),
            len(config.get("snapshots", ())) * _bytes(model),
        )

    def _latents(self, built: Built, stage: Stage) -> Cost:
        """Both splits are encoded; as a check the held-out one is decoded twice, or two steps of its drawing.

        What is drawn as a picture takes longer than that.
        """
        tokenizer, regularizer = built.tokenizer, built.regularizer
        assert tokenizer is not None and regularizer is not None
        train, val = _sizes(built.dataset)
        weights = _bytes(tokenizer) + _bytes(regularizer)
        total = parameters(tokenizer, regularizer)
        if train is None or val is None:
            note = "how many images there are isn't known without the data"
            return Cost(0, total, 0, None, weights, disk_bytes=None, note=note)
        encoded = self._once(_encode, tokenizer, of=built)
        decoded = self._once(_decode, tokenizer, of=built) if tokenizer.decodes else Counted(0, 0)
        spec, images = tokenizer.spec, train + val
        latent = spec.tokens * spec.channels * FLOAT
        disk = images * latent * type(regularizer).expansion
        disk += DRAWS * train * latent if regularizer.couples == "latent" else 0
        per_image, note = None, _why(encoded, decoded)
        if isinstance(encoded, Counted) and isinstance(decoded, Counted):
            whole = 2.0 * val
            if isinstance(tokenizer, FlowTokenizer):
                whole = whole / tokenizer.evaluations + min(val, CHUNK)
            per_image = encoded.flops + decoded.flops * whole / images
        # h, and the latents that statistics are of, before they are an artifact.
        scratch = disk + (0 if regularizer.couples == "latent" else train * latent)
        found = Cost(0, total, images, per_image, weights, disk_bytes=disk, note=note)
        return replace(found, scratch_disk_bytes=_large(scratch))

    def _samples(self, built: Built, stage: Stage) -> Cost:
        model, tokenizer, config = built.generator, built.tokenizer, stage.config
        assert model is not None and tokenizer is not None
        options = tuple(sorted(config["sampler"].items()))
        drawn = self._once(_sample, model, config["guidance"] != 1, options, of=built)
        decoded = self._once(_decode, tokenizer, of=built)
        image, count = built.dataset.image, config["samples"]
        disk = count * (image.channels * image.height * image.width + 8)  # 8 bits, and a label
        return Cost(
            parameters_total=parameters(model, tokenizer.decoder),
            images=count,
            flops_per_image=None if (note := _why(drawn, decoded)) else drawn.flops + decoded.flops,
            weights_memory_bytes=_bytes(model) + _bytes(tokenizer),
            disk_bytes=disk,
            scratch_disk_bytes=_large(disk),
            note=note,
        )

    def _once(self, count: Callable[..., Counted], *asked: Any, of: Built) -> Any:
        """What `count(of, *asked)` says, or, as text, why a module cannot be counted."""
        key = (count, *(id(value) if isinstance(value, nn.Module) else repr(value) for value in asked))
        if key not in self.known:
            try:
                self.known[key] = count(of, *asked)
            except TooLong:
                self.known[key] = "not counted: too long a sampler"
            # A plugin may fail in any way on tensors that have no values.
            except Exception as error:
                said = str(error).partition("\n")[0]  # what follows are torch's C++ frames
                self.known[key] = f"not counted without values: {type(error).__name__}: {said}"
        return self.known[key]


def _training(
    modules: tuple[nn.Module, ...],
    trainable: int,
    averaged: int,
    batch: int,
    steps: int,
    step: Counted | str,
    kept: int,
) -> Cost:
    """`averaged` bytes of averages of weights, `kept` bytes beside the weights on disk."""
    weights = sum(map(_bytes, modules))
    if not steps:  # as it was given
        return Cost(0, parameters(*modules), weights_memory_bytes=weights, disk_bytes=weights)
    return Cost(
        trainable,
        parameters(*modules),
        batch * steps,
        step.flops / batch if isinstance(step, Counted) else None,
        weights,
        trainable * (GRADIENT + ADAM) + averaged,
        step.activations if isinstance(step, Counted) else None,
        weights + kept,
        _why(step),
    )


def _tokenizer_step(
    built: Built, tokenizer: Tokenizer, regularizer: Regularizer, batch: int, precision: str, again: bool
) -> Counted:
    arguments = tokenizer.train(), regularizer.train(), *_given(built, regularizer, batch), True
    return counted(tokenizer_step, *arguments, precision=precision, checkpointing=again)


def _bare_step(built: Built, tokenizer: Tokenizer, batch: int, precision: str, again: bool) -> Counted:
    """Of a tokenizer without a regularizer."""
    given = _images(built.dataset, batch), _labels(built.dataset.classes, batch), None, None
    arguments = tokenizer.train(), _First(tokenizer.spec), *given, False
    return counted(tokenizer_step, *arguments, precision=precision, checkpointing=again)


class _First(Regularizer):
    """Takes the first of several encoder channels for the latent's."""

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return h[..., : self.spec.channels]


def _regularizer_step(
    built: Built,
    tokenizer: Tokenizer,
    alike: str,
    critics: bool,
    batch: int,
    precision: str,
    again: bool,
) -> Counted:
    """Of any row that is `alike`."""
    regularizer, spec = built.regularizer, tokenizer.spec
    assert regularizer is not None
    if critics and not regularizer.critics():
        return Counted(0, 0)
    h = _empty(replace(spec, channels=spec.channels * regularizer.expansion), batch)
    arguments = tokenizer, regularizer.train(), h, *_given(built, regularizer, batch), critics
    return counted(regularizer_step, *arguments, precision=precision, checkpointing=again)


def _given(built: Built, regularizer: Regularizer, batch: int) -> tuple[Tensor | None, ...]:
    """Images, labels, teacher features and samples of the reference, as far as a regularizer has them."""
    facts, reference = built.facts, None
    features = _empty(facts["teacher_spec"], batch) if "teacher_spec" in facts else None
    if "reference_spec" in facts:
        spec = facts["reference_spec"]
        labels = _labels(facts.get("reference_classes", 0), batch)
        reference = regularizer.reference(Reference(_empty(spec, batch), labels, spec.grid)).samples
    return _images(built.dataset, batch), _labels(built.dataset.classes, batch), features, reference


def _likeness(value: Any) -> str:
    """Of rows that take the same work: options, where of a number that isn't whole only 0 and 1 matter."""

    def coarse(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: coarse(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [coarse(item) for item in value]
        return (value == 0, value == 1) if isinstance(value, float) else value

    return repr(coarse(value))


def _reconstruction_step(
    built: Built, distance: nn.Module | None, adversary: Adversary | None, batch: int, precision: str
) -> Counted:
    images = _images(built.dataset, batch)
    return counted(reconstruction_step, distance, adversary, images, precision=precision)


def _both(one: Counted | str, other: Counted | str) -> Counted | str:
    """Together, or why one of them isn't known."""
    if isinstance(one, str) or isinstance(other, str):
        return _why(one, other)
    return Counted(one.flops + other.flops, one.activations + other.activations)


def _generator_step(built: Built, model: Generator, batch: int, precision: str, again: bool) -> Counted:
    labels = _labels(built.dataset.classes, batch)
    arguments = model.train(), _empty(model.spec, batch), labels
    return counted(generator_step, *arguments, precision=precision, checkpointing=again)


def _encode(built: Built, tokenizer: Tokenizer) -> Counted:
    return counted(_quiet(tokenizer.encode), _images(built.dataset, 1))


def _decode(built: Built, tokenizer: Tokenizer) -> Counted:
    if not isinstance(tokenizer, FlowTokenizer):
        return counted(_quiet(tokenizer.decode), _empty(tokenizer.spec, 1))
    given = _images(built.dataset, 1), torch.empty(1, device="meta"), _empty(tokenizer.spec, 1)
    once = counted(_quiet(tokenizer.velocity), *given, _labels(built.dataset.classes, 1))
    return Counted(once.flops * tokenizer.evaluations, 0)


def _sample(built: Built, model: Generator, guided: bool, options: tuple[tuple[str, Any], ...]) -> Counted:
    """Of one sample; work is taken to be linear in what a sampler iterates."""
    guidance = 2.0 if guided else 1.0
    labels = _labels(built.dataset.classes, 1)
    if labels is None:
        labels = torch.full((1,), -1, device="meta")

    def follow(sampler: dict[str, Any], iterated: list[str]) -> float:
        if not iterated:
            draw = _quiet(lambda y: model.sample(y, guidance, Noise(0), **sampler))
            return counted(draw, labels, calls=CALLS).flops
        name, *rest = iterated
        one, two = (follow(sampler | {name: few}, rest) for few in (1, 2))
        return one + (two - one) * (sampler[name] - 1)

    sampler = dict(options)
    if "iterations" in sampler and sampler["iterations"] is None:  # one token each
        sampler["iterations"] = model.spec.tokens
    try:
        return Counted(round(follow(sampler, [name for name in ITERATED if sampler.get(name)])), 0)
    except TooLong:
        if not isinstance(model, Likelihood):
            raise
    # An autoregressive flow: its inverse, with caches, takes the products of its density, and so does every
    # branch of guidance; a step along a score takes that density and its gradient.
    density = counted(_quiet(model.log_prob), _empty(model.spec, 1), labels).flops
    guided = guided and built.dataset.classes > 0
    scores = 1 if sampler.get("denoise") and getattr(model, "noise_std", 1) else 0
    scores += 2 if guided and sampler.get("score_step") else 0
    return Counted(density * (1 + guided + 3 * scores), 0)


def _features(built: Built, config: Mapping[str, Any]) -> Cost:
    """Vectors on disk; the network isn't built without its weights, so that its operations are unknown."""
    extractor = built.extractor
    assert extractor is not None
    width = {"pooled": extractor.channels, "tokens": extractor.spec.tokens * extractor.spec.channels}
    width |= extractor.widths
    counts, disk = _described(built.dataset, config), None
    asked = {split: kept(split, config.get("outputs", ["pooled", "tokens"])) for split in SPLITS}
    if counts is not None and {*asked["train"], *asked["val"]} <= set(width):
        disk = FLOAT * sum(counts[split] * sum(width[name] for name in asked[split]) for split in SPLITS)
    images = sum(counts[split] for split in SPLITS if asked[split]) if counts else 0
    found = Cost(images=images, flops_per_image=None, disk_bytes=disk, note="not counted: extractors")
    return replace(found, scratch_disk_bytes=_large(disk or 0))


def _reference(built: Built, config: Mapping[str, Any]) -> Cost:
    """As many samples as there are images, as most sources draw."""
    assert built.source is not None
    spec, counts = built.source.spec, _described(built.dataset, config)
    return Cost(
        disk_bytes=None if counts is None else sum(counts.values()) * spec.tokens * spec.channels * FLOAT
    )


def _described(dataset: Dataset, config: Mapping[str, Any]) -> dict[Split, int] | None:
    """Images of each split that features are kept of, or a reference is made of."""
    asked = config.get("images")
    try:
        there = {split: originals(dataset, split) for split in SPLITS}
    except OSError:
        return None
    return there if asked is None else {split: min(asked, count) for split, count in there.items()}


def _large(size: int) -> int:
    """Bytes that don't stay in memory."""
    return size if size >= LARGE else 0


def _sizes(dataset: Dataset) -> tuple[int | None, int | None]:
    """Of both splits; None where the data would have to be there."""

    def size(split: Split) -> int | None:
        try:
            return dataset.size(split)
        except OSError:
            return None

    return size("train"), size("val")


def _why(*found: Counted | str) -> str:
    """The first reason why something isn't counted."""
    return next((one for one in found if isinstance(one, str)), "")


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without autograd."""
    return torch.no_grad()(lambda *arguments: function(*arguments))


def _images(dataset: Dataset, count: int) -> Tensor:
    image = dataset.image
    return torch.empty(count, image.channels, image.height, image.width, device="meta")


def _empty(spec: LatentSpec, count: int) -> Tensor:
    return torch.empty(count, spec.tokens, spec.channels, device="meta")


def _labels(classes: int, count: int) -> Tensor | None:
    return torch.empty(count, dtype=torch.int64, device="meta") if classes else None


@lru_cache(maxsize=256)  # stages of equal rows have the same modules
def _bytes(module: nn.Module) -> int:
    """Of parameters and buffers, shared ones once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
