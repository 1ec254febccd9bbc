"""Images a second at 256 pixels from JPEGs of ImageNet's usual size, by the number of reading processes.

pytest tests/benchmarks/test_reading.py --benchmark-enable -n 0 --benchmark-columns=median,iqr,rounds
"""

import numpy as np
import pytest
import torch
from PIL import Image

from latentbench.bench.registry import create
from latentbench.bench.runtime.prefetch import prefetch

FILES, BATCH, BATCHES = 64, 32, 17


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


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.benchmark(group=f"{BATCH * (BATCHES - 1)} images of 500 x 375 to 256 pixels")
def test_images_per_second(benchmark, workers, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = create("datasets", "imagefolder", root=str(folder), size=256)
    dataset.fingerprint()
    indices = [torch.arange(i * BATCH, (i + 1) * BATCH) % FILES for i in range(BATCHES)]

    def started():
        images = prefetch(dataset, "train", indices, workers)
        next(images)  # processes have started
        return (images,), {}

    def read(images):
        return sum(len(batch) for batch in images)

    total = benchmark.pedantic(read, setup=started, rounds=3)
    assert total == BATCH * (BATCHES - 1)
    if benchmark.stats:
        benchmark.extra_info["images_per_second"] = round(total / benchmark.stats["median"], 1)
