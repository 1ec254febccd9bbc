"""The evaluators of proxies on latents whose values are known, and their replicates."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.fake_subject import FakeExtractor, FakeSubject
from scipy.stats import norm, wasserstein_distance
from torch import nn

from latentbench.bench.api import Flow, ImageSpec, LatentSpec, Regularizer, Tokenizer
from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.epps_pulley import sigreg
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.metrics.local_correlation import local_correlation
from latentbench.bench.metrics.projections import directions
from latentbench.bench.metrics.proxies import (
    label_consistency,
    local_similarity,
    rms_contrast,
    similarity_decay,
    slerp,
    spatial_energy_share,
    velocity_variance,
    viv,
)
from latentbench.bench.registry import create
from latentbench.evaluators.interpolation import chosen_neighbours
from latentbench.evaluators.normality import squared_distances_to_normal
from latentbench.evaluators.sampling_paths import matched_errors
from latentbench.evaluators.velocity_variance import viv_estimate


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cell(z, grid=None, **given):
    spec = LatentSpec(z.shape[1], z.shape[2], grid)
    sets = {"train": z, "val": z}
    return FakeSubject(scope="tokenizer", val=len(z), tokenizer=SimpleNamespace(spec=spec), z=sets, **given)


def scores(name, subject, **options):
    evaluator = create("evaluators", name, **options)
    found = evaluator.run(subject)
    assert found.keys() <= evaluator.metrics.keys() or name == "interpolation"
    assert all("n" in evaluator.protocol(metric, subject) for metric in found)
    return found


# --- VIV ----------------------------------------------------------------------------------------------------


def test_viv_is_that_of_the_formula_by_class_and_as_one():
    z = normal(120, 4, 3) * torch.tensor([1.0, 2.0, 5.0])
    found = scores("velocity_variance", cell(z))
    labels = torch.arange(120) % 10
    assert found["VIV"] == pytest.approx(viv(z, labels).item(), rel=1e-12)
    assert found["VIV_one_class"] == pytest.approx(viv(z, None).item(), rel=1e-12)
    assert sum(found["VIV"].classes.values()) / 10 == pytest.approx(found["VIV"], rel=1e-12)


def weighted_viv(z, weights):
    """VIV of one class whose images have weights, in the channels' scale as well."""
    share = (weights / weights.sum())[:, None, None] / z.shape[1]
    mean = (share * z).sum((0, 1))
    scale = (share * (z - mean).square()).sum((0, 1)) ** -0.5
    return velocity_variance(z, weights, 5, scale).item()


def test_vivs_replicates_are_first_order_changes_by_the_images_weights():
    z, ones = normal(30, 4, 3).double(), torch.ones(30).double()
    steps = 1e-5 * torch.eye(30).double()
    changes = torch.tensor([weighted_viv(z, ones + step) - weighted_viv(z, ones) for step in steps]) / 1e-5
    estimate = viv_estimate("VIV", z, None, 5)
    expected = (counts("VIV", 30) - 1) @ changes.double()
    found = torch.tensor(estimate.replicates).double() - float(estimate)
    assert torch.allclose(found, expected, rtol=0.01, atol=1e-4)  # the scale is that of an unbiased deviation


# --- tokens in space, and neighbours ------------------------------------------------------------------------


def test_spatial_statistics_are_those_of_the_formulas_with_the_grids_own_distances():
    z, grid = normal(40, 64, 6), (8, 8)
    found = scores("spatial", cell(z, grid))
    expected = {
        "LDS": local_similarity(z, grid, 3),
        "CDS": similarity_decay(z, grid, 4),
        "RMSC": rms_contrast(z),
        "SEC_25": spatial_energy_share(z, grid, 0.25),
        "SEC_50": spatial_energy_share(z, grid, 0.5),
        "local_correlation": local_correlation(z.double(), grid),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), abs=1e-6)
        assert torch.tensor(found[name].replicates).mean().item() == pytest.approx(value.item(), abs=0.02)


def test_grids_without_far_tokens_or_windows_lack_what_they_cannot_have():
    assert scores("spatial", cell(normal(20, 4, 3))) == {}
    assert scores("spatial", cell(normal(20, 4, 3), (1, 4))) == {}
    assert "local_correlation" not in scores("spatial", cell(normal(20, 9, 3), (3, 3)))
    assert "local_correlation" not in scores("spatial", cell(normal(20, 16, 1), (4, 4)))


