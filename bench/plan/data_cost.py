"""The cost of stages that prepare or draw data: features, references, latents and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..api import Dataset, FlowTokenizer, LatentSpec, Regularizer, Split
from ..data.subset import originals
from ..models.latents import CHUNK, DRAWS, STATISTICS
from ..runtime.mapped import LARGE, ROUND
from ..stages.inputs import SPLITS, stored_outputs
from ..store.stage import Stage
from . import dry_run
from .cost import Cost
from .counts import FLOAT, Counts, method_key, parameters, reason, size_of, total_bytes
from .plan import Built


def features_cost(built: Built, config: Mapping[str, Any]) -> Cost:
    """The space of features; operations are unknown, as networks aren't built without their weights."""
    extractor, image = built.extractor, built.dataset.image
    assert extractor is not None
    width = {"pooled": extractor.channels, "tokens": extractor.spec.tokens * extractor.spec.channels}
    width |= extractor.widths
    images, disk, held, chunk = _images_read(built.dataset, config), None, 0, 0
    outputs = {split: stored_outputs(split, config.get("outputs", ["pooled", "tokens"])) for split in SPLITS}
    if images is not None and {*outputs["train"], *outputs["val"]} <= set(width):
        sizes = [FLOAT * images[split] * width[name] for split in SPLITS for name in outputs[split]]
        disk, held = sum(sizes), sum(map(in_memory, sizes))
        of_image = sum(width[name] for name in outputs["train"])
        chunk = FLOAT * min(images["train"], ROUND * CHUNK) * of_image
    pixels = FLOAT * CHUNK * image.channels * image.height * image.width
    return Cost(
        images=sum(images[split] for split in SPLITS if outputs[split]) if images else 0,
        flops_per_image=None,
        temporary_memory_bytes=extractor.memory_bytes() + pixels,
        set_memory_bytes=held + built.dataset.memory_bytes(),
        passing_memory_bytes=chunk,  # before these rows are where all rows are
        disk_bytes=disk,
        scratch_disk_bytes=_on_disk(disk or 0),
        note="not counted: extractors",
        memory_advice="an extractor of a lower resolution takes less",
    )


def reference_cost(built: Built, config: Mapping[str, Any]) -> Cost:
    """The space of a reference's samples."""
    assert built.source is not None
    spec, images = built.source.spec, _images_read(built.dataset, config)
    if images is None:
        return Cost(disk_bytes=None)
    drawn = sum(built.source.counts(images, built.dataset.classes).values())
    return Cost(
        set_memory_bytes=built.source.memory_bytes(images, built.dataset.classes)
        + built.dataset.memory_bytes(),
        disk_bytes=drawn * spec.tokens * spec.channels * FLOAT,
        memory_advice="a reference of fewer images takes less (`images: N`)",
    )


def mapped_reference(
    counts: Counts, stage: str, latent: LatentSpec, regularizer: Regularizer | None, method: str
) -> tuple[int, int]:
    """Bytes of a reference's samples of both splits in a latent's space, and of making them at its peak.

    Args:
        stage: the id of the reference's stage.
        regularizer: maps the samples; None: as for metrics.
        method: a key of the regularizer.
    """
    built, config = counts.plan.built[stage], counts.plan.stages[stage].config
    images = _images_read(built.dataset, config)
    if images is None or built.source is None:
        return 0, 0
    spec, drawn = built.source.spec, built.source.counts(images, built.dataset.classes)
    labelled = built.source.labelled and built.dataset.classes > 0
    lasting, making = counts.mapped(regularizer, method, latent, spec, drawn, labelled)
    joined = in_memory(FLOAT * sum(drawn.values()) * spec.tokens * spec.channels)
    return (lasting or joined), joined + making


def _images_read(dataset: Dataset, config: Mapping[str, Any]) -> dict[Split, int] | None:
    """The number of images of each split that features or a reference are made of; None if unknown."""
    try:
        counts = {split: originals(dataset, split) for split in SPLITS}
    except OSError:
        return None
    if "images" not in config:
        return counts
    return {split: min(config["images"], count) for split, count in counts.items()}


def in_memory(size: int) -> int:
    """The bytes of a tensor that stay in memory: 0 for a large one, which is in a mapped file."""
    return size if size < LARGE else 0


def _on_disk(size: int) -> int:
    """The size of a temporary file in bytes: 0 for tensors that stay in memory."""
    return size if size >= LARGE else 0


