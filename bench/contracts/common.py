"""What checks of parts share: the part in question, a promise that is broken, small batches and losses."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .. import registry
from ..api import Dataset, ImageSpec, LatentSpec, Split, Tokenizer
from ..options.options import REQUIRED, options_of

BATCH, CLASSES = 6, 10
TIMED = 64  # rows of a batch whose step is timed, as in the README's table
SECONDS = 4.0  # and for how long, at the most
IMAGES = [ImageSpec(1, 8, 8), ImageSpec(3, 32, 32), ImageSpec(1, 1, 2)]  # the last: of sets of points
SPECS = [LatentSpec(16, 8, (4, 4)), LatentSpec(6, 4)]  # the first: of `vit` on digits


class Broken(Exception):
    """A promise that a part doesn't keep: why, and what to do."""


class Beside(Exception):
    """A promise that doesn't concern a part: why."""


class Absent(Broken):
    """Data or weights that aren't on this machine."""

    def __init__(self, part: Any) -> None:
        name = type(part).__name__
        super().__init__(f"its data or weights are not on this machine (fingerprint() of {name} is None)")


@dataclass(frozen=True)
class Part:
    """A registered part with its options, as a constructor takes them."""

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> Any:
        return registry.get(self.kind, self.name)

    def make(self, seed: int | None = None, **facts: Any) -> Any:
        """A new one, with those of the facts that its constructor names; a fact that is an option wins.

        With a seed, torch's global generator is set to it before.
        """
        if seed is not None:
            torch.manual_seed(seed)
        options = {name: value for name, value in self.options.items() if name not in facts}
        return registry.build(self.kind, self.name, facts, options)


def require(kept: Any, otherwise: str) -> None:
    """Raises `Broken` unless the promise is kept."""
    if not kept:
        raise Broken(otherwise)


def documented(scene: Any) -> str:
    """It is documented, with annotations and defaults"""
    cls = scene.part.cls
    require(
        vars(cls).get("__doc__"), f"{cls.__name__} has no docstring; its first line is shown by bench list"
    )
    options = options_of(cls)
    for name, option in options.items():
        require(option.default is not REQUIRED, f"the option {name!r} has no default")
    for base in cls.__mro__[:-1]:
        bare = [n for n in _bare(base) if n in options]
        require(
            not bare, f"the option {bare[:1]} has no annotation, from which a matrix knows what it may be"
        )
    return f"options: {', '.join(options)}" if options else "no options"


def _bare(cls: type) -> list[str]:
    if "__init__" not in vars(cls):
        return []
    parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
    wild = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.annotation is p.empty and p.kind not in wild]


def versioned(scene: Any) -> str:
    """It has a version"""
    version = scene.part.cls.version
    good = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    require(good, f"version is {version!r}; it must be an integer >= 1, raised when numbers change")
    return str(version)


# --- values -------------------------------------------------------------------------------------------------


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand_images(spec: ImageSpec, n: int = BATCH, seed: int = 0) -> Tensor:
    return randn(n, spec.channels, spec.height, spec.width, seed=seed).tanh()


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, in tensors and in what holds them."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """To rounding."""
    return torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def whatever_the_seed(compute: Callable[[], Any]) -> bool:
    """Whether a value is the same, bit for bit, under two seeds of torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(compute())
    return equal(*found)


GLOBAL = (
    "it changes with torch's global generator; draw from the Noise it is given: noise.normal(like), "
    "noise.uniform(like)"
)


class Kept:
    """Inputs of a call, to be looked at again after it."""

    def __init__(self, **inputs: Tensor | None) -> None:
        self.inputs = {name: x for name, x in inputs.items() if x is not None}
        self.before = {name: x.detach().clone() for name, x in self.inputs.items()}

    def require(self) -> None:
        changed = [name for name, x in self.inputs.items() if not torch.equal(x.detach(), self.before[name])]
        names = " and ".join(changed)
        require(not changed, f"it changes {names} in place, which others use after it; write to a copy")


