import pytest
import torch
from helpers.fake_subject import FakeExtractor, FakeSubject

from latentbench.bench.data.fixed_order import random_rows
from latentbench.bench.metrics.frechet import frechet_distance, frechet_estimate
from latentbench.bench.registry import create
from latentbench.evaluators.frechet_ratio import mean_of, relative_estimate


class Half(FakeExtractor):
    """The upper half of the pixels, at three times their contrast."""

    channels = 32

    def __call__(self, images):
        pooled, tokens = super().__call__(images)
        return 3 * pooled[:, :32], tokens


class Embedding(FakeExtractor):
    cmmd = True


def run(subject):
    return create("evaluators", "frechet_ratio").run(subject)


def gaussian_points(n, mean, scale=1.0, seed=0):
    """Points (n, 4) whose mean is `mean` in each dimension and whose covariance is scale^2 I, exactly."""
    points = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)).double()
    points -= points.mean(0)
    root = torch.linalg.cholesky(points.T @ points / (n - 1))
    return torch.linalg.solve_triangular(root, points.T, upper=False).T * scale + mean


def test_the_ratio_of_gaussians_is_that_of_their_closed_forms():
    train = gaussian_points(500, 0.0)
    samples, heldout = gaussian_points(80, 1.5, seed=1), gaussian_points(80, 0.5, seed=2)
    assert relative_estimate(samples, heldout, train) == pytest.approx(9.0)  # squared distances of means
    wide, narrow = gaussian_points(80, 0.0, 3.0, seed=3), gaussian_points(80, 0.0, 1.5, seed=4)
    assert relative_estimate(wide, narrow, train) == pytest.approx((3 - 1) ** 2 / (1.5 - 1) ** 2)


def test_replicates_are_the_numerators_over_a_fixed_denominator():
    train = gaussian_points(300, 0.0)
    samples, heldout = gaussian_points(60, 1.0, seed=1), gaussian_points(60, 0.3, seed=2)
    ratio, numerator = relative_estimate(samples, heldout, train), frechet_estimate("FDr", samples, train)
    denominator = frechet_distance(heldout, train)
    assert ratio.replicates == pytest.approx([r / denominator for r in numerator.replicates])
    both = mean_of([ratio, relative_estimate(2 * samples, heldout, train)])
    assert both.replicates[7] == pytest.approx(
        (ratio.replicates[7] + relative_estimate(2 * samples, heldout, train).replicates[7]) / 2
    )


def test_real_images_have_one_by_every_extractor_and_in_the_mean():
    subject = FakeSubject(train=60, val=20, real=True)
    subject.extractors = (FakeExtractor(), Half("half"), Embedding("clip"))
    subject.samples = subject.sets["samples"] = subject.sets["val"]
    found = run(subject)
    assert list(found) == ["FDr", "FDr[pixels]", "FDr[half]"]  # a kernel's embedding has no Frechet distance
    assert list(found.values()) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("samples", [12, 45])
def test_samples_and_held_out_images_are_equally_many(samples):
    subject = FakeSubject(train=60, val=20)
    subject.samples = subject.sets["samples"] = subject.sets["samples"][:samples]
    n = min(samples, 20)
    sets = {of: subject.features(of) for of in ("samples", "val", "train")}
    held_out = sets["val"][random_rows(20, n)]
    truth = frechet_distance(sets["samples"][:n], sets["train"]) / frechet_distance(held_out, sets["train"])
    found = run(subject)
    assert found == {"FDr[pixels]": pytest.approx(truth)}  # one ratio is its own mean
    protocol = create("evaluators", "frechet_ratio").protocol("FDr[pixels]", subject)
    assert protocol["n"] == n and protocol["reference_n"] == 60
    assert protocol["denominator"] == "as many held-out images, not resampled"
    assert protocol["features"] == {"extractor": "pixels"}


def test_the_mean_names_the_networks_that_it_is_over():
    subject = FakeSubject(train=60, val=20)
    subject.extractors = (FakeExtractor(), Half("half"))
    found = run(subject)
    assert found["FDr"] == pytest.approx((found["FDr[pixels]"] + found["FDr[half]"]) / 2)
    protocol = create("evaluators", "frechet_ratio").protocol("FDr", subject)
    assert protocol["features"] == {"pixels": {"extractor": "pixels"}, "half": {"extractor": "half"}}


def test_no_ratio_without_a_distance_of_real_images():
    subject = FakeSubject(train=30, val=30)
    subject.sets["val"] = subject.sets["train"]
    assert run(subject) == {}
    assert "as rounding can tell" in subject.left_out["FDr[pixels]"]
    subject = FakeSubject(train=30, val=1)
    assert run(subject) == {} and "not 1" in subject.left_out["FDr[pixels]"]
