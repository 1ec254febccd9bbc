"""Autoencoders of the diffusers library: which classes can be used, and their halves as networks of images.

Whatever the class, images go in as (B, c, H, W) in [-1, 1] and latents come out as maps (B, C, h, w): models
of videos get one frame, and images are moved to [0, 1] for those that take them so. The grid, the number of
channels and whatever else a config doesn't say is found by encoding and decoding an image on the meta device.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..api import ImageSpec, Unfit
from ..registry import PartError
from .model_folder import OWN_CLASS, NoModel

# Classes that cannot be compared as tokenizers of images, and why.
SOUND = "it is of sound, not of images"
REFUSED: Mapping[str, str] = {
    "ConsistencyDecoderVAE": "its decoder draws: decoding a latent twice gives two images",
    "AutoencoderKLTemporalDecoder": "its decoder needs the number of frames of a video",
    "AutoencoderKLCosmos": "its wavelets cannot be built without values, as a plan builds all parts",
    "AutoencoderKLMiniMaxH3": "it cannot decode a single frame",
    "AutoencoderKLAllegro": "it encodes and decodes only in tiles of a video",
    "AutoencoderKLHunyuanVideo15": "it fails for several images of one frame at a time",
    "AutoencoderVidTok": "its encode() and decode() have arguments of their own",
    "LTX2VideoDiffusionDecoderModel": "it only decodes, and draws",
    "AutoencoderKLKVAEAudio": SOUND,
    "AutoencoderKLLTX2Audio": SOUND,
    "AutoencoderKLMiniMaxH3Audio": SOUND,
    "AutoencoderOobleck": SOUND,
    "AutoencoderSAME": SOUND,
    "LongCatAudioDiTVae": SOUND,
    "Cosmos3AVAEAudioTokenizer": SOUND,
    "MMAudioVAE": SOUND,
    "RFD4ProteinaAutoencoder": "it is of proteins, not of images",
}
UNIT = ("AutoencoderRAE",)  # classes whose images are in [0, 1]
SCALES_WITHIN = ("AutoencoderRAE",)  # classes that scale latents as they encode and decode
FRAMES = ("AutoencoderKLQwenImage21",)  # classes of videos without a layer that shows it
RGB = 3
LARGEST = 128  # the largest multiple of sides that is tried


def identity(config: Mapping[str, Any]) -> str:
    """The text of a config without what doesn't change numbers: the library's version and the folder."""
    kept = {k: v for k, v in config.items() if k not in ("_diffusers_version", "_name_or_path")}
    return json.dumps(kept, sort_keys=True)


def scaling(model: Any) -> list[str]:
    """The scales that pipelines of diffusers apply to latents, which encoding and decoding leave out.

    Options that change nothing, such as a factor of 1, aren't among them.
    """
    if type(model).__name__ in SCALES_WITHIN:
        return []
    config, found = model.config, []
    for name, neutral in (("scaling_factor", 1), ("shift_factor", 0)):
        value = config.get(name)
        if value is not None and value != neutral:
            found.append(f"{name} {value:g}")
    found += [name for name in ("latents_mean", "latents_std") if config.get(name) is not None]
    if isinstance(getattr(model, "bn", None), nn.BatchNorm2d):  # of FLUX.2
        found.append("the batch norm `bn`")
    return found


def built(config: Mapping[str, Any]) -> Any:
    """The model of a config, with new weights.

    Raises:
        PartError: a package is missing.
        NoModel: the config names no class that can be used, or has wrong options.
    """
    cls = model_class(config)
    try:
        with _silent(
            "diffusers.configuration_utils"
        ):  # files of its own classes have options that they ignore
            return cls.from_config(dict(config))
    except NameError as error:  # a class of a package that diffusers imports only where it is installed
        raise PartError(f"{cls.__name__} needs another package: pip install transformers ({error})") from None
    except Exception as error:  # whatever a constructor does with a wrong config
        raise NoModel(f"{cls.__name__} cannot be built from its config.json: {one_line(error)}") from None


def model_class(config: Mapping[str, Any]) -> Any:
    """The class in diffusers that a config names.

    Raises:
        PartError: diffusers is not installed.
        NoModel: there is no such class, or it cannot be used.
    """
    name = config["_class_name"]
    if name == OWN_CLASS:
        raise NoModel(f"config.json names latentbench's own class {name}: `use: trained` takes it")
    diffusers = library()
    if name in REFUSED:
        raise NoModel(f"{name} cannot be a tokenizer here: {REFUSED[name]}")
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise NoModel(f"diffusers {diffusers.__version__} has no class {name}, which config.json names")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and hasattr(cls, "encode")):
        raise NoModel(f"config.json names {name}, which is no autoencoder")
    noisy = config.get("decoder_inject_noise") or False
    if any(noisy if isinstance(noisy, list | tuple) else [noisy]):
        raise NoModel(f"{name} with decoder_inject_noise cannot be a tokenizer here: its decoder draws")
    return cls


def library() -> Any:
    """The package, whose import takes seconds."""
    try:
        import diffusers
    except ImportError:
        raise PartError(
            "the tokenizer 'diffusers' needs a package: pip install \"latentbench[diffusers]\""
        ) from None
    return diffusers


@dataclass(frozen=True)
class Interface:
    """How images become maps of latents and back: the calls that differ between classes."""

    unit: bool  # images are in [0, 1] instead of [-1, 1]
    frames: bool  # images are videos of one frame

    @staticmethod
    def of(model: nn.Module) -> Interface:
        name = type(model).__name__
        frames = name in FRAMES or any(isinstance(module, nn.Conv3d) for module in model.modules())
        return Interface(name in UNIT, frames)

    def encode(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, c, H, W) -> the latent or its mean (B, C, h, w), and a posterior's parameters (B, 2C, h, w)."""
        x = (images + 1) / 2 if self.unit else images
        encoded = model.encode(x[:, :, None] if self.frames else x)
        posterior = getattr(encoded, "latent_dist", None)
        if posterior is not None:
            return self._map(posterior.mode()), self._map(posterior.parameters)
        names = [name for name in ("latent", "latents") if hasattr(encoded, name)]
        return self._map(getattr(encoded, names[0])), None

    def decode(self, model: Any, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, c, H, W), not clamped."""
        images = self._map(model.decode(z[:, :, None] if self.frames else z).sample)
        return images * 2 - 1 if self.unit else images

    def _map(self, x: Tensor) -> Tensor:
        return x.squeeze(2) if self.frames else x


@dataclass(frozen=True)
class Layout:
    """A model's shapes and halves, as encoding and decoding an image of some size shows them."""

    name: str  # of the class
    colours: int
    interface: Interface
    grid: tuple[int, int]
    channels: int
    posterior: bool
    encoder: frozenset[str]  # the children that encode, or do neither
    idle: frozenset[str]  # parameters that no gradient of an image reaches
    heads: tuple[str, str]  # the last weights of encoder and decoder
    regrids: bool  # whether the decoder takes maps of other sizes


