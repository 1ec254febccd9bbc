"""The names of metrics over features: a published name only with the weights that define it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # records are read without PyTorch
    from ..api import FeatureExtractor

# sha256 of the weights that define a metric, as its authors' or its usual code downloads them.
# torch-fidelity's and pytorch-fid's pt_inception-2015-12-05 are one file.
INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CLIP = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"  # OpenAI's ViT-L/14@336px
VGG = (  # LPIPS 0.1: the linear heads, and torchvision's network under them
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
ALEX = (
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
)

# Names of metrics with those weights; with others they keep the extractor's name in brackets.
PUBLISHED = {
    "FD": "FID",
    "gFD": "gFID",
    "rFD": "rFID",
    "iFD": "iFID",
    "sFD": "sFID",
    "KD": "KID",
    "rKD": "rKID",
    "IS": "IS",
    "CMMD": "CMMD",
    "MIND": "MIND",
}
PLAIN = {published: base for base, published in PUBLISHED.items()}
DECODED = "_decoded"  # the end of a name, where decoded latents stand for images
# Names that need Inception's weights: cleanFID, FID50k, clean_fid, frechet_inception_distance; not kidney.
INCEPTIONS = re.compile(
    r"FID|KID|[a-z][FK]id(?![a-z])|(?i:(?<![^\W_])[a-z]{0,2}[fk]id(?![a-z])|inception.?(score|distance))"
)
BRACKETED = (  # names that, without a bracket, need one of these sets of weights
    (re.compile(r"(?<![^\W_])(IS(?![a-zA-Z])|is$)"), (frozenset({INCEPTION}),)),
    (re.compile(r"(?i)CMMD"), (frozenset({CLIP}),)),
    (re.compile(r"(?<![^\W_])(MIND(?![a-zA-Z])|mind$)"), (frozenset({INCEPTION}),)),
    (re.compile(r"(?i)LPIPS"), (frozenset(VGG), frozenset(ALEX))),
)


def metric_name(base: str, extractor: FeatureExtractor, at: int | None = None) -> str:
    """The full name of a metric: `gFD[effnet_lite0]`, `KD@360[effnet_lite0]`, `gFID`.

    A Fréchet distance is called FID only if the extractor's protocol has the sha256 of the Inception weights
    that define FID, and likewise for the other names in `PUBLISHED`.
    """
    count = "" if at is None else f"@{at}"
    if base in PUBLISHED and defines(PUBLISHED[base], extractor.protocol()):
        return PUBLISHED[base] + count
    return f"{base}{count}[{extractor.name}]"


def decoded_name(name: str, extractor: str = "") -> str:
    """The name of a metric where decoded latents stand for images: `gFD_decoded[x]` of `gFD[x]`.

    No published name is left: with Inception's features `gFID` becomes `gFD_decoded[inception]`.
    """
    base = base_name(name)
    rest = name.removeprefix(base)
    if base in PLAIN and "[" not in name and extractor:
        base, rest = PLAIN[base], f"{rest}[{extractor}]"
    return f"{base}{DECODED}{rest}"


def check_name(name: str, protocol: dict[str, Any]) -> None:
    """Refuses a published name on other weights than those that define it.

    Raises:
        ValueError: naming the metric, and the weights that its protocol has.
    """
    if not defines(name, protocol):
        digests = ", ".join(sorted(weights(protocol))) or "none"
        raise ValueError(
            f"the metric {name!r} has the name of a published one, but not its weights: the sha256 in its "
            f"protocol is {digests}"
        )


def defines(name: str, protocol: dict[str, Any]) -> bool:
    """Whether a protocol has the weights that the metric's name promises, if the name promises any."""
    base = base_name(name)
    if INCEPTIONS.search(base):
        return weights(protocol) == {INCEPTION}
    promised = [sets for pattern, sets in BRACKETED if pattern.search(base) and "[" not in name]
    return all(weights(protocol) in sets for sets in promised)


def weights(protocol: dict[str, Any]) -> set[str]:
    """Every sha256 of weights in a protocol, at any depth: the values of keys that end in weights_sha256."""

    def search(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                if str(key).endswith("weights_sha256"):
                    yield from item.values() if isinstance(item, dict) else [str(item)]
                else:
                    yield from search(item)

    return set(search(protocol))


def base_name(name: str) -> str:
    """A metric without its number and extractor: `gFD` of `gFD@360[effnet_lite0]`."""
    return re.split(r"[@\[]", name)[0]


def kind_of_metric(name: str) -> str:
    """The base name, of images and of decoded latents alike: `gFD` of `gFD_decoded@360[effnet_lite0]`."""
    return base_name(name).removesuffix(DECODED)
