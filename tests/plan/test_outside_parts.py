"""Parts from plugins that break what they promise are named before anything trains, or at the border."""

import json

import pytest
from helpers.run import TINY, bench_inline

DATASET = '''
import torch
from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, Tokenizer, FeatureExtractor
from latentbench.bench.registry import register


@register("mine")
class Mine(Dataset):
    """Noise in four classes."""

    image, classes = ImageSpec(1, 8, 8), 4

    def fingerprint(self):
        return "0" * 64

    def size(self, split):
        return {"train": 48, "val": 24}[split]

    def images(self, split, index):
        seed = torch.Generator().manual_seed(len(split))
        return (torch.rand(self.size(split), 1, 8, 8, generator=seed) * 2 - 1)[index]

    def labels(self, split):
        return torch.arange(self.size(split)) % 4
'''
FAULTS = {
    "labels of another type": ("% 4\n", "% 4 + 0.0\n", "labels are torch.float32, not int64"),
    "a label too many": ("% 4\n", "% 5\n", "labels of train are 0 to 4, but classes is 4"),
    "as many labels as there are classes": (
        "torch.arange(self.size(split)) % 4",
        "torch.arange(4)",
        "labels('train') are (4,), not (48,)",
    ),
    "no labels": ("return torch.arange(self.size(split)) % 4", "return None", "classes is 4, but labels"),
    "another size": (
        "1, 8, 8, gen",
        "1, 9, 8, gen",
        "images('train') gives (50, 1, 9, 8), not (50, 1, 8, 8)",
    ),
    "bytes in place of [-1, 1]": ("* 2 - 1", "* 255", "not in [-1, 1]"),
    "double precision": ("[index]", "[index].double()", "images are torch.float64, not float32"),
    "an exception": ("[index]", "[index + 99]", "IndexError"),
}
MATRIX = TINY.replace("dataset: {use: digits}", "dataset: {use: mine}")


def run(folder, plugin, matrix=MATRIX):
    (folder / "mine.py").write_text(plugin)
    (folder / "m.yaml").write_text(matrix)
    return bench_inline("run", "-m", "m.yaml", "--plugin", "mine.py", cwd=folder, home=folder / "home")


def assert_refused(done, folder, place, *texts):
    assert done.returncode == 2, done.stdout + done.stderr
    for text in (f"m.yaml:{place}", "breaks its contract", *texts):
        assert text in done.stderr
    assert "Traceback" not in done.stderr and not (folder / "results").exists()


@pytest.mark.parametrize("old, new, told", FAULTS.values(), ids=FAULTS)
def test_a_dataset_that_breaks_its_promises_is_refused(old, new, told, tmp_path):
    assert old in DATASET
    done = run(tmp_path, DATASET.replace(old, new))
    assert_refused(done, tmp_path, "2:1", "the dataset 'mine'", told)


def test_a_tokenizer_that_decodes_into_other_images_is_refused(tmp_path):
    plugin = '''
from torch import nn
from latentbench.bench.api import LatentSpec, Tokenizer
from latentbench.bench.registry import register


@register("small")
class Small(Tokenizer):
    """Decodes into images of seven columns."""

    def __init__(self, image, expansion):
        super().__init__(image, expansion)
        self.spec = LatentSpec(4, 4)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16 * expansion), nn.Unflatten(1, (4, -1)))
        self.decoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 56), nn.Unflatten(1, (1, 8, 7)))

    @property
    def heads(self):
        return {"encoder": self.encoder[1].weight, "decoder": self.decoder[1].weight}
'''
    text = TINY.replace("  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}", "  small: {}")
    done = run(tmp_path, plugin, text)
    assert_refused(done, tmp_path, "10:3", "the tokenizer 'small'", "decode() gives (6, 1, 8, 7)")


def test_an_extractor_of_another_width_than_it_declares_is_refused(tmp_path):
    plugin = '''
import torch
from latentbench.bench.api import FeatureExtractor, LatentSpec
from latentbench.bench.registry import register


@register("pixels")
class Pixels(FeatureExtractor):
    """The pixels, of which it declares too many."""

    name, channels, spec = "pixels", 65, LatentSpec(4, 16, (2, 2))

    def fingerprint(self):
        return "0" * 64

    def protocol(self):
        return {"weights": "0" * 64, "rounding": "none"}

    def __call__(self, images):
        return images.flatten(1), images.reshape(-1, 4, 16)
'''
    text = TINY.replace("{use: effnet_lite0, resolution: 32}", "{use: pixels}")
    done = run(tmp_path, plugin, text)
    told = "pooled features are (4, 64), not (4, 65)"
    assert_refused(done, tmp_path, "5:1", "the feature extractor 'pixels'", told)


def test_images_that_change_their_size_later_fail_their_stages_by_name(tmp_path):
    late = DATASET.replace(
        "[index]", "[index].repeat(1, 1, 1, 1 if len(index) > 40 or len(index) < 3 else 2)"
    )
    done = run(tmp_path, late)
    assert done.returncode == 1
    (record, *_) = (json.loads(file.read_text()) for file in tmp_path.glob("results/tiny/records/*kl*.json"))
    told = "Mine.images() gives float32 (16, 1, 8, 16); declared is float32 (16, 1, 8, 8)"
    assert record["status"] == "failed" and told in record["reason"]