@cache
def layout(config: str, image: ImageSpec) -> Layout:
    """The layout of the model of a config (JSON) for images of this size.

    Raises:
        PartError, NoModel: as `built` does.
        Unfit: the model cannot encode such images and decode them to their size.
    """
    # Constructors may draw, which must not change the weights of a model that is built afterwards.
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.enable_grad():
        model = built(json.loads(config))
        name, grey = type(model).__name__, image.channels == 1
        # Some count inputs of their first layer, after patches, in `in_channels`: only 1 is unmistakable.
        colours = RGB if grey and model.config.get("in_channels") != 1 else image.channels
        trial = _Trial(model.train(), colours, image)
        if not trial.fits:
            size = " x ".join(map(str, (image.channels, image.height, image.width)))
            raise Unfit(f"{name} does not fit images of {size}: {_advice(model, trial)}")
        return trial.layout()


class _Trial:
    """An image's way through a model on the meta device, and what was used on it."""

    def __init__(self, model: Any, colours: int, image: ImageSpec) -> None:
        self.model, self.colours, self.image = model, colours, image
        self.interface = Interface.of(model)
        self.problem, self.decoded = "", None
        try:
            with called_modules(model) as self.encoding:
                self.z, self.parameters = self.interface.encode(model, self._images())
            with called_modules(model) as self.decoding:
                self.decoded = self.interface.decode(model, self.z)
        except Exception as error:  # a model says in its own way that a size is wrong
            self.problem = one_line(error)

    def _images(self) -> Tensor:
        return torch.zeros(2, self.colours, self.image.height, self.image.width)

    @property
    def fits(self) -> bool:
        return self.decoded is not None and self.decoded.shape == self._images().shape

    def layout(self) -> Layout:
        assert self.decoded is not None
        model = self.model
        children = [name for name, _ in model.named_children()]
        decoder = {name for name in children if _within(self.decoding, name)}
        both = [name for name in decoder if _within(self.encoding, name)]
        if both or [*model.parameters(recurse=False)]:
            raise NoModel(f"{type(model).__name__} has no encoder apart from its decoder: {both}")
        parameters = dict(model.named_parameters())
        learning = [p for p in parameters.values() if p.requires_grad]
        gradients = torch.autograd.grad(self.decoded.sum(), learning, allow_unused=True)
        reached = {id(p) for p, g in zip(learning, gradients, strict=True) if g is not None}
        return Layout(
            type(model).__name__,
            self.colours,
            self.interface,
            (self.z.shape[2], self.z.shape[3]),
            self.z.shape[1],
            self.parameters is not None,
            frozenset(children) - decoder,
            frozenset(name for name, p in parameters.items() if id(p) not in reached),
            (_last_weight(model, self.encoding), _last_weight(model, self.decoding)),
            self._regrids(),
        )

    def _regrids(self) -> bool:
        """Whether half of the latents' rows are decoded to half of the images' rows."""
        rows = self.z.shape[2] // 2
        try:
            decoded = self.interface.decode(self.model, self.z[:, :, :rows])
        except Exception:  # a model says in its own way that a size is wrong
            return False
        return decoded.shape[2] * self.z.shape[2] == rows * self.image.height


