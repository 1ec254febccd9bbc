import math

import numpy as np
import pytest
import torch
from helpers.fake_subject import FakeExtractor, FakeSubject
from torch import nn

from latentbench.bench.api import Bound, ImageSpec, to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.metrics.names import base_name
from latentbench.bench.registry import create
from latentbench.bench.stages.scores import rendered
from latentbench.evaluators.robustness import between, partners, shown_pairs, tolerance, tolerance_estimate


class Quadrants(nn.Module):
    """A decoder that puts four tokens of 16 channels side by side, and remembers what it decoded."""

    decodes = True

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def decode(self, z):
        self.seen.append(z.clone())
        return self.weight * z.reshape(-1, 1, 8, 8)


def subject_of(z, **given):
    """Latents and the images that they are decoded to."""
    subject = FakeSubject(
        val=len(z), scope="tokenizer", z={"val": z, "train": z}, tokenizer=Quadrants(), **given
    )
    subject.sets |= {"val": z.reshape(-1, 1, 8, 8), "reconstructions": z.reshape(-1, 1, 8, 8)}
    return subject


def small_latents(n=60, seed=0):
    """Within ±0.3, so that noise seldom leaves the range of images."""
    return torch.rand(n, 4, 16, generator=torch.Generator().manual_seed(seed)) * 0.6 - 0.3


def test_psnr_under_noise_is_the_noise_level_for_a_decoder_that_copies():
    z = small_latents()
    scores = create("evaluators", "robustness").run(subject_of(z))
    for s in (0.05, 0.1, 0.2, 0.3, 0.5):
        level = 127.5 * s * z.std(correction=0).item()
        error = level**2 + 1 / 12 + 1 / 12  # and both images' rounding
        assert scores[f"PSNR_noise_{s:g}"] == pytest.approx(10 * math.log10(255**2 / error), abs=0.25)
    assert scores["noise_unit"] == pytest.approx(z.std().item(), rel=0.01)


def test_draws_are_the_same_for_every_row_and_level():
    draws = []
    for scale in (1.0, 0.5):
        z = small_latents() * scale
        subject = subject_of(z)
        create("evaluators", "robustness", noise=(0.1, 0.4), distances=(), midpoints=()).run(subject)
        noisy = subject.tokenizer.seen
        assert len(noisy) == 2  # those without noise are the subject's reconstructions
        unit = z.flatten(0, 1).std(0, correction=0)
        draws += [(one - z) / (s * unit) for s, one in zip((0.1, 0.4), noisy, strict=True)]
    for one in draws[1:]:
        torch.testing.assert_close(one, draws[0], atol=1e-4, rtol=1e-4)
    assert draws[0].std().item() == pytest.approx(1, abs=0.05)


def test_a_dead_channel_stays_as_it_is():
    z = small_latents()
    z[..., 3] = 0.1
    subject = subject_of(z)
    create("evaluators", "robustness", midpoints=()).run(subject)
    noisy = subject.tokenizer.seen[-1]
    torch.testing.assert_close(noisy[..., 3], z[..., 3], atol=1e-6, rtol=0)
    assert not torch.allclose(noisy[..., 4], z[..., 4], atol=1e-2)


def test_the_tolerance_is_where_the_curve_crosses_three_decibels():
    noise = [0.0, 0.1, 0.2, 0.5]
    for own in (0.03, 0.15, 0.4):  # the error of a linear decoder without noise
        curve = [-10 * math.log10(own**2 + s**2) for s in noise]
        assert tolerance(noise, curve) == pytest.approx(own * (10**0.3 - 1) ** 0.5)
    assert tolerance(noise, [30, 30, 29, 28]) == math.inf
    assert math.isnan(tolerance(noise, [30, 30, math.nan, 28]))
    assert tolerance(noise, [30, 27, 20, 10]) == pytest.approx(0.1)


def test_a_tolerance_beyond_the_largest_noise_is_a_bound_and_has_no_replicates():
    labels = torch.arange(20) % 2
    falls = torch.where(labels == 1, 5.0, 0.0)
    found = tolerance_estimate({0.0: torch.full((20,), 30.0), 0.5: 30 - falls}, labels)
    assert (found, found.side, found.replicates) == (0.5, "above", None)
    assert found.classes["0"] == 0.5 and found.classes["0"].side == "above"
    assert found.classes["1"] < 0.5 and not isinstance(found.classes["1"], Bound)


