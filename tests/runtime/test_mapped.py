"""What is larger than memory: rows in mapped files, and a matrix whose stages hold little."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.run import environment

from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, Reference
from latentbench.bench.data.images import resize
from latentbench.bench.data.subset import Subset, chosen
from latentbench.bench.metrics.frechet import gaussian
from latentbench.bench.runtime import mapped
from latentbench.bench.runtime.prefetch import Ahead
from latentbench.bench.store.artifacts import Result, Store, _separate
from latentbench.bench.store.stage import Stage


class Numbers(Dataset):
    """Images of one number each; of `train` the second half are the first's, negated as if mirrored."""

    image, classes, decodes = ImageSpec(1, 1, 1), 2, True

    def size(self, split):
        return 40 if split == "train" else 10

    def mirrored(self, split):
        return 20 if split == "train" else 0

    def images(self, split, index):
        return (index / 64 - 1).float()[:, None, None, None]

    def labels(self, split):
        return torch.arange(self.size(split)) % 2


def made(index, number):
    return {"a": index[:, None].float(), "b": torch.stack([index, index + number], 1)}


@pytest.mark.parametrize("limit", [1, 2**28])
def test_rows_are_the_same_in_memory_and_in_a_file(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(mapped, "LARGE", limit)
    indices = torch.arange(1000).split(30)
    found = mapped.rows(made, indices, ["a", "b"], lambda name: tmp_path / "scratch" / name)
    assert torch.equal(found["a"], torch.arange(1000.0)[:, None])
    numbers = torch.cat([torch.full((len(index),), i) for i, index in enumerate(indices)])
    assert torch.equal(found["b"][:, 1], torch.arange(1000) + numbers)
    assert (tmp_path / "scratch" / "a").exists() == (limit == 1)


def test_rows_beyond_a_chunks_index_are_dropped():
    found = mapped.rows(lambda index, number: {"": torch.full((8,), number)}, torch.arange(20).split(8), [""])
    assert found[""].tolist() == [0] * 8 + [1] * 8 + [2] * 4


def test_an_artifact_holds_what_a_mapped_file_held(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1)
    tensor = mapped.allocated((50, 3), torch.float32, tmp_path / "scratch")
    tensor[:] = torch.arange(150.0).view(50, 3)
    stage = Stage("latents", "x", {}, {}, "0" * 64, True)
    store = Store(tmp_path / "home")
    store.put(stage, Result({}, {"h": tensor, "part": tensor[2:4], "again": tensor}))
    kept = store.get(stage).tensors
    assert torch.equal(kept["h"], tensor) and torch.equal(kept["again"], tensor)
    assert torch.equal(kept["part"], tensor[2:4])


def test_what_has_a_storage_of_its_own_is_not_copied():
    tensor, other = torch.zeros(4), torch.zeros(2, 2)
    found = _separate({"a": tensor, "b": tensor, "row": other[0]})
    assert found["a"].data_ptr() == tensor.data_ptr() != found["b"].data_ptr()
    assert found["row"].untyped_storage().nbytes() == 8


def test_fewer_images_are_always_the_same_and_none_is_a_mirrored_one():
    few = Subset(Numbers(), 7)
    assert few.size("train") == few.size("val") == 7
    assert torch.equal(few.index["train"], chosen(Numbers(), "train", 7))
    assert few.index["train"].max() < 20 and (few.index["train"].diff() > 0).all()
    index = torch.tensor([3, 0])
    assert torch.equal(few.images("train", index), Numbers().images("train", few.index["train"][index]))
    assert torch.equal(few.labels("train"), few.index["train"] % 2)
    assert Subset(Numbers()).size("train") == 20 and Subset(Numbers(), 99).size("val") == 10


def test_moments_of_a_large_set_are_those_of_all_of_it(monkeypatch):
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) + 3
    monkeypatch.setattr("latentbench.bench.metrics.frechet.CHUNK", 64)
    found = gaussian(features)
    torch.testing.assert_close(found.mean, features.double().mean(0))
    torch.testing.assert_close(found.root @ found.root.T, features.double().T.cov())
    assert found.trace == pytest.approx(features.double().var(0).sum().item())


def test_a_large_reference_is_projected_as_a_small_one_is(monkeypatch):
    samples = torch.randn(300, 4, 10, generator=torch.Generator().manual_seed(1)) * 2 + 1
    reference, spec = Reference(samples, grid=(2, 2), fit=200), LatentSpec(4, 3, (2, 2))
    whole = reference.projected(spec).samples
    monkeypatch.setattr("latentbench.bench.api.reference.CHUNK", 32)
    torch.testing.assert_close(reference.projected(spec).samples, whole, rtol=1e-4, atol=1e-5)


