"""The evaluators `coverage` and `zones`, on sets whose distances are known."""

import math

import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.stats import kstest, norm, wasserstein_distance

from latentbench.bench.api import LatentSpec
from latentbench.bench.metrics.projections import directions, distance_to_normal
from latentbench.bench.registry import create
from latentbench.evaluators import coverage, zones
from latentbench.evaluators.coverage import Coverage
from latentbench.evaluators.zones import LatentZones


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of(z, reference, fresh=None):
    subject = FakeSubject(scope="tokenizer", z={"train": z, "val": z})
    subject.references = {"train": reference if fresh is None else fresh, "val": reference}
    return subject


def test_directions_are_unit_vectors_and_stay_the_same():
    for channels in (2, 5):
        one = directions(channels, 20)
        torch.testing.assert_close(one.norm(dim=1), torch.ones(20).double())
        assert torch.equal(one, directions(channels, 20))


def test_a_shift_has_the_mean_length_of_its_projections():
    a, shift = randn(300, 2), torch.tensor([3.0, 4.0])
    # The mean of |cos| over the circle is 2 / pi.
    assert coverage.sliced_wasserstein(a, a + shift) == pytest.approx(5 * 2 / math.pi, rel=1e-3)


def test_sets_on_an_axis_have_the_distance_along_it_times_the_directions():
    a, b = randn(200), 2 * randn(250, seed=1) + 1
    pad = torch.nn.functional.pad
    found = coverage.sliced_wasserstein(pad(a[:, None], (0, 1)), pad(b[:, None], (0, 1)))
    assert found == pytest.approx(wasserstein_distance(a, b) * 2 / math.pi, rel=1e-3)


def test_the_distance_to_the_normal_is_that_of_the_worst_direction():
    z = randn(4000, 2) * torch.tensor([1.0, 2.0])
    # sup |Phi(x) - Phi(x / 2)| is at x^2 = (8 / 3) log 2.
    x = (8 / 3 * math.log(2)) ** 0.5
    assert distance_to_normal(z) == pytest.approx(norm.cdf(x) - norm.cdf(x / 2), abs=0.03)
    assert distance_to_normal(randn(4000, 2)) < 0.03


def test_latents_like_the_reference_score_as_fresh_samples_do():
    found = Coverage(points=500).run(of(randn(500, 1, 2), randn(500, 1, 2, seed=1), randn(500, 1, 2, seed=2)))
    for name in ("latent_recall", "latent_precision"):
        assert found[name] == pytest.approx(found[f"{name}_real"], abs=0.06)
    assert found["SWD"] < 0.15 and found["SWD_real"] < 0.15 and found["KS"] < 0.08


def test_collapsed_latents_are_precise_and_recall_nothing():
    reference = randn(300, 1, 2)
    found = Coverage(points=300).run(of(1e-4 * randn(300, 1, 2, seed=1), reference))
    assert found["latent_precision"] == 1 and found["latent_recall"] == 0
    lengths = reference[:, 0].norm(dim=1).mean().item()
    assert found["SWD"] == pytest.approx(lengths * 2 / math.pi, rel=0.05)


def test_half_of_two_modes_is_half_recalled():
    modes = torch.tensor([[-5.0, 0.0], [5.0, 0.0]]).repeat(200, 1)[:, None]
    reference = modes + 0.1 * randn(400, 1, 2)
    latents = modes[:1] + 0.1 * randn(400, 1, 2, seed=1)
    found = Coverage(points=400).run(of(latents, reference))
    assert found["latent_recall"] == pytest.approx(0.5, abs=0.03)
    assert found["latent_precision"] > 0.9


def test_as_many_latents_as_asked_for_and_as_many_samples_count_wherever_they_stand():
    z = torch.cat([randn(200, 1, 2), 50 + randn(200, 1, 2)])  # sorted, as a reference may be
    reference = torch.cat([50 + randn(200, 1, 2, seed=1), randn(200, 1, 2, seed=2)])
    subject, evaluator = of(z, reference, reference), Coverage(points=100)
    # A half of 50 and a half of 46 points of 100 would be 4 % x 50 apart.
    assert evaluator.run(subject)["SWD"] < 6
    assert {evaluator.protocol(name, subject)["n"] for name in evaluator.run(subject)} == {100}


def test_tokens_of_more_channels_are_points_too():
    found = Coverage(points=50).run(FakeSubject(scope="tokenizer"))
    assert set(found) == set(Coverage.metrics)
    assert not Coverage().figures(FakeSubject(scope="tokenizer"))


def test_the_figure_has_the_start_and_the_end():
    subject = of(randn(50, 1, 2), randn(50, 1, 2, seed=1))
    steps = torch.arange(0, 1001, 50)
    subject.trajectory = lambda: (steps, randn(len(steps), 50, 1, 2))
    titles = [axis.get_title() for axis in Coverage().figures(subject)["trajectory"].axes]
    assert titles[0] == "step 0" and titles[-1] == "step 1000" and len(titles) == 6
    alone = of(randn(50, 1, 2), randn(50, 1, 2, seed=1))
    alone.trajectory = lambda: (torch.zeros(0), torch.zeros(0, 0, 1, 2))
    assert [axis.get_title() for axis in Coverage().figures(alone)["trajectory"].axes] == ["at the end"]


@pytest.mark.parametrize(
    "g, probability", [(0.9, 0.455764), (0.75, 0.369441), (0.5, 0.158655), (0.35, 0.031645), (0.25, 0.00135)]
)
def test_theorem_1(g, probability):
    assert zones.theorem(g) == pytest.approx(probability, abs=1e-6)


def of_lzn():
    torch.manual_seed(0)
    dataset = create("datasets", "ring", count=300, val=20)
    subject = FakeSubject(scope="tokenizer")
    subject.dataset = dataset
    subject.tokenizer = create(
        "tokenizers", "points", image=dataset.image, expansion=1, dataset=dataset, count=300
    )
    subject.regularizer = create("regularizers", "lzn", spec=LatentSpec(1, 2), classes=0)
    return subject


def test_zones_fill_the_normal_and_overlap_as_proven():
    evaluator, subject = LatentZones(points=300, steps=100, draws=1000), of_lzn()
    found = evaluator.run(subject)
    assert found["zone_KS"] < 0.1
    assert found["misassignment_error"] < 4 * 0.5 / 1000**0.5
    assert found["misassigned[0.9]"] == pytest.approx(0.455764, abs=0.06)
    assert evaluator.protocol("zone_KS", subject)["n"] == 300
    assert evaluator.protocol("misassigned[0.9]", subject)["n"] == 1024
    assert set(evaluator.figures(subject)) == {"zones"}


def test_zones_have_the_distance_that_scipy_finds():
    z = randn(200, 3)
    worst = max(
        kstest(z.double() @ (w / w.norm()), "norm").statistic
        for w in torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    assert distance_to_normal(z) == pytest.approx(worst)


def test_other_methods_have_no_zones():
    subject = of_lzn()
    subject.regularizer = create("regularizers", "none", spec=LatentSpec(1, 2))
    assert LatentZones().run(subject) == {} and LatentZones().figures(subject) == {}