def test_constant_latents_tolerate_no_noise():
    scores = create("evaluators", "robustness").run(subject_of(torch.zeros_like(small_latents())))
    assert scores["noise_unit"] == 0 and "noise_tolerance" not in scores


def test_resamples_that_just_dont_fall_by_three_decibels_are_taken_on_by_the_same_line():
    noise, own = [0.0, 0.1, 0.2], 0.21
    curve = [-10 * math.log10(own**2 + s**2) for s in noise]
    assert tolerance(noise, curve) == math.inf
    assert tolerance(noise, curve, beyond=True) == pytest.approx(own * (10**0.3 - 1) ** 0.5)
    assert tolerance(noise, [30, 29, 30], beyond=True) == math.inf
    falls = 3.3 + torch.randn(40, generator=torch.Generator().manual_seed(0))
    replicates = tolerance_estimate({0.0: torch.full((40,), 30.0), 0.5: 30 - falls}, None).replicates
    assert max(replicates) > 0.501 > 0.48 > min(replicates) and all(map(math.isfinite, replicates))


def test_replicates_and_classes_are_those_of_the_mean_curve():
    z = small_latents()
    scores = create("evaluators", "robustness").run(subject := subject_of(z))
    levels = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5]
    images = subject.images("val")
    curves = [psnr(to_uint8(one.reshape(-1, 1, 8, 8)), images) for one in (z, *subject.tokenizer.seen[:5])]
    weights, found = counts("noise_tolerance", 60)[7], scores["noise_tolerance"]
    means = [np.average(curve, weights=weights) for curve in curves]
    assert found.replicates[7] == pytest.approx(tolerance(levels, means))
    of_class = [curve[subject.labels("val") == 3].mean().item() for curve in curves]
    assert found.classes["3"] == pytest.approx(tolerance(levels, of_class))
    assert len(scores["rFD_noise_0.1[pixels]"].replicates) == 100


def test_distances_are_those_of_what_was_decoded():
    z = small_latents()
    subject = subject_of(z, extractor=["pixels", "other"])
    evaluator = create(
        "evaluators", "robustness", noise=(), distances=(0.2,), midpoints=("spherical", "linear")
    )
    scores = evaluator.run(subject)
    noisy, *midpoints = subject.tokenizer.seen
    names = ["rFD_noise_0.2", "rFD_interpolated", "rFD_interpolated_linear"]
    for name, decoded in zip(names, (noisy, *midpoints), strict=True):
        expected = frechet_distance(decoded.reshape(-1, 64), z.reshape(-1, 64))
        assert scores[f"{name}[pixels]"] == pytest.approx(expected, rel=1e-4)
    assert not any("other" in name for name in scores)


def test_ways_between_latents_keep_their_ends_and_on_the_sphere_their_distance_and_pace():
    a, b = (torch.nn.functional.normalize(torch.randn(5, 12), dim=1).reshape(5, 3, 4) for _ in range(2))
    centre = torch.randn(4)
    a, b = 3 * a + centre, 3 * b + centre
    for way in ("spherical", "linear"):
        torch.testing.assert_close(between(a, b, 0.0, way, centre), a)
        torch.testing.assert_close(between(a, b, 1.0, way, centre), b)
    torch.testing.assert_close(between(a, b, 0.25, "linear", centre), 0.75 * a + 0.25 * b)

    def angle(x, y):
        return torch.nn.functional.cosine_similarity(*((one - centre).flatten(1) for one in (x, y))).acos()

    quarter = between(a, b, 0.25, "spherical", centre)
    torch.testing.assert_close((quarter - centre).flatten(1).norm(dim=1), torch.full((5,), 3.0))
    torch.testing.assert_close(angle(a, quarter), angle(a, b) / 4, atol=1e-3, rtol=1e-3)


def test_latents_that_point_the_same_or_the_opposite_way_are_joined_by_a_line():
    a = torch.ones(1, 1, 2)
    zero = torch.zeros(2)
    for b, expected in ((a, 1.0), (3 * a, 2.0), (-a, 0.0)):
        torch.testing.assert_close(between(a, b, 0.5, "spherical", zero), torch.full_like(a, expected))


