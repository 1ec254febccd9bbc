"""The vocabulary and the interfaces of latentbench. Read this file first.

    images    (B, c, H, W) float in [-1, 1]
    h         (B, T, C * expansion): the encoder's output, before a regularizer makes a latent of it
    z         (B, T, C): the latent, T tokens of C channels; with a grid the tokens lie in row order
    labels    (B,) int64; -1 is "no class" (a dropped label), None is "no class" for all
    t         time: 0 is noise, 1 is data; x_t = (1 - t) * noise + t * z, velocity = z - noise
    guidance  w: 1 is none, for every generator
    nats      the unit of likelihoods and divergences

A cell of the matrix pairs a `Tokenizer`, a `Regularizer` and a `Generator` on a `Dataset`; `Evaluator`s score
it. Parts own modules and formulas. The loops own optimizers, freezing, autograd switches, adaptive weights,
precision, EMA and checkpoints. A part is a class under `@register("name")`; its constructor, with annotations
and defaults, is its schema in a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .noise import seed_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CHUNK = 2**12  # samples of a reference at a time


WHOLE = 2**20  # values of the global batch that are drawn at once; more of them in
BLOCK = 8  # rows


class Unfit(ValueError):
    """Raised by a constructor that cannot work with the spec it is given; such a cell is skipped."""


class Diverged(Exception):
    """A training that went wrong by itself: a loss that is not finite, a latent that collapsed.

    It is a result, cached like any other; the row is reported as failed with this reason.
    """


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a dataset's images."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class LatentSpec:
    """T tokens of C channels; `grid` = (h, w) when the tokens lie on a raster in row order."""

    tokens: int
    channels: int
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Noise:
    """Random draws: a function of (seed, stream, step, tag) alone.

    Draws are made in float32 on the CPU for the global batch and sliced to this process's rows, so they
    depend neither on the device, the precision nor the number of processes. `seed`, the forks and the tag are
    hashed: streams with different names are independent, the same stream and tag give the same draw.
    """

    seed: int
    stream: tuple[str, ...] = ()
    rank: int = 0
    world: int = 1

    def fork(self, name: str | int) -> Noise:
        """A stream of its own, e.g. `noise.fork(step).fork("latent")`."""
        return replace(self, stream=(*self.stream, str(name)))

    def normal(self, like: Tensor, tag: str = "") -> Tensor:
        """Standard normal values of `like`'s shape, device and dtype."""
        return self._draw(torch.randn, like, tag)

    def uniform(self, like: Tensor, tag: str = "") -> Tensor:
        """Uniform values in [0, 1) like `like`; a 0-d `like` is shared by all processes."""
        return self._draw(torch.rand, like, tag)

    def _draw(self, sampler: Callable[..., Tensor], like: Tensor, tag: str) -> Tensor:
        def drawn(shape: Sequence[int], *part: int) -> Tensor:
            seed = seed_for(self.seed, *self.stream, "", tag, *part)
            return sampler(shape, generator=torch.Generator().manual_seed(seed))

        if like.dim() == 0:
            return drawn(()).to(like)
        rows, shape = like.shape[0], like.shape[1:]
        first, total = rows * self.rank, rows * self.world
        if total * shape.numel() <= WHOLE:
            return drawn((total, *shape))[first : first + rows].to(like)
        # Large draws are of blocks with seeds of their own; a process makes those that it needs.
        blocks = range(first // BLOCK, -(-(first + rows) // BLOCK))
        parts = torch.cat([drawn((BLOCK, *shape), block) for block in blocks])
        return parts[first % BLOCK : first % BLOCK + rows].to(like)


@dataclass(frozen=True)
class Reference:
    """Samples of the distribution that a latent should follow, not paired with images.

    `samples` is (M, N, F): M draws of N tokens (1 if unstructured) of F channels; `labels` is (M,) or None.
    Statistics for centring, scaling or a PCA are those of the first `fit` samples (None: of all): the frame
    passes train and val as one, so that both are mapped alike and nothing is learned from val.
    """

    samples: Tensor
    labels: Tensor | None = None
    grid: tuple[int, int] | None = None
    fit: int | None = None

    def projected(self, spec: LatentSpec) -> Reference:
        """Into the shape and units of a latent, the same way for every row of a matrix.

        Tokens are pooled (see `pooled`), features standardised, and, unless the latent has as many channels,
        multiplied by a fixed random matrix with entries N(0, 1/F) (seed 42), which keeps the variance (Flow
        Priors, section 3.2).
        """
        own, channels = self.pooled(spec), self.samples.shape[-1]
        if channels == spec.channels:
            return own.standardised()
        projection = torch.randn(channels, spec.channels, generator=torch.Generator().manual_seed(42))
        projection = projection / channels**0.5
        mean, scale = own._moments()
        # Chunk by chunk: copies of a large set before the projection don't fit into memory.
        parts = [(chunk - mean) / scale @ projection.to(chunk) for chunk in own.samples.split(CHUNK)]
        return replace(own, samples=torch.cat(parts))

    def pooled(self, spec: LatentSpec) -> Reference:
        """Tokens average-pooled onto the latent's grid or, without one, along the raster to its token count.

        A single token stays single: it says nothing of positions.
        """
        samples = self.samples.float()
        if samples.shape[1] in (1, spec.tokens):
            return replace(self, samples=samples)
        maps = samples.transpose(1, 2)  # (M, F, N)
        if self.grid and spec.grid:
            maps = nn.functional.adaptive_avg_pool2d(maps.unflatten(2, self.grid), spec.grid).flatten(2)
        else:
            maps = nn.functional.adaptive_avg_pool1d(maps, spec.tokens)
        return replace(self, samples=maps.transpose(1, 2), grid=spec.grid)

    def standardised(self) -> Reference:
        """Features centred, and divided by one scalar so that their mean variance is 1."""
        mean, scale = self._moments()
        return replace(self, samples=(self.samples - mean) / scale)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The features' means (F,), and the scalar."""
        chunks = self.samples[: self.fit].split(CHUNK)
        shares = [len(chunk) / sum(map(len, chunks)) for chunk in chunks]
        pairs = list(zip(chunks, shares, strict=True))
        mean = torch.stack([chunk.mean((0, 1)) * share for chunk, share in pairs]).sum(0)
        squares = [(chunk - mean).square().mean() * share for chunk, share in pairs]
        return mean, torch.stack(squares).sum().sqrt()


@dataclass(frozen=True)
class Step:
    """What the training loop knows when it asks for a loss."""

    index: int  # tokenizer updates so far
    images: Tensor  # (B, c, H, W) in [-1, 1]
    labels: Tensor | None  # (B,)
    noise: Noise
    decode: Callable[[Tensor], Tensor]  # z -> images, for methods that constrain the decoder too
    features: Tensor | None = None  # (B, N, F) teacher features, for those that name `teacher_spec`
    reference: Tensor | None = None  # (B, N, F) draws from reference(), for those that name `reference_spec`
    views: Tensor | None = None  # h of another augmentation of the images, with gradient, if `two_views`


class Regularizer(nn.Module):
    """Shapes the latent distribution of a tokenizer; used as it is, it does nothing.

    A constructor that names `classes: int` (0 without labels), `teacher_spec: LatentSpec`, `reference_spec:
    LatentSpec` (tokens, channels and grid of the teacher features and of the unprojected reference) or
    `reference_classes: int` (0 if the reference has no labels) is given them by the frame; naming one
    declares that the method needs it. Other parts are options, `prior: Annotated[Use, Flow] = "tarflow"`,
    which `registry.use` builds.

    Parameters fall into groups by facts: those of `critics()` have optimizers of their own, those of
    `priors()` and whatever doesn't require a gradient are frozen, the rest is trained with the tokenizer.
    """

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    expansion: ClassVar[int] = 1  # encoder channels per latent channel
    critic_steps: ClassVar[int] = 1  # critic updates per tokenizer update
    couples: ClassVar[str] = ""  # "loss" or "latent": which of them depends on the whole minibatch
    gathers: ClassVar[bool] = False  # and whether it is then gathered from all processes (processes.gathered)
    two_views: ClassVar[bool] = False  # loss() needs `step.views`; the matrix says how images are augmented
    # Terms that loss() returns unweighted, and the size of their gradients at the encoder's head as shares
    # of the reconstruction's: the loop scales them so.
    balanced: Mapping[str, float] = {}
    # Options that reference() and priors() depend on (None: all); the others don't train a prior anew.
    prior_options: ClassVar[frozenset[str] | None] = None

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        """(B, T, C * expansion) -> (B, T, C); without noise, the deterministic latent."""
        return h

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        """Named, weighted scalars; their gradient reaches the encoder."""
        return {}

    def reference(self, reference: Reference) -> Reference:
        """The reference in the latent's shape and units, sample by sample; a method may have its own way."""
        return reference.projected(self.spec)

    def aligned(self, z: Tensor) -> Tensor:
        """Latents (B, T, C) where `reference()` is: as they are, but for methods that put a head on them."""
        return z

    def priors(self) -> dict[str, Generator]:
        """Submodules that are trained on `reference()` before the tokenizer, then frozen, in eval mode.

        Each is a `prior` stage of its own: the generator loop, on the reference as it is (not normalised),
        with its labels if it has any; the average of its weights is what is kept.
        """
        return {}

    def begin(self, z: Tensor) -> None:
        """Called once before the first update, not on resume: priors are loaded, z (B, T, C) are latents."""

    def generator(self) -> Generator | None:
        """Its own sampler of latents, as the tokenizer gives them (not normalised), if it has one.

        A matrix samples it by the generator `use: joint`, and goes on training it by `init: joint`.
        """
        return None

    def classify(self, z: Tensor) -> Tensor | None:
        """z (B, T, C) -> the class of each (B,), for methods whose latents say it (LZN); None for others."""
        return None

    def critics(self) -> dict[str, nn.Module]:
        """Networks that learn by `critic_loss` with optimizers of their own."""
        return {}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        """A critic's scalar loss on detached latents z (B, T, C)."""
        raise NotImplementedError(f"{type(self).__name__} has the critic {name!r} but no critic_loss")


class Tokenizer(nn.Module):
    """An autoencoder: `encoder` and `decoder` together hold every trainable parameter.

    A constructor that names `dataset: Dataset` is given it by the frame. One that only encodes says so by
    `decodes`, and its decoder is empty: the regularizer's loss alone trains it, and generators are skipped.

    The encoder's output layer is initialised last, so that rows with another `expansion` start from the same
    weights.
    """

    version: ClassVar[int] = 1
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # as a generator's
    decodes: ClassVar[bool] = True
    spec: LatentSpec
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, image: ImageSpec, expansion: int) -> None:
        super().__init__()

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        """{"encoder": weight of the encoder's last layer, "decoder": the decoder's, if it decodes}."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """(B, c, H, W) in [-1, 1] -> h (B, T, C * expansion)."""
        return self.encoder(images)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, T, C) -> (B, c, H, W), not clamped."""
        if not self.decodes:
            raise Unfit(f"{type(self).__name__} only encodes")
        return self.decoder(z)

    def features(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, F) for a linear probe, of a tokenizer that has others than its latents."""
        raise NotImplementedError

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor] | None:
        """A loss of its own in place of the matrix's reconstruction losses, or None."""
        return None if self.decodes else {}


