"""The coordinates of a point as features, for point sets whose images are single points."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from ..api import FeatureExtractor, ImageSpec, LatentSpec
from ..registry import register

DEFINITION = "the two values of an image of 1 x 1 x 2"


@register("coordinates")
class Coordinates(FeatureExtractor):
    """The two values of a point set's image, not rounded to 8 bits, as a point is no picture."""

    name = "coordinates"
    rounds = False
    channels = 2
    spec = LatentSpec(tokens=1, channels=2)
    image = ImageSpec(channels=1, height=1, width=2)  # the only shape that it accepts

    def fingerprint(self) -> str:
        return hashlib.sha256(DEFINITION.encode()).hexdigest()

    def protocol(self) -> dict[str, Any]:
        return {
            "extractor": self.name,
            "definition": DEFINITION,
            "definition_sha256": self.fingerprint(),
            "rounding": "none",
        }

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1:] != (1, 1, 2):
            size = " x ".join(map(str, images.shape[1:]))
            raise ValueError(f"coordinates describe points, images of 1 x 1 x 2, not of {size}")
        points = images.detach().flatten(1)
        return points, points[:, None]
