"""Operations and memory of networks, each counted once for all stages that share the modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from torch import nn

from ..api import Dataset, Generator, LatentSpec, Reference, Regularizer, Split
from ..models import activations, flops
from ..models.activations import StepCost
from ..models.flops import TooLong
from . import dry_run, passes
from .passes import PassMemory
from .plan import Built, Plan

T = TypeVar("T")

FLOAT = 4  # bytes

parameters = lru_cache(maxsize=256)(flops.parameters)  # stages of equal rows have the same modules
bytes_of = activations.bytes_of


class Counts:
    """Counts of a plan's modules, each made once: equal rows share modules.

    Numbers are texts, the reasons, where modules cannot be counted; memory is then 0.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._found: dict[tuple[Any, ...], Any] = {}

    def encode(self, built: Built) -> int | str:
        """Operations of encoding an image."""
        tokenizer, image = built.tokenizer, built.dataset.image
        assert tokenizer is not None
        return self.count(("encode", tokenizer), lambda: dry_run.encode(tokenizer, image))

    def decode(self, built: Built) -> int | str:
        """Operations of decoding a latent."""
        tokenizer, dataset = built.tokenizer, built.dataset
        assert tokenizer is not None
        return self.count(
            ("decode", tokenizer), lambda: dry_run.decode(tokenizer, dataset.image, dataset.classes)
        )

    def encoding(self, built: Built, images: int) -> PassMemory:
        """The memory that encoding so many images at a time takes."""
        tokenizer, image = built.tokenizer, built.dataset.image
        assert tokenizer is not None
        key = ("encoding", tokenizer, images)
        return self.passing(key, lambda: passes.encoding(tokenizer, image, images))

    def decoding(self, built: Built, latents: int) -> PassMemory:
        """The memory that decoding so many latents at a time takes."""
        tokenizer, dataset = built.tokenizer, built.dataset
        assert tokenizer is not None
        if not tokenizer.decodes:
            return PassMemory()
        key = ("decoding", tokenizer, latents)
        return self.passing(key, lambda: passes.decoding(tokenizer, dataset.image, dataset.classes, latents))

    def drawing(self, built: Built, method: str, latents: int) -> PassMemory:
        """The memory that drawing so many latents at a time takes, by `cost_key` of a regularizer."""
        tokenizer, regularizer = built.tokenizer, built.regularizer
        assert tokenizer is not None and regularizer is not None
        spec, classes = tokenizer.spec, built.dataset.classes
        key = ("drawing", spec, method, latents)
        return self.passing(key, lambda: passes.drawing(regularizer, spec, classes, latents))

    def sampling(
        self,
        generator: Generator,
        classes: int,
        guided: bool,
        options: Mapping[str, Any],
        count: int,
        weak: Generator | None = None,
        on_cpu: bool = True,
    ) -> PassMemory:
        """The memory that sampling so many latents at a time takes; `weak` is the model that guides it."""
        key = ("sampling", generator, weak, guided, repr(sorted(options.items())), count, on_cpu)
        return self.passing(
            key, lambda: passes.sampling(generator, classes, guided, options, count, weak, on_cpu)
        )

    def mapped(
        self,
        regularizer: Regularizer | None,
        method: str,
        latent: LatentSpec,
        spec: LatentSpec,
        counts: Mapping[Split, int],
        labelled: bool,
    ) -> tuple[int, int]:
        """Bytes of a reference in a latent's space: of its samples, and of making them.

        Without a regularizer, it is mapped as for metrics.
        """

        def map(reference: Reference) -> Reference:
            return reference.projected(latent) if regularizer is None else regularizer.reference(reference)

        key = ("mapping", regularizer is None or method, latent, spec, tuple(counts.values()), labelled)
        found = self.count(key, lambda: passes.mapping(map, spec, counts, labelled))
        return (0, 0) if isinstance(found, str) else found

    def passing(self, key: tuple[Any, ...], count: Callable[[], PassMemory]) -> PassMemory:
        """The memory that `count` finds, or none where modules cannot be counted."""
        found = self.count(key, count)
        return PassMemory() if isinstance(found, str) else found

    def memory(self, key: tuple[Any, ...], count: Callable[[], int]) -> int:
        """The bytes that `count` finds, or 0 where modules cannot be counted."""
        found = self.count(key, count)
        return 0 if isinstance(found, str) else found

    def count(self, key: tuple[Any, ...], count: Callable[[], T]) -> T | str:
        """The result of `count`, called once for each key, or the reason why modules cannot be counted."""

        def attempt() -> T | str:
            try:
                return count()
            except TooLong:
                return "not counted: too long a sampler"
            except Exception as error:  # a plugin may fail in any way on tensors that have no values
                message = str(error).partition("\n")[0]  # torch's C++ frames follow
                return f"not counted without values: {type(error).__name__}: {message}"

        return self.once(key, attempt)

    def once(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """The value of `compute`, called once for each key."""
        if key not in self._found:
            self._found[key] = compute()
        return self._found[key]


def total_bytes(*modules: nn.Module | None) -> int:
    """Size of the parameters and buffers of modules that share none."""
    return sum(bytes_of(module) for module in modules if module is not None)


def reason(*counts: StepCost | int | str) -> str:
    """The first reason why something isn't counted, or ""."""
    return next((count for count in counts if isinstance(count, str)), "")


def cost_key(options: Any) -> str:
    """A key that is equal for rows of equal cost: float options count only as 0, 1 or another number."""

    def coarse(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: coarse(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [coarse(item) for item in value]
        return (value == 0, value == 1) if isinstance(value, float) else value

    return repr(coarse(options))


def method_key(config: Mapping[str, Any]) -> str:
    """A key that is equal for stages whose regularizers are of equal cost, from the stage's config."""
    return cost_key([config["regularizer"], config["facts"]])


def size_of(dataset: Dataset, split: Split) -> int | None:
    """The number of images of a split; None if it isn't known without the data."""
    try:
        return dataset.size(split)
    except OSError:
        return None