def test_label_consistency_needs_labels_and_more_images_than_neighbours():
    subject = cell(normal(60, 4, 3))
    assert scores("label_neighbours", subject, k=5)["LNC"] == pytest.approx(
        label_consistency(subject.z["val"], torch.arange(60) % 10, 5).item()
    )
    assert scores("label_neighbours", subject, k=60) == {}
    assert subject.left_out["LNC"] == "60 neighbours need more held-out images than 60"
    subject.labels = lambda split: None
    assert scores("label_neighbours", subject) == {}


# --- normality ----------------------------------------------------------------------------------------------


def test_distance_to_the_normal_is_that_of_many_quantiles():
    values = normal(50, 1).double() * 2 + 1
    fine = torch.from_numpy(norm.ppf((torch.arange(200_000).double() + 0.5).numpy() / 200_000))
    repeated = values.sort(0).values[:, 0].repeat_interleave(4000)
    distance, _ = squared_distances_to_normal(values)
    assert distance.item() == pytest.approx((repeated - fine).square().mean().item(), rel=1e-3)
    assert distance.item() ** 0.5 >= wasserstein_distance(values[:, 0].numpy(), fine.numpy())


def test_distance_to_the_normal_has_its_derivative_by_weights():
    values = normal(400, 1).double() * 2 + 1
    distance, shares = squared_distances_to_normal(values)
    change = (shares - shares.mean(0))[:, 0] / 400
    twice = torch.cat([values, values[values[:, 0] > 2]])  # larger values weigh twice
    more, _ = squared_distances_to_normal(twice)
    linear = change[values[:, 0] > 2].sum() * 400 / len(twice)
    assert (more - distance).item() == pytest.approx(linear.item(), rel=0.35)


def test_normality_of_scaled_normal_latents_has_the_closed_form_and_standardised_ones_none():
    z = 2 * normal(2000, 4, 3)
    found = scores("normality", cell(z))
    axes = directions(3, 64)
    assert found["SIGReg"] == pytest.approx(sigreg(z.double().flatten(0, 1), axes.T).item() / 8_000, rel=1e-9)
    assert found["SIGReg"] == pytest.approx(0.236091, rel=0.03)  # of N(0, 4)
    assert found["SWD_normal"] == pytest.approx(1, rel=0.03)  # (2 - 1)^2
    assert found["SWD_normal_standardised"] < 0.002 and found["SIGReg_standardised"] < 0.0005
    few = scores("normality", cell(z), images=500)["SWD_normal"]
    spread = torch.tensor(few.replicates).std().item()
    assert spread == pytest.approx(2 * (2 - 1) * 2 * math.sqrt(0.5 / 500 / 4 / 3), rel=0.5)


# --- iFD ----------------------------------------------------------------------------------------------------


class Pixels(Tokenizer):
    """A latent is four quarters of the pixels; only the encoder can be told to shift."""

    def __init__(self, shift=0.0):
        super().__init__(ImageSpec(1, 8, 8), 1)
        self.decoder, self.shift, self.spec = nn.Linear(1, 1), shift, LatentSpec(4, 16, (2, 2))

    def encode(self, images):
        places = torch.arange(4)[:, None] * self.shift
        return images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 4, 16) + places

    def decode(self, z, grid=None):
        return z.reshape(-1, 1, 2, 2, 4, 4).transpose(3, 4).reshape(-1, 1, 8, 8)


def pixels_cell(n=40, shift=0.0):
    images = normal(n, 1, 8, 8).clamp(-1, 1) * 0.9
    tokenizer = Pixels(shift)
    z = tokenizer.encode(images)
    return FakeSubject(
        scope="tokenizer",
        val=n,
        tokenizer=tokenizer,
        z={"train": z[:30] * 1.1, "val": z},
        train=30,
        regularizer=Regularizer(tokenizer.spec),
        val_images=images,
    )


def test_interpolated_images_are_decoded_between_a_latent_and_its_neighbour():
    subject = pixels_cell()
    z, train = subject.z["val"], subject.z["train"]
    found = scores("interpolation", subject, k=1)["iFD[pixels]"]
    cosines = torch.nn.functional.cosine_similarity(z.flatten(1)[:, None], train.flatten(1), dim=2)
    between = subject.tokenizer.decode(slerp(z, train[cosines.argmax(1)], 0.5).float()).clamp(-1, 1)
    expected = frechet_distance(FakeExtractor()(between)[0], subject.features("val"))
    assert found == pytest.approx(expected, rel=1e-5)
    assert scores("interpolation", subject, alpha=0.0, k=1)["iFD[pixels]"] == pytest.approx(
        frechet_distance(FakeExtractor()(subject.tokenizer.decode(z))[0], subject.features("val")), rel=1e-5
    )


