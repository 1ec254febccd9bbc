"""JPEGs in class folders, of unequal classes and sorted by class, from the folder to the leaderboard."""

import json

import numpy as np
import pytest
import torch
from helpers.run import bench_inline
from PIL import Image

from latentbench.bench.registry import create

SHARES = {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}
SIZES = {"train": 300, "val": 150, "fresh/train": 300, "fresh/val": 10}

PLUGIN = '''
"""A tokenizer that loses nothing, and a perfect generator: other real images of the class asked for."""

import torch
from torch import nn

from latentbench.bench.api import LatentSpec, Tokenizer
from latentbench.bench.api import Generator
from latentbench.bench.registry import create, register


@register("pixels")
class Pixels(Tokenizer):
    def __init__(self, image, expansion):
        super().__init__(image, expansion)
        self.image, self.spec = image, LatentSpec(1, image.channels * image.height * image.width)
        self.encoder, self.decoder = nn.Linear(1, 1), nn.Linear(1, 1)

    @property
    def heads(self):
        return {"encoder": self.encoder.weight, "decoder": self.decoder.weight}

    def encode(self, images):
        return images.flatten(1)[:, None] + 0 * self.encoder.weight.sum()

    def decode(self, z):
        return z.unflatten(2, (self.image.channels, self.image.height, self.image.width))[:, 0]


@register("fresh_images")
class FreshImages(Generator):
    def __init__(self, spec, classes, root: str):
        super().__init__(spec, classes)
        self.root = root

    def fit(self, batches):
        """Learns nothing: it has images of its own."""

    def sample(self, labels, guidance, noise):
        data = create("datasets", "imagefolder", root=self.root, size=16)
        known = data.labels("train")
        index = torch.zeros(len(labels), dtype=torch.long)
        for label in labels.unique().tolist():
            places = (labels == label).nonzero()[:, 0].cpu()
            own = (known == label).nonzero()[:, 0]
            order = noise.uniform(own.double(), str(label)).argsort()
            index[places] = own[order[torch.arange(len(places)) % len(own)]]
        return data.images("train", index).flatten(1)[:, None]
'''

MATRIX = """
name: folders
dataset: {use: imagefolder, root: images, size: 16}
seeds: [0]
normalise: none
budget: {tokenizer_steps: 0, generator_steps: 4, batch: 8}
features: effnet_lite0
samples: 150
tokenizers: {pixels: {}}
regularizers: {none: {}}
generators:
  fresh_images: {root: images/fresh}
evaluators: [generation]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    shapes = create("datasets", "shapes", size=16, classes=len(SHARES), count={"train": 8000, "val": 8})
    next_image = dict.fromkeys(range(len(SHARES)), 0)
    for split, size in SIZES.items():
        for label, (name, share) in enumerate(SHARES.items()):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            count = max(1, round(size * share))
            index = torch.arange(next_image[label], next_image[label] + count) * len(SHARES) + label
            next_image[label] += count
            for number, image in enumerate(shapes.images("train", index)):
                pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
                Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8)).save(
                    place / f"{number:04}.jpg", quality=95
                )
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "m.yaml").write_text(MATRIX)
    done = bench_inline("run", "-m", "m.yaml", "--plugin", "plugin.py", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_perfect_generator_scores_like_held_out_images(folder):
    files = (folder / "results/folders/records").glob("*.json")
    metrics = {}
    for record in map(json.loads, (file.read_text() for file in files)):
        metrics |= {(record["cell"]["generator"], name): m["value"] for name, m in record["metrics"].items()}
    perfect = metrics["fresh_images", "gFD[effnet_lite0]@1"]
    real = metrics["real", "gFD@150[effnet_lite0]"]
    assert perfect == pytest.approx(real, rel=0.25)
