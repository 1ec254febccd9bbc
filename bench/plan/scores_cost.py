"""The cost of scores: what a subject holds for its evaluators, and what each of them takes beside it."""

from __future__ import annotations

from ..metrics import frechet, kernel
from ..models import build
from ..store.stage import Stage
from .cost import Cost
from .counts import FLOAT, Counts, size_of, total_bytes
from .plan import Built
from .subject_sizes import PlannedSizes

NOTE = "not counted: what evaluators compute"


def scores_cost(counts: Counts, stage: Stage) -> Cost:
    """The memory of a scores stage, and the operations of the evaluators that can say theirs."""
    built = _built(counts, stage)
    if built is None:
        return Cost(flops_per_image=None, note=NOTE)
    extractors = tuple(
        counts.once(("extractor", repr(config)), lambda: build.extractor(config))  # noqa: B023
        for config in stage.config["extractors"]
    )
    sizes, taken, flops = PlannedSizes(counts, stage, built, extractors), dict[str, int](), dict[str, int]()
    for config in stage.config["evaluators"]:
        evaluator = counts.once(("evaluator", repr(config)), lambda: build.evaluator(config))  # noqa: B023
        try:
            taken[config["name"]] = evaluator.memory_bytes(sizes)
            flops[config["name"]] = evaluator.flops(sizes)
        except OSError:  # sizes of a set whose files aren't here
            return Cost(flops_per_image=None, note=NOTE)
    encoder = 0 if sizes.tokenizer is None else sizes.tokenizer.memory_bytes()
    most = max(taken, key=lambda name: taken[name], default="")
    counted = sorted(name for name in flops if flops[name])
    return Cost(
        images=1,
        flops_per_image=sum(flops.values()) if counted else None,
        partial=True,
        weights_memory_bytes=total_bytes(sizes.tokenizer, sizes.regularizer, sizes.generator) + encoder,
        set_memory_bytes=sum(sizes.held.values()) + built.dataset.memory_bytes(),
        passing_memory_bytes=max(sizes.passing, taken.get(most, 0)),
        note=f"counted: {', '.join(counted)}; not the other evaluators and extractors" if counted else NOTE,
        memory_advice=f"the evaluator {most} takes most: fewer images or samples, or its options, take less",
    )


def guidance_cost(counts: Counts, stage: Stage) -> Cost:
    """The memory of choosing a guidance: the features of a guidance's samples, and their distance."""
    built = counts.plan.built[stage.parents["features"]]
    extractor, train = built.extractor, size_of(built.dataset, "train")
    if extractor is None or train is None:
        return Cost(flops_per_image=None, note=NOTE)
    n, width = stage.config["samples"], extractor.channels
    if extractor.cmmd:
        distance = kernel.memory_bytes(n, min(train, kernel.PAIRS), width, double=True)
    else:
        distance = frechet.memory_bytes(n, train, width)
    return Cost(
        flops_per_image=None,
        # The extractor stays, as does what its passes took of the heap.
        set_memory_bytes=2 * FLOAT * n * width + extractor.memory_bytes(),
        passing_memory_bytes=distance,
        note=NOTE,
        memory_advice="fewer samples of the sweep take less",
    )


def _built(counts: Counts, stage: Stage) -> Built | None:
    """The parts that samples were drawn by, else the tokenizer's, else those of any parent."""
    for role in ("samples", "tokenizer", *stage.parents):
        if role in stage.parents and stage.parents[role] in counts.plan.built:
            return counts.plan.built[stage.parents[role]]
    return None