def latents_cost(counts: Counts, built: Built, stage: Stage) -> Cost:
    """The cost of encoding both splits and of the check that decodes the held-out split twice.

    Of a decoder that follows a flow the check takes two evaluations an image, and the previews' images
    are decoded as a whole.
    """
    tokenizer, regularizer = built.tokenizer, built.regularizer
    assert tokenizer is not None and regularizer is not None
    weights, total = total_bytes(tokenizer, regularizer), parameters(tokenizer, regularizer)
    train, val = (size_of(built.dataset, split) for split in SPLITS)
    if train is None or val is None:
        note = "how many images there are isn't known without the data"
        return Cost(0, total, 0, None, weights, disk_bytes=None, note=note)
    images, latent = train + val, tokenizer.spec.tokens * tokenizer.spec.channels * FLOAT
    encoding = tokenizer.spec.tokens * regularizer.encoder_outputs * FLOAT  # bytes of an image's
    disk = images * encoding
    coupled = regularizer.couples == "latent"
    if coupled:
        disk += DRAWS * train * latent
    encoded, decoded = counts.encode(built), counts.decode(built) if tokenizer.decodes else 0
    per_image, note = None, reason(encoded, decoded)
    if not isinstance(encoded, str) and not isinstance(decoded, str):
        decodings = 2.0 * val
        if isinstance(tokenizer, FlowTokenizer):
            decodings = decodings / tokenizer.evaluations + min(val, CHUNK)
        per_image = encoded + decoded * decodings / images
    # While the stage runs there are also the latents whose statistics are computed.
    scratch = _on_disk(disk if coupled else disk + train * latent)
    draws = (DRAWS if coupled else 1) * train * latent
    config = counts.plan.stages[stage.parents["tokenizer"]].config
    # The held-out latents are never in a file.
    held = sum(in_memory(size) for size in (train * encoding, val * encoding, draws)) + val * latent
    chunk = min(ROUND * CHUNK, train) * encoding
    largest = max(
        counts.encoding(built, min(CHUNK, train)),
        counts.drawing(built, method_key(config), config["batch"] if coupled else min(CHUNK, train)),
        counts.decoding(built, min(CHUNK, val)),
    )
    return Cost(
        parameters_total=total,
        images=images,
        flops_per_image=per_image,
        weights_memory_bytes=weights,
        temporary_memory_bytes=largest.peak + tokenizer.memory_bytes(),
        gap_memory_bytes=largest.gaps,
        set_memory_bytes=held + built.dataset.memory_bytes(),
        passing_memory_bytes=max(chunk, 2 * 8 * min(STATISTICS, train * latent // FLOAT)),
        disk_bytes=disk,
        scratch_disk_bytes=scratch,
        note=note,
    )


def samples_cost(counts: Counts, built: Built, config: Mapping[str, Any]) -> Cost:
    """The cost of drawing latents by a generator, and of decoding them."""
    generator, tokenizer, dataset = built.generator, built.tokenizer, built.dataset
    assert generator is not None and tokenizer is not None
    guided, sampler, weak = config["guidance"] != 1, config["sampler"], built.weak
    on_cpu = config["env"]["device"] == "cpu"
    drawn = counts.count(
        ("sample", generator, weak, guided, repr(sorted(sampler.items()))),
        lambda: dry_run.sample(generator, dataset.classes, guided, sampler, weak),
    )
    decoded = counts.decode(built)
    image, count = dataset.image, config["samples"]
    pixels, latent = (
        image.channels * image.height * image.width,
        tokenizer.spec.tokens * tokenizer.spec.channels,
    )
    disk = count * (pixels + 8)  # 8 bits a value, and a label
    chunk = min(CHUNK, count)
    passes = (
        counts.sampling(generator, dataset.classes, guided, sampler, chunk, weak, on_cpu),
        # Decoded images, scaled to 256 levels.
        counts.decoding(built, chunk) + 2 * FLOAT * chunk * pixels,
    )
    return Cost(
        parameters_total=parameters(generator, tokenizer.decoder) + (parameters(weak) if weak else 0),
        images=count,
        flops_per_image=None if isinstance(drawn, str) or isinstance(decoded, str) else drawn + decoded,
        weights_memory_bytes=total_bytes(generator, tokenizer, weak),
        temporary_memory_bytes=max(one.peak for one in passes),
        gap_memory_bytes=sum(one.gaps for one in passes),  # a heap keeps those of a pass for the next one
        set_memory_bytes=in_memory(FLOAT * count * latent) + in_memory(disk) + dataset.memory_bytes(),
        passing_memory_bytes=2 * FLOAT * count * latent,  # whether all are finite
        disk_bytes=disk,
        scratch_disk_bytes=_on_disk(disk),
        note=reason(drawn, decoded),
    )
