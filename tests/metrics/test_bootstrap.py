"""Resamples depend on the metric and the replicate alone; records hold them to the digits that matter."""

import pytest
import torch

from latentbench.bench.api import Estimate
from latentbench.bench.metrics.bootstrap import REPLICATES, counts, mean_estimate, means, rounded


def test_resamples_are_shared_by_all_rows_and_differ_between_metrics_and_replicates():
    one = counts("PSNR", 50)
    assert one.shape == (REPLICATES, 50) and torch.equal(one.sum(1), torch.full((REPLICATES,), 50.0).double())
    assert torch.equal(one, counts("PSNR", 50)) and not torch.equal(one, counts("SSIM", 50))
    assert len({tuple(row) for row in one.tolist()}) == REPLICATES


def test_replicates_of_a_mean_spread_like_its_standard_error():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    spread = means("PSNR", values).std().item()
    assert spread == pytest.approx(2000**-0.5, rel=0.2)


def test_differences_of_rows_on_the_same_images_are_paired():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(500, generator=generator)
    better = images + 0.1 + 0.01 * torch.randn(500, generator=generator)
    difference = means("PSNR", better) - means("PSNR", images)
    assert difference.std() < means("PSNR", images).std() / 20


def test_estimates_are_numbers_with_replicates_and_classes():
    values, labels = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, -1])
    found = mean_estimate("x", values, labels)
    assert found == 3.0 and isinstance(found, Estimate) and found.classes == {"0": 1.5}
    assert len(found.replicates) == REPLICATES and Estimate(1.0).replicates is None


@pytest.mark.parametrize("scale", [1e-6, 0.03, 1.0, 400.0])
def test_rounding_keeps_a_hundredth_of_the_spread(scale):
    values = (5 + scale * torch.randn(100, generator=torch.Generator().manual_seed(0)).double()).tolist()
    gaps = [abs(a - b) for a, b in zip(values, rounded(values), strict=True)]
    assert max(gaps) <= 0.005 * torch.tensor(values).std().item() * 1.01
    assert sum(len(repr(v)) for v in rounded(values)) < sum(len(repr(v)) for v in values)


def test_constant_replicates_stay():
    assert rounded([1.5] * 100) == [1.5] * 100
