from types import SimpleNamespace

import pytest
import torch

from latentbench.bench.api import Noise
from latentbench.bench.registry import create
from latentbench.bench.stages.features import features
from latentbench.bench.stages.subject import Subject
from latentbench.bench.training.context import Context

CONFIG = {
    "dataset": {"name": "digits", "options": {}},
    "extractor": {"name": "effnet_lite0", "options": {"resolution": 32}},
    "images": 20,
}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["logits", "spatial"], {"spatial/train"}),
        (["logits"], set()),
        (["pooled", "logits", "spatial"], {"pooled/train", "pooled/val", "spatial/train"}),
    ],
)
def test_a_stage_keeps_the_outputs_that_metrics_read(outputs, expected, tmp_path):
    made = features(CONFIG | {"outputs": outputs}, {}, Context(tmp_path)).tensors
    assert set(made) == expected
    assert all(len(tensor) == 20 for tensor in made.values())


def test_a_subject_describes_images_by_outputs_that_no_stage_has_kept():
    dataset, extractor = create("datasets", "digits"), create("features", "effnet_lite0", resolution=32)
    inputs = {"features/0": SimpleNamespace(tensors={}, cost={})}
    subject = Subject("generator", inputs, dataset, [extractor], Noise(0), "cpu")
    found = subject.features("val", "logits")
    images = dataset.images("val", torch.arange(dataset.size("val")))
    torch.testing.assert_close(found, extractor.describe(images, ["logits"])["logits"])
