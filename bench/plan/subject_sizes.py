"""The sizes of a cell in a plan, and how much memory holds what evaluators ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..api import FeatureExtractor, Flow, Generator, LatentSpec, Of, Regularizer, Split, SubjectSizes
from ..data.subset import originals
from ..models.activations import forward_memory
from ..models.flops import forward_flops
from ..models.latents import CHUNK
from ..options.options import options_of
from ..stages.inputs import UNREAD
from ..store.stage import Stage
from .counts import FLOAT, Counts, method_key, size_of
from .data_cost import in_memory, mapped_reference
from .plan import Built


class PlannedSizes(SubjectSizes):
    """The sizes of the subject of a scores stage; `held` and `passing` grow with what is asked for."""

    def __init__(
        self, counts: Counts, stage: Stage, built: Built, extractors: tuple[FeatureExtractor, ...]
    ) -> None:
        """
        Args:
            built: what samples are drawn by or, without samples, the tokenizer's; of the held-out row, any.
        """
        config, parents, dataset = stage.config, stage.parents, built.dataset
        self.counts, self.stage, self.built, self.dataset = counts, stage, built, dataset
        self.scope, self.real, self.extractors = config["scope"], "tokenizer" not in parents, extractors
        self.image, self.classes = dataset.image, dataset.classes
        self.train, self.val = (size_of(dataset, split) or 0 for split in ("train", "val"))
        self.tokenizer = self.regularizer = self.generator = self.latent_batch = None
        self.samples = 0
        if self.real:
            self.samples = min(config.get("samples") or self.val, self.val)
        else:
            self.tokenizer, self.regularizer = built.tokenizer, built.regularizer
            self.latent_batch = config.get("couples")
            self.training = counts.plan.stages[parents["tokenizer"]].config
            if self.regularizer is not None and self.regularizer.couples == "latent":
                self.latent_batch = self.training["batch"]
        if "samples" in parents:
            self.samples = counts.plan.stages[parents["samples"]].config["samples"]
            self.generator = built.generator
        self.decodes = self.real or self.tokenizer is None or self.tokenizer.decodes
        self.held: dict[tuple[Any, ...], int] = {}  # bytes of each set
        self.passing = 0  # bytes that making the largest of them takes

    def images(self, split: Split) -> int:
        n = self.train if split == "train" else self.val
        self._hold(("images", split), n * self._pixels)
        return n

    def reconstructions(self, deterministic: bool = False) -> int:
        self.latents("val", deterministic)
        stochastic = deterministic and self._stochastic
        self._hold(("reconstructions", stochastic), self.val * self._pixels)
        self._pass(self.decoding(min(CHUNK, self.val)) + 2 * FLOAT * CHUNK * self._pixels)
        return self.val

    def latents(self, split: Split, deterministic: bool = False) -> tuple[int, int, int]:
        n, spec = self.train if split == "train" else self.val, self._spec
        self._hold(("latents", split, deterministic), n * spec.tokens * spec.channels * FLOAT)
        self._pass(self.drawing(self.latent_batch or min(CHUNK, n)))
        return n, spec.tokens, spec.channels

    def features(
        self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None
    ) -> tuple[int, int]:
        extractor = extractor or self.extractors[0]
        place, n = self.extractors.index(extractor), self._images_of(of)
        width = self._width(extractor, output)
        if of in ("train", "val") and (of, output) not in UNREAD:
            return n, width  # in a mapped file
        if of == "reconstructions" or (of == "samples" and self.real):
            self.reconstructions() if of == "reconstructions" else self.images("val")
        outputs = [name for name in extractor.outputs if name != "tokens"] if of == "samples" else [output]
        size = FLOAT * n * sum(self._width(extractor, name) for name in outputs)
        self._hold(("features", of, place, *outputs), size)
        self._hold(("network", place), extractor.memory_bytes())
        self._pass(size + FLOAT * CHUNK * self._pixels)  # all chunks are put together
        return n, width

    def reference(self, split: Split, own: bool = False) -> tuple[int, int, int]:
        own = own and self._may_differ
        parent = self.stage.parents.get("own_reference" if own else "", self.stage.parents["reference"])
        spec, mapping = self._spec, self.regularizer if own else None
        method = method_key(self.training) if own else ""
        lasting, making = mapped_reference(self.counts, parent, spec, mapping, method)
        self._hold(("reference", own), lasting)
        self._pass(making - lasting)
        source = self.counts.plan.built[parent].source
        assert source is not None
        images: dict[Split, int] = {"train": self._images_of("train"), "val": self._images_of("val")}
        few = _few(images, self.counts.plan.stages[parent].config)
        drawn = source.counts(few, self.classes)
        tokens = min(source.spec.tokens, spec.tokens)
        return drawn[split], tokens, spec.channels

    @property
    def own_reference(self) -> bool:
        if self._may_differ:
            self.reference("train"), self.reference("train", own=True)
        return self._may_differ

    @property
    def reads_reference(self) -> bool:
        return "reference" in self.counts.plan.stages[self.stage.parents["tokenizer"]].parents

    def encoding(self, images: int) -> int:
        return self.counts.encoding(self.built, images).on_cpu if self.tokenizer is not None else 0

    def decoding(self, latents: int) -> int:
        return self.counts.decoding(self.built, latents).on_cpu if self.tokenizer is not None else 0

    def drawing(self, latents: int) -> int:
        if self.regularizer is None:
            return 0
        return self.counts.drawing(self.built, method_key(self.training), latents).on_cpu

    def classifying(self, latents: int) -> int:
        """Bytes that the regularizer's classification of so many latents takes."""
        regularizer, spec = self.regularizer, self._spec
        assert regularizer is not None
        key = ("classifying", spec, method_key(self.training), latents)
        z = torch.empty(latents, spec.tokens, spec.channels, device="meta")
        return self.counts.memory(key, lambda: forward_memory(regularizer.classify, z))

    def sampling(self, prior: Generator, latents: int) -> int:
        part: Callable[..., Any] = type(prior)
        options = {o.name: o.default for o in options_of(part, method="sample").values()}
        return self.counts.sampling(prior, prior.classes, prior.classes > 0, options, latents).on_cpu

    def decoding_flops(self) -> int:
        return 0 if self.tokenizer is None else _number(self.counts.decode(self.built))

    def velocity_flops(self) -> int:
        generator = self.generator
        if not isinstance(generator, Flow):
            return 0
        spec = generator.spec
        x, t = torch.empty(1, spec.tokens, spec.channels, device="meta"), torch.empty(1, device="meta")
        labels = torch.zeros(1, dtype=torch.int64, device="meta") if generator.classes else None
        key = ("velocity", generator)
        return _number(self.counts.count(key, lambda: forward_flops(generator.velocity, x, t, labels)))

    @property
    def _spec(self) -> LatentSpec:
        assert self.tokenizer is not None
        return self.tokenizer.spec

    @property
    def _pixels(self) -> int:
        return self.image.channels * self.image.height * self.image.width

    @property
    def _stochastic(self) -> bool:
        """Whether latents are known to be drawn with noise: the class has a map of its own."""
        return (
            self.regularizer is not None
            and type(self.regularizer.underlying).latent is not Regularizer.latent
        )

    @property
    def _may_differ(self) -> bool:
        method = self.regularizer
        maps = method is not None and type(method.underlying).reference is not Regularizer.reference
        return maps or "own_reference" in self.stage.parents

    def _images_of(self, of: Of) -> int:
        if of == "samples":
            return self.samples
        if of == "reconstructions":
            return self.val
        return originals(self.dataset, of)

    def _width(self, extractor: FeatureExtractor, output: str) -> int:
        if output == "pooled":
            return extractor.channels
        if output == "tokens":
            return extractor.spec.tokens * extractor.spec.channels
        return extractor.widths.get(output, 0)

    def _hold(self, key: tuple[Any, ...], size: int) -> None:
        self.held[key] = in_memory(size)

    def _pass(self, size: int) -> None:
        self.passing = max(self.passing, size)


def _number(count: int | str) -> int:
    """A count, or 0 in place of the reason why there is none."""
    return 0 if isinstance(count, str) else count


def _few(images: Mapping[Split, int], config: Mapping[str, Any]) -> dict[Split, int]:
    most = config.get("images")
    return {split: n if most is None else min(n, most) for split, n in images.items()}