class FlowTokenizer(Tokenizer):
    """A tokenizer whose decoder draws images: a flow from noise (B, c, H, W) to images that is told z.

    The frame decodes by `latents.decoded`, with labels where they are known and noise keyed by chunk.
    """

    evaluations: int  # of `velocity` in one decode, as far as that is known without values

    def velocity(self, x: Tensor, t: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """x (B, c, H, W), t (B,), z (B, T, C), labels (B,) -> (B, c, H, W)."""
        raise NotImplementedError

    def drawn(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The images (B, c, H, W), not clamped, that the flow makes of noise x."""
        raise NotImplementedError

    def inverted(self, images: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """The noise (B, c, H, W) of which `drawn` makes these images."""
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        """z (B, T, C) -> (B, c, H, W), not clamped; without noise, of one fixed draw."""
        raise NotImplementedError


class Generator(nn.Module):
    """A model of latents z (B, T, C), which come normalised by the matrix's rule.

    A generator either descends `loss` or, where there is nothing to descend, overrides `fit`.
    """

    version: ClassVar[int] = 1
    # Published names for sets of options: `size: XL` in a matrix stands for them, and what is given beside it
    # wins. Constructors and cache keys know the options alone.
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, spec: LatentSpec, classes: int) -> None:
        super().__init__()
        self.spec, self.classes = spec, classes

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Named scalars whose sum is descended; dropping labels in training is the generator's business."""
        raise NotImplementedError

    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Estimates the model from one pass over (z, labels), in place of descending a loss."""
        raise NotImplementedError

    def sample(self, labels: Tensor, guidance: float, noise: Noise) -> Tensor:
        """One z (B, T, C) per label (B,); -1 asks for no class.

        Keyword-only arguments of subclasses are options of the samples stage (`sampler: {...}` in a matrix).
        """
        raise NotImplementedError


class Flow(Generator):
    """A generator with a velocity field."""

    per_token: ClassVar[bool] = False  # whether a token's velocity depends on that token alone
    conditional: bool = True  # whether it depends on the label

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, T, C), t (B,) -> v (B, T, C), or (v, hidden tokens (B, T, D) after block `tap`)."""
        raise NotImplementedError


class Likelihood(Generator):
    """A generator with a tractable density."""

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """(B, T, C) -> (B,) in nats, summed over tokens and channels."""
        raise NotImplementedError

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """log_prob(z, labels), and the hidden tokens (B, T, D) after layer `tap`, counted from 1."""
        raise Unfit(f"{type(self).__name__} has no layers with hidden tokens")


Split = Literal["train", "val"]


class Dataset:
    """Labelled images in two disjoint splits."""

    version: ClassVar[int] = 1
    image: ImageSpec
    classes: int  # 0 without labels
    # Images come from 8-bit files, one by one: processes decode them ahead and hand over 8 bits.
    decodes: ClassVar[bool] = False

    def fetch(self) -> None:
        """Called before a run where the data isn't there.

        Raises:
            FileNotFoundError: saying where it was looked for, and how to get it.
        """

    def fingerprint(self) -> str | None:
        """sha256 of the data on disk and of the options that select from it; None if it isn't there yet."""
        raise NotImplementedError

    def size(self, split: Split) -> int:
        """Number of images; known without the data where an option says it."""
        raise NotImplementedError

    def mirrored(self, split: Split) -> int:
        """How many images are others mirrored: the last ones, of a set that decodes.

        Methods learn from them and metrics don't: published statistics are of images as they are.
        """
        return 0

    def images(self, split: Split, index: Tensor) -> Tensor:
        """index (B,) int64 -> (B, c, H, W) float32 in [-1, 1]."""
        raise NotImplementedError

    def levels(self, split: Split, index: Tensor) -> Tensor:
        """The images in uint8, of a set that decodes; one that has them so saves the way through floats."""
        return to_uint8(self.images(split, index))

    def labels(self, split: Split) -> Tensor | None:
        """(size,) int64, or None without labels."""
        raise NotImplementedError


class FeatureExtractor:
    """A frozen network that describes images: one vector for distances, a grid of tokens for teachers.

    `outputs` names what `describe` can give: "pooled" (B, F), "tokens" (B, N, G), "logits" (B, K) of a
    classifier, which the inception score needs, and "spatial" (B, S), a flattened map, for sFD.
    """

    version: ClassVar[int] = 1
    outputs: tuple[str, ...] = ("pooled", "tokens")
    cmmd: ClassVar[bool] = False  # images are compared by CMMD's kernel in place of FD, KD and the rest
    # How images come to the network; other than these only in an audit, which changes an instance's.
    resizing: str = "clean"  # one of images.RESIZINGS
    rounds: bool = True  # to 8 bits
    name: str  # what metric names carry in brackets, unless the weights are those that define a metric
    channels: int  # F of the pooled features
    widths: Mapping[
        str, int
    ] = {}  # of other outputs than pooled features and tokens, as far as they are said
    spec: LatentSpec  # of the token features

    def fingerprint(self) -> str | None:
        """sha256 of the weights; None if they aren't there yet."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Downloads weights that aren't there, if they can be had; called before a run.

        Raises:
            FileNotFoundError: naming the file, where it would have to be downloaded offline.
        """

    def protocol(self) -> dict[str, Any]:
        """Everything besides the images that a feature depends on: weights, resolution, resizing, layer."""
        raise NotImplementedError

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, c, H, W) in [-1, 1] -> pooled (B, F), tokens (B, N, G); rounds to 8 bits first."""
        found = self.describe(images, ("pooled", "tokens"))
        return found["pooled"], found["tokens"]

    def describe(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """(B, c, H, W) in [-1, 1] -> the outputs asked for, in one pass through the network.

        A part has this or, where there are no other outputs, `__call__`: each is made of the other.
        """
        found = dict(zip(("pooled", "tokens"), self(images), strict=True))
        return {name: found[name] for name in outputs}


@dataclass(frozen=True)
class Metric:
    """What a number means; a leaderboard needs its direction."""

    scope: Literal["tokenizer", "generator"]
    higher_is_better: bool | None  # None: descriptive
    unit: str = ""
    about: str = ""  # one sentence for tables
    cost: bool = False  # seconds, bytes, parameters, operations: filed under `cost`, not a score


class ReferenceSource:
    """Where a reference distribution comes from: `reference: {use: gaussian}` of a matrix or of a method.

    A constructor that names `teacher_spec: LatentSpec` or `image: ImageSpec` is given them by the frame.
    """

    version: ClassVar[int] = 1
    spec: LatentSpec  # of the samples, before any projection
    uses_features: bool = True  # whether draw() looks at them; for a set that decodes, others get none
    labelled: bool = False  # whether samples come with the dataset's classes

    def fingerprint(self) -> str | None:
        """sha256 of the files that samples are made of, beside the dataset's; None if they aren't there."""
        return ""

    def fetch(self) -> None:
        """Called before a run where files aren't there.

        Raises:
            FileNotFoundError: naming the file.
        """

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        """Samples of a split, from nothing or from the teacher's tokens (n, N, G) and pooled (n, F) features.

        "train" is what methods may learn from, "val" are fresh samples of the same distribution.
        """
        raise NotImplementedError


class Estimate(float):
    """A metric's value with what is known of its uncertainty; a plain float has neither.

    `replicates` are its values on `resampling.REPLICATES` resamples of the images (or tokens) that it is
    over, whose indices depend on the metric's name and the replicate alone (`resampling.counts`): differences
    between two rows' replicates are paired. `classes` are its values by class.
    """

    replicates: Sequence[float] | None
    classes: Mapping[str, float] | None

    def __new__(
        cls,
        value: float,
        replicates: Sequence[float] | Tensor | None = None,
        classes: Mapping[str, float] | None = None,
    ) -> Estimate:
        self = super().__new__(cls, value)
        self.replicates = replicates.tolist() if isinstance(replicates, Tensor) else replicates
        self.classes = classes
        return self


Of = Literal["train", "val", "reconstructions", "samples"]


class Subject:
    """What an evaluator may ask of a cell: computed when asked, and shared between evaluators.

    `scope` is "tokenizer" (samples and generator are None) or "generator". The subject of the `real` row has
    held-out images as its samples, as many as the others if there are, `real` set, and neither tokenizer,
    regularizer nor generator.
    """

    scope: Literal["tokenizer", "generator"]
    real: bool
    dataset: Dataset
    extractors: tuple[FeatureExtractor, ...]  # those of the matrix; metrics over features are made for each
    noise: Noise
    tokenizer: Tokenizer
    regularizer: Regularizer
    generator: Generator | None
    guidance: float | None
    samples: Tensor | None  # (n, c, H, W) uint8
    sample_labels: Tensor | None  # (n,)
    facts: dict[str, Any]  # what the regularizer's constructor was given by name
    latent_batch: int | None  # the minibatch that latents are encoded in, where they depend on it
    costs: dict[str, dict[str, float]]  # of each stage behind this subject: {"tokenizer": {"seconds": …}, …}

    @property
    def decodes(self) -> bool:
        """Whether there are images of latents: evaluators that look at them have no numbers without."""
        return self.real or self.tokenizer is None or self.tokenizer.decodes

    def images(self, split: Split) -> Tensor:
        """(n, c, H, W) uint8; large sets of images or latents are mapped files: read them chunk by chunk."""
        raise NotImplementedError

    def labels(self, split: Split) -> Tensor | None:
        """(n,) int64."""
        raise NotImplementedError

    def asked(self) -> Tensor | None:
        """(n,) classes that samples were asked for, on the CPU; None if there is no class, or no other."""
        asked, known = self.sample_labels, self.labels("train")
        if asked is None or known is None or (asked < 0).any() or len(known.unique()) < 2:
            return None
        return asked.cpu()

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        """Decoded held-out images, uint8, from latent(h, noise) or, deterministic, latent(h, None)."""
        raise NotImplementedError

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        """(n, T, C), drawn with noise or without, as the tokenizer gives them (not normalised)."""
        raise NotImplementedError

    def trajectory(self) -> tuple[Tensor, Tensor]:
        """Training steps (P,) and the latents (P, n, T, C) of the first n training images at each.

        As the matrix's `probes: {every: 100}` has them; P = 0 without.
        """
        raise NotImplementedError

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        """Pooled features (n, F), or another output, of an image set by an extractor (None: the first).

        The first extractor has "tokens" of "train" and "val" alone.
        """
        raise NotImplementedError

    def reference(self, split: Split, own: bool = False) -> Reference:
        """The matrix's reference in the latent's space, by the base class's projection or by the row's own.

        "train" is what methods may learn from, "val" are fresh samples of the same distribution.
        """
        raise NotImplementedError

    @property
    def own_reference(self) -> bool:
        """Whether the row has a reference of its own, other than the matrix's or in another space."""
        raise NotImplementedError

    def reference_protocol(self, own: bool = False) -> dict[str, Any]:
        """What reference() depends on besides the latent's shape."""
        raise NotImplementedError


class Evaluator:
    """A family of metrics; `metrics` is keyed by base name: what precedes any "[" or "@" of a full name."""

    version: ClassVar[int] = 1
    metrics: ClassVar[dict[str, Metric]]

    def run(self, subject: Subject) -> dict[str, float]:
        """All metrics of the subject's scope, by full name, e.g. {"gFD[effnet_lite0]": Estimate(81.2, …)}."""
        raise NotImplementedError

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        """Everything that the value under this full name depends on besides the images; always with `n`."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Stands for the files that numbers depend on beside the subject, as far as they are there."""
        return ""

    def figures(self, subject: Subject) -> Mapping[str, Figure | Tensor]:
        """Pictures by name, saved as PNG: matplotlib's `Figure` (not pyplot), or pixels, uint8 (H, W, 3)."""
        return {}

    @classmethod
    def scopes(cls) -> set[str]:
        """The scopes that this evaluator has metrics for."""
        return {metric.scope for metric in cls.metrics.values()}


KINDS: dict[str, type] = {
    "regularizers": Regularizer,
    "tokenizers": Tokenizer,
    "generators": Generator,
    "evaluators": Evaluator,
    "datasets": Dataset,
    "features": FeatureExtractor,
    "references": ReferenceSource,
}

Part = Regularizer | Tokenizer | Generator | Evaluator | Dataset | FeatureExtractor | ReferenceSource


def to_uint8(images: Tensor) -> Tensor:
    """(..., H, W) in [-1, 1] -> uint8 in 0..255, rounded to the nearest level and clamped."""
    # In place where it can be: sets of 256-pixel images are large.
    return (images.float() * 127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return (levels.float() / 127.5).sub_(1)
