"""Helpers of the contract checks: the checked part, errors for broken promises, inputs, training."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .. import registry
from ..api import Dataset, ImageSpec, LatentSpec, Noise, Split, Step, Tokenizer
from ..options.options import REQUIRED, options_of
from ..options.words import listed

BATCH, CLASSES = 6, 10
SPLITS: tuple[Split, ...] = ("train", "val")
TIMED = 64  # batch size of timed steps, as in the table of docs/methods.md
SECONDS = 4.0  # longest time for measuring a step
IMAGES = [ImageSpec(1, 8, 8), ImageSpec(3, 32, 32), ImageSpec(1, 1, 2)]  # the last is that of point sets
SPECS = [LatentSpec(16, 8, (4, 4)), LatentSpec(6, 4)]  # the first is that of `vit` on digits


class BrokenPromise(Exception):
    """Raised if a part breaks a promise; the message says why, and what to do."""


class NotApplicable(Exception):
    """Raised if a promise doesn't apply to a part; the message says why."""


class MissingData(BrokenPromise):
    """Raised if a part's data or weights aren't on this machine."""

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
        """A new instance, with the facts that its constructor names.

        A fact overrides the option of the same name. With a seed, torch's global generator is seeded first.
        """
        if seed is not None:
            torch.manual_seed(seed)
        options = {name: value for name, value in self.options.items() if name not in facts}
        return registry.build(self.kind, self.name, facts, options)


def require(kept: Any, otherwise: str) -> None:
    """Raises `BrokenPromise` with the message `otherwise` unless the promise is kept."""
    if not kept:
        raise BrokenPromise(otherwise)


def require_sha256(fingerprint: str | None) -> None:
    good = re.fullmatch(r"[0-9a-f]{64}", str(fingerprint))
    require(good, f"the fingerprint {fingerprint!r} is no sha256 in hex")


def require_grid(spec: LatentSpec) -> None:
    fits = spec.grid is None or spec.grid[0] * spec.grid[1] == spec.tokens
    require(fits, f"the grid {spec.grid} doesn't have {spec.tokens} tokens")


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
        bare = [name for name in _unannotated(base) if name in options]
        require(not bare, f"the option {bare[:1]} has no annotation, which says what a matrix may set it to")
    return f"options: {', '.join(options)}" if options else "no options"


def _unannotated(cls: type) -> list[str]:
    """The constructor's parameters without an annotation, except *args and **kwargs."""
    if "__init__" not in vars(cls):
        return []
    parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.annotation is p.empty and p.kind not in variadic]


def versioned(scene: Any) -> str:
    """It has a version"""
    version = scene.part.cls.version
    good = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    require(good, f"version is {version!r}; it must be an integer >= 1, raised when numbers change")
    return str(version)


# --- values -------------------------------------------------------------------------------------------------