@contextmanager
def called_modules(model: nn.Module) -> Iterator[list[str]]:
    """The names of a model's modules that are called within the block, in order of their return."""
    called: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: called.append(name)

    hooks = [module.register_forward_hook(noting(name)) for name, module in model.named_modules() if name]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _within(called: list[str], child: str) -> bool:
    return any(name == child or name.startswith(f"{child}.") for name in called)


def _last_weight(model: nn.Module, called: list[str]) -> str:
    """The weight of the last matrix or convolution that was called."""
    for name in reversed(called):
        weight = getattr(model.get_submodule(name), "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            return f"{name}.weight"
    raise NoModel(f"{type(model).__name__} has no layer that could be its last")


def _advice(model: Any, trial: _Trial) -> str:
    """The sides that a model works with, in words."""
    image = trial.image

    def fits(height: int, width: int) -> bool:
        return _Trial(model, trial.colours, ImageSpec(image.channels, height, width)).fits

    multiple = 2
    while multiple <= LARGEST:
        height, width = (-(-side // multiple) * multiple for side in (image.height, image.width))
        # The next larger image too: 32 x 32 may fit as a multiple of 8, where 34 x 34 doesn't.
        if fits(height, width) and fits(height + multiple, width + multiple):
            return f"its sides must be multiples of {multiple}"
        multiple *= 2
    if trial.decoded is not None and fits(*trial.decoded.shape[2:]):
        return f"it decodes to {' x '.join(map(str, trial.decoded.shape[2:]))} alone"
    return trial.problem or "no size was found that does"


class Half(nn.Module):
    """The part of a model that encodes or that decodes: the model without its other children."""

    def __init__(self, model: nn.Module, children: Callable[[str], bool]) -> None:
        super().__init__()
        # Layers of many video models keep a frame for the next, which recomputation would find, too.
        self.remembers = Interface.of(model).frames
        self.model: Any = copy.copy(model)
        own = {name: child for name, child in model._modules.items() if children(name)}
        # Statistics of latents and images are in both halves, which move them between devices. The children
        # of the other half stay plain attributes: some classes count their layers.
        other = {name: child for name, child in model._modules.items() if name not in own}
        self.model.__dict__ |= {"_modules": own, "_buffers": dict(model._buffers), **other}


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Drops what a library logs within the block."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