def test_every_image_has_two_partners_other_than_itself():
    pairs = partners(11)
    assert all(sorted(side.tolist()) == list(range(11)) for side in pairs.T)
    assert (pairs[:, 0] != pairs[:, 1]).all() and torch.equal(pairs, partners(11))


def test_the_shown_pairs_are_four_of_one_class_and_four_of_two():
    labels = torch.arange(40) % 10
    one, two = labels[shown_pairs(40, labels)].T
    assert (one == two).tolist() == [True] * 4 + [False] * 4
    assert len(shown_pairs(40, None)) == 8 and len(shown_pairs(3, None)) == 3
    assert len(shown_pairs(2, torch.tensor([0, 1]))) == 1


def test_pictures_show_the_curves_and_the_ways():
    z = small_latents()
    evaluator, subject = create("evaluators", "robustness"), subject_of(z)
    figures = evaluator.figures(subject)
    assert set(figures) == {"noise", "interpolation"}
    assert [len(axis.lines[0].get_xdata()) for axis in figures["noise"].axes] == [6, 3]
    assert rendered(figures["noise"]).dim() == 3
    ways = figures["interpolation"]  # 8 pairs of 7 steps; 8 x 8 pixels are enlarged to 32, 2 between
    assert ways.dtype == torch.uint8 and ways.shape == (8 * 34 + 2, 7 * 34 + 2, 3)
    first = z[shown_pairs(60, subject.labels("val"))[0, 0]].reshape(1, 8, 8)
    assert torch.equal(ways[2:34:4, 2:34:4, 0], to_uint8(first)[0])


def test_every_value_has_a_meaning_and_one_protocol_for_all_rows():
    options = {"noise": (0.15,), "distances": (0.25,), "midpoints": ("linear", "spherical")}
    evaluator = create("evaluators", "robustness", **options)
    rows = [subject_of(small_latents(seed=seed) * scale) for seed, scale in ((0, 1.0), (1, 0.5))]
    names = set(evaluator.run(rows[0]))
    assert {"PSNR_noise_0.15", "PSNR_noise_0.25", "rFD_noise_0.25[pixels]"} < names
    for name in names:
        one, other = (evaluator.protocol(name, row) for row in rows)
        assert base_name(name) in evaluator.metrics and one == other and one["n"] == 60
    assert evaluator.protocol("PSNR_noise_0.15", rows[0])["noise"] == 0.15
    assert evaluator.protocol("rFD_interpolated_linear[pixels]", rows[0])["way"] == "linear"


def test_extractors_for_cmmd_have_no_frechet_distances():
    subject = subject_of(small_latents(20))
    subject.extractors[0].cmmd = True
    assert not any(name.startswith("rFD") for name in create("evaluators", "robustness").run(subject))
    subject.extractors = (*subject.extractors, FakeExtractor("second"))
    assert "rFD_noise_0.1[second]" in create("evaluators", "robustness").run(subject)


@pytest.mark.parametrize("name", ["robustness", "reconstruction"])
def test_points_have_what_means_something_for_them(name):
    dataset = create("datasets", "grid")
    image = ImageSpec(1, 1, 2)
    tokenizer = create("tokenizers", "points", image=image, expansion=1, dataset=dataset, count=64)
    points = dataset.images("val", torch.arange(40))
    with torch.no_grad():
        z = tokenizer.encode(points)
        reconstructions = tokenizer.decode(z).clamp(-1, 1)
    subject = FakeSubject(
        val=40,
        scope="tokenizer",
        tokenizer=tokenizer,
        z={"val": z, "train": z},
        reconstructions=reconstructions,
    )
    subject.dataset, subject.sets["val"] = dataset, points
    subject.extractors = (create("features", "coordinates"),)
    evaluator = create("evaluators", name)
    scores = evaluator.run(subject)
    assert all(math.isfinite(value) for key, value in scores.items() if key != "noise_tolerance")
    assert not any(base_name(one) in ("SSIM", "LPIPS") for one in scores)
    assert all(evaluator.protocol(one, subject)["n"] == 40 for one in scores)
    assert set(evaluator.figures(subject)) <= {"noise"}