def randn(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Standard normal values, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def rand_images(spec: ImageSpec, n: int = BATCH, seed: int = 0, device: str = "cpu") -> Tensor:
    return randn(n, spec.channels, spec.height, spec.width, seed=seed).tanh().to(device)


def row(step: Step, i: int) -> Step:
    """The step of process i of BATCH processes, with row i of the batch."""

    def take(x: Tensor | None) -> Any:
        return None if x is None else x[i : i + 1]

    return replace(
        step,
        images=take(step.images),
        labels=take(step.labels),
        noise=Noise(step.noise.seed, step.noise.stream, i, BATCH),
        features=take(step.features),
        reference=take(step.reference),
        views=take(step.views),
    )


def equal(a: Any, b: Any) -> bool:
    """Whether two values are equal bit for bit, including tensors in lists and dicts."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors are equal up to rounding."""
    return torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def whatever_the_seed(compute: Callable[[], Any]) -> bool:
    """Whether a value is the same, bit for bit, under two seeds of torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        values = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            values.append(compute())
    return equal(*values)


GLOBAL = (
    "it changes with torch's global generator; draw from the Noise it is given: noise.normal(like), "
    "noise.uniform(like)"
)


class InputGuard:
    """Keeps copies of a call's inputs, to check that the call doesn't change them in place."""

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
    loss: Callable[[int], Tensor], parameters: Mapping[str, nn.Parameter], steps: int = 4
) -> set[str]:
    """Takes a few steps of Adam on loss(step); returns the names of parameters that never had a gradient.

    More than one step, as a layer that starts at zero gives the layers before it no gradient in the first.
    Four pass three such layers: a transformer's gates, and a head's modulation and output.
    """
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    seen: set[str] = set()
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        good = value.dim() == 0 and value.isfinite()
        require(good, f"the loss at step {step} is {value}, no finite scalar")
        value.backward()
        seen |= {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    return set(parameters) - seen


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def require_moved(module: nn.Module, before: Mapping[str, Tensor], unseen: set[str], meant: set[str]) -> None:
    """Requires that training has changed the parameters `meant` and no others."""
    names = listed(sorted(unseen), 3)
    require(not unseen, f"{names} never got a gradient: use it in the loss, or set requires_grad=False")
    wrong = moved(module, before) ^ meant
    names = listed(sorted(wrong), 3)
    require(not wrong, f"{names} changed, or stayed, contrary to requires_grad and critics()")


def require_learns(module: nn.Module, loss: Callable[[int], Tensor]) -> None:
    """Requires that a few steps on loss(step) change all trainable parameters of a module and no others."""
    before = snapshot(module)
    unseen = descend(loss, trainable(module))
    require_moved(module, before, unseen, set(trainable(module)))


def require_finite_in_half(module: nn.Module, loss: Callable[[], Tensor], device: str) -> None:
    """Requires that the loss and its gradients are finite under bf16 autocast."""
    with torch.autocast(device, torch.bfloat16):
        value = loss()
    value.backward()
    gradients = [p.grad for p in trainable(module).values() if p.grad is not None]
    finite = value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    require(finite, "loss or gradients aren't finite")


def reload(module: nn.Module, other: nn.Module) -> Any:
    """`other` with the state of `module`, which is saved as safetensors and loaded again."""
    state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    return other.eval()


LOST = "a reloaded copy gives another result: tensors that it computes with must be parameters or buffers"


def require_same_shapes(real: nn.Module, meta: nn.Module) -> None:
    """Requires that a module built on meta has no real tensors, and the same shapes as the real module."""
    real_tensors = [name for name, value in meta.state_dict().items() if not value.is_meta]
    why = "is made outside the default device; plans build under torch.device('meta')"
    require(not real_tensors, f"{real_tensors[:1]} {why}")
    shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (real, meta)]
    require(shapes[0] == shapes[1], "its parameters have other names or shapes when it is built on meta")


def paced(*steps: Callable[[], Any], device: str = "cpu") -> list[float]:
    """Median seconds of each step; steps alternate, so that a busy machine slows them equally.

    A step on a GPU counts until the GPU has done it.
    """
    rounds: list[list[float]] = []
    until = time.perf_counter() + SECONDS
    while len(rounds) < 2 or (len(rounds) < 10 and time.perf_counter() < until):
        rounds.append([])
        for step in steps:
            began = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            rounds[-1].append(time.perf_counter() - began)
    return [median(seconds) for seconds in zip(*rounds[1:], strict=True)]  # the first round also allocates


def comparison(seconds: Sequence[float], other: str) -> str:
    """The first time in ms, and as a multiple of the second, which is the time of the part `other`."""
    return f"{1000 * seconds[0]:.3g} ms, {multiple(*seconds)} x {other}'s"


def multiple(value: float, other: float) -> str:
    """value / other with one decimal or, above 10, with none; never with an exponent."""
    return f"{value / other:.0f}" if value > 10 * other else f"{value / other:.1f}"


# --- options ------------------------------------------------------------------------------------------------


def alternatives(part: Part) -> Iterator[tuple[str, Part]]:
    """The part with one option changed, for each option of which another value can be guessed."""
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


class NoiseDataset(Dataset):
    """Labelled images of noise."""

    classes = CLASSES

    def __init__(self, image: ImageSpec = IMAGES[0], train: int = 64, val: int = 32) -> None:
        self.image, self.sizes = image, {"train": train, "val": val}

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def images(self, split: Split, index: Tensor) -> Tensor:
        return rand_images(self.image, self.sizes[split], seed=len(split))[index]

    def labels(self, split: Split) -> Tensor:
        return torch.arange(self.sizes[split]) % CLASSES


class LinearTokenizer(Tokenizer):
    """A linear autoencoder with latents of any spec."""

    def __init__(self, image: ImageSpec, hidden: int, spec: LatentSpec) -> None:
        """
        Args:
            hidden: outputs of the encoder for each token.
        """
        super().__init__(image, 1, hidden % spec.channels)
        self.spec = spec
        pixels = image.channels * image.height * image.width
        shape = (image.channels, image.height, image.width)
        self.decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(spec.tokens * spec.channels, pixels), nn.Unflatten(1, shape)
        )
        outputs = (spec.tokens, hidden)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, outputs[0] * outputs[1]), nn.Unflatten(1, outputs)
        )

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return {name: getattr(self, name)[1].weight for name in ("encoder", "decoder")}


class PatchTokenizer(Tokenizer):
    """A linear autoencoder of patches, whose decoder takes any grid."""

    regrids = True

    def __init__(self, image: ImageSpec, hidden: int, spec: LatentSpec) -> None:
        """
        Args:
            hidden: outputs of the encoder for each token.
        """
        super().__init__(image, 1, hidden % spec.channels)
        assert spec.grid is not None
        self.spec, patch = spec, image.height // spec.grid[0]
        self.decoder = nn.ConvTranspose2d(spec.channels, image.channels, patch, patch)
        self.encoder = nn.Conv2d(image.channels, hidden, patch, patch)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part.get_parameter("weight") for name, part in parts.items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images).flatten(2).mT

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z.mT.unflatten(2, grid or self.spec.grid))