def test_the_device_resizes_as_clean_fid_does():
    levels = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for size in (24, 56):
        torch.testing.assert_close(resize(levels, size, "torch"), resize(levels, size), rtol=0, atol=1e-2)
    assert torch.equal(resize(levels, 40, "torch"), levels.float())


def test_steps_are_read_in_any_order():
    ahead = Ahead(lambda step: (torch.tensor(step),), "cpu")
    assert [ahead(step)[0].item() for step in (0, 1, 5, 6, 2)] == [0, 1, 5, 6, 2]
    ahead.close()


PLUGIN = """
import torch
from torch import nn
from latentbench.bench.api import Dataset, FeatureExtractor, ImageSpec, LatentSpec, Tokenizer
from latentbench.bench.registry import register


@register("many")
class Many(Dataset):
    image, classes, decodes = ImageSpec(3, 64, 64), 4, True

    def fingerprint(self):
        return "0" * 64

    def size(self, split):
        return {"train": 20_000, "val": 500}[split]

    def images(self, split, index):
        return self.levels(split, index) / 127.5 - 1

    def levels(self, split, index):
        ramp = torch.arange(64)[:, None] * 2 + torch.arange(64)
        return (index[:, None, None, None] % 61 + ramp).expand(-1, 3, 64, 64).to(torch.uint8)

    def labels(self, split):
        return torch.arange(self.size(split)) % 4


@register("means")
class Means(FeatureExtractor):
    name, channels, spec = "means", 8, LatentSpec(64, 16, (8, 8))
    widths = {}

    def fingerprint(self):
        return "1" * 64

    def protocol(self):
        return {"extractor": self.name}

    def __call__(self, images):
        grid = nn.functional.avg_pool2d(images, 8).flatten(2).mT  # (B, 64, 3)
        tokens = nn.functional.pad(grid, (0, 13))
        return grid[:, :8, 0] + 0.01 * torch.randn(len(images), 8), tokens


@register("patches")
class Patches(Tokenizer):
    def __init__(self, image, expansion):
        super().__init__(image, expansion)
        self.spec = LatentSpec(64, 16, (8, 8))
        self.encoder = nn.Conv2d(3, 16 * expansion, 8, 8)
        self.decoder = nn.ConvTranspose2d(16, 3, 8, 8)

    @property
    def heads(self):
        return {"encoder": self.encoder.weight, "decoder": self.decoder.weight}

    def encode(self, images):
        return self.encoder(images).flatten(2).mT

    def decode(self, z):
        return self.decoder(z.mT.unflatten(2, (8, 8)))
"""

MATRIX = """
name: many
plugins: [plugin.py]
dataset: {use: many}
budget: {tokenizer_steps: 2, generator_steps: 2, prior_steps: 1, batch: 8}
features: means
reference: {use: teacher, images: 300}
reconstruction: {l1: 1.0}
samples: 200
tokenizers: {patches: {}}
regularizers: {kl: {}, repa: {}}
generators: {gaussian: {}}
evaluators:
  - density
  - latents
  - reconstruction: {lpips: none}
  - robustness: {noise: [0.1], distances: [0.1]}
  - cost
"""

RUN = """
import json, re, sys, threading, time
from pathlib import Path
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.models import latents
from latentbench.bench.plan.make import make_plan
from latentbench.bench.runtime import mapped
from latentbench.bench.stages.table import STAGES
from latentbench.bench.store.artifacts import Store
from latentbench.bench.training.context import Context

import faiss, scipy.stats, skimage.metrics, torch_fidelity  # what stages import


def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


mapped.LARGE = 2**22
latents.STATISTICS = 2**19
found = make_plan(load_matrix("matrix.yaml"))
store, most = Store(Path("home")), {}
for stage in found.stages.values():
    inputs = {role: store.get(found.stages[one]) for role, one in stage.parents.items()}
    over, before = threading.Event(), anonymous()

    def watch():
        while not over.wait(0.005):
            most[stage.kind] = max(most.get(stage.kind, 0), anonymous() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    store.put(stage, STAGES[stage.kind](stage.config, inputs, Context(store.work(stage))))
    over.set()
    watching.join()
kept = (store.get(stage).tensors for stage in found.stages.values())
train = [len(tensors["tokens/train"]) for tensors in kept if "tokens/train" in tensors]
print(json.dumps({"most": most, "train": train}))
"""


@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is Linux's number")
def test_what_stages_hold_does_not_grow_with_the_dataset(tmp_path):
    """20,000 images of 64 pixels are 983 MB as floats, and 164 MB of h; no stage takes a part of that."""
    for name, text in (("plugin.py", PLUGIN), ("matrix.yaml", MATRIX), ("run.py", RUN)):
        (tmp_path / name).write_text(text)
    ran = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["train"] == [300]  # the teacher's tokens, of the reference alone
    assert max(found["most"].values()) < 150e6, found["most"]
