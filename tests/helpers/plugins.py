"""Plugins' texts, and an installed distribution with entry points."""

PLUGIN = '''"""A plugin."""
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register


@register("{name}")
class Mine(Regularizer):
    """Does {name}."""
'''

HALVED = """
import torch
from torch import nn
from latentbench.bench.api import LatentSpec, Tokenizer
from latentbench.bench.registry import register

@register("halved")
class Halved(Tokenizer):
    '''Means of 2 x 2 pixels, and each of them four times: nothing is learned.'''

    def __init__(self, image, expansion):
        super().__init__(image, expansion)
        grid = (image.height // 2, image.width // 2)
        self.spec = LatentSpec(grid[0] * grid[1], image.channels, grid)
        self.encoder, self.decoder = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)

    def encode(self, images):
        return self.encoder(images).flatten(2).transpose(1, 2)

    def decode(self, z):
        return self.decoder(z.transpose(1, 2).unflatten(2, self.spec.grid))
"""


def package(folder, module, text, *points):
    """An installed distribution with entry points, as pip leaves it on sys.path."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[latentbench.plugins]", *points]))
