"""Images a second at 256 pixels from JPEGs of ImageNet's usual size, by the number of reading processes.

pytest tests/benchmarks/test_reading.py --benchmark-enable -n 0
"""

import numpy as np
import pytest
import torch
from helpers.in_turns import in_turns
from PIL import Image

from latentbench.bench.registry import create
from latentbench.bench.runtime.prefetch import prefetch

FILES, BATCH, BATCHES = 64, 32, 17
WORKERS = {"no process": 0, "1 process": 1, "2 processes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(FILES):
            coarse = Image.fromarray(random.integers(0, 256, (47, 63, 3), np.uint8))
            large = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
            noisy = (large + random.normal(0, 8, large.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / split / f"{i}.JPEG", quality=90)  # about 100 kB, as ImageNet's
    return root


def test_images_per_second(benchmark, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = create("datasets", "imagefolder", root=str(folder), size=256)
    dataset.fingerprint()
    indices = [torch.arange(i * BATCH, (i + 1) * BATCH) % FILES for i in range(BATCHES)]

    def started(way):
        images = prefetch(dataset, "train", indices, WORKERS[way])
        next(images)  # processes have started
        return (images,)

    def read(images):
        return sum(len(batch) for batch in images)

    found = in_turns(benchmark, dict.fromkeys(WORKERS, read), rounds=3, warmup_rounds=0, prepare=started)
    assert set(found.values()) == {BATCH * (BATCHES - 1)}
    if not benchmark.disabled:
        for way, seconds in benchmark.extra_info["seconds"].items():
            benchmark.extra_info[f"images/s, {way}"] = round(found[way] / seconds)
