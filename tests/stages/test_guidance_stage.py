"""The stage that chooses a guidance, against scipy's Fréchet distance, and samples that aren't finite."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch

from latentbench.bench.api import Diverged, from_uint8
from latentbench.bench.registry import create
from latentbench.bench.stages.guidance import guidance, guidance_of

EXTRACTOR = {"name": "effnet_lite0", "options": {"resolution": 32}}
CONTEXT = SimpleNamespace(device="cpu", report=lambda *_: None)


def artifact(**tensors):
    return SimpleNamespace(tensors=tensors, info={}, config={"dataset": {"name": "digits"}})


def frechet(a, b):
    """The distance by scipy's root of the covariances' product."""
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b, gap = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
    return gap @ gap + (cov_a + cov_b).trace() - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real.trace()


@pytest.fixture(scope="module")
def made():
    """Inputs whose samples at w = 2 are the most like the training images, which are random digits."""
    dataset, extractor = create("datasets", "digits"), create("features", "effnet_lite0", resolution=32)
    train = dataset.images("train", torch.arange(400))
    pooled = {"pooled/train": extractor.describe(train, ("pooled",))["pooled"]}
    generator = torch.Generator().manual_seed(0)
    inputs = {"features": artifact(**pooled)}
    for w, noise in ((1.0, 0.6), (2.0, 0.1), (4.0, 0.3)):
        images = dataset.images("train", torch.arange(400, 464))
        images = images + noise * torch.randn(images.shape, generator=generator)
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        inputs[f"samples/{w:g}"] = artifact(images=pixels)
    return inputs, extractor


def chosen(inputs, tried=(1.0, 2.0, 4.0)):
    config = {"extractor": EXTRACTOR, "sweep": list(tried), "samples": 64}
    return guidance(config, inputs, CONTEXT).info


def test_the_chosen_guidance_has_the_least_frechet_distance(made):
    inputs, extractor = made
    found, expected = chosen(inputs), []
    for w in (1, 2, 4):
        images = from_uint8(inputs[f"samples/{w}"].tensors["images"])
        described = extractor.describe(images, ("pooled",))["pooled"]
        expected.append(frechet(described, inputs["features"].tensors["pooled/train"]))
    name = "gFD[effnet_lite0:32]"
    assert found["curve"][name] == pytest.approx(expected, rel=1e-3)
    assert found["chosen"] == 2.0 == (1.0, 2.0, 4.0)[expected.index(min(expected))]
    assert found["edge"] == "" and found["curve"]["chosen"] == [0, 1, 0]
    assert chosen(inputs, (1.0, 2.0))["edge"] == "+"


def test_a_guidance_whose_samples_are_not_finite_is_not_chosen(made):
    inputs = made[0] | {"samples/2": artifact()}
    found = chosen(inputs)
    assert found["chosen"] == 4.0 and found["edge"] == "+"
    assert [d is None for d in found["curve"]["gFD[effnet_lite0:32]"]] == [False, True, False]
    with pytest.raises(Diverged, match="no guidance of the sweep gives finite samples"):
        chosen(inputs | {"samples/1": artifact(), "samples/4": artifact()})


def test_a_stage_takes_its_guidance_from_its_config_or_its_parent():
    parent = {"guidance": SimpleNamespace(info={"chosen": 3.0})}
    assert guidance_of({"guidance": "chosen"}, parent) == 3.0
    assert guidance_of({"guidance": 1.5}, {}) == 1.5 and guidance_of({}, {}) is None