# --- modules ------------------------------------------------------------------------------------------------


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def descend(
    loss: Callable[[int], Tensor], parameters: Mapping[str, nn.Parameter], steps: int = 3
) -> set[str]:
    """A few steps of Adam on loss(step); the names of parameters that never had a gradient.

    More than one step, as layers that start at zero hide what is before them from the first.
    """
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    seen: set[str] = set()
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        require(
            value.dim() == 0 and value.isfinite(), f"the loss at step {step} is {value}, no finite scalar"
        )
        value.backward()
        seen |= {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    return set(parameters) - seen


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def require_moved(module: nn.Module, before: Mapping[str, Tensor], unseen: set[str], meant: set[str]) -> None:
    """That training has moved these parameters and no others."""
    require(
        not unseen, f"{_few(unseen)} never got a gradient: use it in the loss, or set requires_grad=False"
    )
    wrong = moved(module, before) ^ meant
    require(not wrong, f"{_few(wrong)} moved, or stayed, against what requires_grad and critics() say")


def _few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def reload(module: nn.Module, other: nn.Module) -> Any:
    """`other` with the state of `module`, by way of a safetensors file's bytes."""
    state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    return other.eval()


LOST = "a reloaded copy gives something else: what it computes with must be a parameter or a buffer"


def require_same_shapes(real: nn.Module, meta: nn.Module) -> None:
    there = [name for name, value in meta.state_dict().items() if not value.is_meta]
    why = "is made outside the default device; plans build under torch.device('meta')"
    require(not there, f"{there[:1]} {why}")
    shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (real, meta)]
    require(shapes[0] == shapes[1], "its parameters have other names or shapes when it is built on meta")


def paced(*steps: Callable[[], Any]) -> list[float]:
    """Median seconds of each, in turns, so that a busy machine slows all alike."""
    taken: list[list[float]] = []
    until = time.perf_counter() + SECONDS
    while len(taken) < 2 or (len(taken) < 10 and time.perf_counter() < until):
        taken.append([])
        for step in steps:
            began = time.perf_counter()
            step()
            taken[-1].append(time.perf_counter() - began)
    return [median(times) for times in zip(*taken[1:], strict=True)]  # the first round also allocates


def ratio(seconds: list[float], other: str) -> str:
    """Seconds beside those of another part, measured in the same run."""
    mine, others = seconds
    return f"{1000 * mine:.3g} ms, {times(mine, others)} x {other}'s"


def times(mine: float, others: float) -> str:
    """How many times as much, without an exponent."""
    return f"{mine / others:.0f}" if mine > 10 * others else f"{mine / others:.1f}"


# --- options ------------------------------------------------------------------------------------------------


def alternatives(part: Part) -> Iterator[tuple[str, Part]]:
    """The part with one option changed, for each whose other values can be guessed from its annotation."""
    for name, option in options_of(part.cls).items():
        value = part.options.get(name, option.default)
        guesses: list[Any] = []
        if isinstance(value, bool):
            guesses = [not value]
        elif isinstance(value, int | float):
            guesses = [value + 1, 2 * value, value / 2]
        for guess in guesses:
            if guess != value and option.accepts(guess):
                yield name, Part(part.kind, part.name, {**part.options, name: option.read(guess)})
                break


# --- a dataset and a tokenizer ------------------------------------------------------------------------------


class Sheet(Dataset):
    """Labelled noise, smooth enough to be learned."""

    classes = CLASSES

    def __init__(self, image: ImageSpec = IMAGES[0], train: int = 64, val: int = 32) -> None:
        self.image, self.sizes = image, {"train": train, "val": val}

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def images(self, split: Split, index: Tensor) -> Tensor:
        return rand_images(self.image, self.sizes[split], seed=len(split))[index]

    def labels(self, split: Split) -> Tensor:
        return torch.arange(self.sizes[split]) % CLASSES


class Plain(Tokenizer):
    """A linear autoencoder into any spec."""

    def __init__(self, image: ImageSpec, expansion: int, spec: LatentSpec) -> None:
        super().__init__(image, expansion)
        self.spec = spec
        pixels = image.channels * image.height * image.width
        shape = (image.channels, image.height, image.width)
        self.decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(spec.tokens * spec.channels, pixels), nn.Unflatten(1, shape)
        )
        wide = (spec.tokens, spec.channels * expansion)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, wide[0] * wide[1]), nn.Unflatten(1, wide)
        )

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return {name: getattr(self, name)[1].weight for name in ("encoder", "decoder")}