def test_neighbours_are_drawn_by_the_softmax_of_their_distance():
    z, train = torch.zeros(20_000, 1, 1), torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = chosen_neighbours(z, train, torch.tensor([[0, 1, 2]]).expand(20_000, 3), uniform)
    expected = torch.tensor([0.0, -1.0, -4.0]).softmax(0)
    assert torch.allclose(drawn.bincount() / 20_000, expected, atol=0.01)


def test_fewer_training_latents_are_a_fixed_choice_that_the_protocol_names():
    subject = pixels_cell()
    evaluator = create("evaluators", "interpolation", train=12, k=3)
    assert evaluator.run(subject).keys() == {"iFD[pixels]"}
    assert evaluator.protocol("iFD[pixels]", subject)["train_n"] == 12


# --- equivariance of the encoder ----------------------------------------------------------------------------


def test_an_encoder_that_adds_a_place_to_each_token_errs_by_its_squares():
    exact = create("evaluators", "encoder_equivariance")
    # Pixels within a token turn, too: only constant tokens are turned without an error.
    subject = pixels_cell(shift=0.5)
    subject.sets["val"] = normal(40, 1, 2, 2).clamp(-1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    z = subject.tokenizer.encode(subject.images("val").float() / 127.5 - 1)
    subject.mean_z = {"val": z}
    places, turned = torch.arange(4) * 0.5, torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]])
    squares = torch.stack([(places - places[turn]).square().mean() for turn in turned]).mean()
    variance = (z - z.mean((0, 1))).square().mean()
    found = exact.run(subject)["equivariance_error"]
    assert found == pytest.approx((squares / variance).item(), rel=1e-4)


def test_an_encoder_of_single_tokens_has_no_error():
    subject = pixels_cell()
    subject.sets["val"] = normal(40, 1, 2, 2).clamp(-1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    subject.mean_z = {"val": subject.tokenizer.encode(subject.images("val").float() / 127.5 - 1)}
    found = scores("encoder_equivariance", subject)["equivariance_error"]
    assert found == pytest.approx(0, abs=1e-9)


# --- paths --------------------------------------------------------------------------------------------------


class GaussianFlow(Flow):
    """The exact velocity of N(mean, spread^2 I), whose paths bend unless spread is 1 and mean 0."""

    def __init__(self, spread, mean=0.0):
        super().__init__(LatentSpec(4, 3), 0)
        self.spread, self.mean, self.weight = spread, mean, nn.Parameter(torch.zeros(1))

    def velocity(self, x, t, labels, tap=None):
        t = t[:, None, None]
        variance = (1 - t) ** 2 + (t * self.spread) ** 2
        return self.mean + (t * self.spread**2 - (1 - t)) / variance * (x - t * self.mean)


def flow_cell(flow, z):
    subject = FakeSubject(val=len(z), z={"train": z, "val": z}, generator=flow)
    subject.sample_labels = torch.arange(60) % 10
    subject.generator_latents = lambda split: z
    return subject


def test_errors_of_the_exact_flow_are_the_posterior_variances():
    spread, z = 2.0, 2 * normal(4000, 4, 3)
    errors = matched_errors(GaussianFlow(spread), z, normal(4000, 4, 3, seed=1), None, spread)
    ratios = torch.tensor([0.25, 0.5, 1, 2, 4])
    assert errors.mean().item() == pytest.approx((1 / (1 + ratios**2)).mean().item(), rel=0.02)


def test_paths_of_a_gaussian_flow_on_a_line_through_zero_never_turn_but_may_turn_back():
    found = scores("sampling_paths", flow_cell(GaussianFlow(2.5), 2.5 * normal(50, 4, 3)), paths=20)
    # x(t) = x(0) sqrt((1 - t)^2 + 6.25 t^2) falls at first and then rises to 3 x(0).
    x, length = 1.0, 0.0
    for t in torch.arange(50).double() / 50:
        step = x * ((6.25 * t - (1 - t)) / ((1 - t) ** 2 + 6.25 * t**2)).item() / 50
        x, length = x + step, length + abs(step)
    assert found["efficiency"] == pytest.approx((x - 1) / length, abs=1e-5)
    assert found["straightness"] == pytest.approx((49 - 2) / 49, abs=0.001)


def test_generators_without_a_velocity_have_no_paths():
    assert scores("sampling_paths", flow_cell(nn.Linear(1, 1), normal(20, 4, 3))) == {}
    real = FakeSubject(real=True)
    del real.generator  # held-out images have none
    assert scores("sampling_paths", real) == {}
