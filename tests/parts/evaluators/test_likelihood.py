"""The evaluator `likelihood`, with regularizers whose losses are known in closed form."""

import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.stats import multivariate_normal

from latentbench.bench.api import LatentSpec, Noise, Reference, Regularizer
from latentbench.bench.data.fixed_order import fixed_order
from latentbench.bench.metrics.latent_loss import is_potential, pearson
from latentbench.bench.registry import create, get
from latentbench.evaluators.likelihood import LatentLikelihood, landscape


class OfLikelihood(Regularizer):
    """Descends the true NLL, with zero-mean noise on top."""

    def __init__(self, dataset, weight=0.01, noise=0.0):
        super().__init__(LatentSpec(1, 2))
        self.dataset, self.weight, self.noise = dataset, weight, noise

    def loss(self, z, h, step):
        nll = -self.dataset.log_prob(z[:, 0]) + self.noise * step.noise.normal(z[:, 0, 0], "noise")
        return {"nll": self.weight * nll.mean()}


class Surrogate(OfLikelihood):
    """The same gradient by a loss whose value is half its square."""

    def loss(self, z, h, step):
        inner = z.detach().requires_grad_()
        with torch.enable_grad():
            direction = torch.autograd.grad(super().loss(inner, inner, step)["nll"] * len(z), inner)[0]
        return {"nll": 0.5 * (z - (z - direction).detach()).square().mean()}


class Coupled(OfLikelihood):
    couples = "loss"


def of(name="ring", regularizer=OfLikelihood, probes=5, **options):
    dataset = create("datasets", name, count=200, val=150)
    subject = FakeSubject(scope="tokenizer")
    subject.dataset = dataset
    subject.regularizer = regularizer(dataset, **options)
    fresh = dataset.images("val", torch.arange(150)).flatten(1) / dataset.scale
    subject.references = {"train": fresh[:, None], "val": fresh[:, None]}
    subject.z = {"train": torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(1))}
    way = subject.z["train"][:100] * (1 - torch.arange(probes) / 10)[:, None, None, None]
    subject.trajectory = lambda: (torch.arange(probes) * 50, way)
    return subject


SMALL = {"grid": 9, "support": 40, "draws": 8}


def test_nlls_are_those_of_the_density():
    subject = of("grid")
    found = LatentLikelihood(points=100, **SMALL).run(subject)
    z = subject.z["train"][fixed_order(200)[:100], 0].double()
    assert found["NLL"] == pytest.approx(-subject.dataset.log_prob(z).mean().item())
    # 16 components that hardly overlap: the entropy of one, and log 16.
    deviation = 0.1 / (1.25 + 0.01) ** 0.5
    expected = multivariate_normal([0, 0], deviation**2).entropy() + torch.tensor(16.0).log().item()
    assert found["NLL_real"] == pytest.approx(expected, abs=4 / 150**0.5)


def test_a_loss_that_is_the_likelihood_correlates_fully():
    found = LatentLikelihood(**SMALL).run(of())
    for where in ("training", "plane", "support"):
        assert found[f"NLL_correlation_{where}"] == pytest.approx(1, abs=1e-4)


def test_noise_that_all_points_share_does_not_lower_the_correlation():
    found = LatentLikelihood(**SMALL).run(of(noise=50.0))
    assert found["NLL_correlation_support"] == pytest.approx(1, abs=1e-4)


def test_its_weight_does_not_change_the_correlation():
    one, two = (LatentLikelihood(**SMALL).run(of("moons", weight=weight)) for weight in (1e-3, 10.0))
    assert one == pytest.approx(two, abs=1e-4)


@pytest.mark.parametrize("regularizer", [Surrogate, Coupled])
def test_a_loss_that_is_no_function_of_a_latent_has_no_correlation(regularizer):
    found = LatentLikelihood(**SMALL).run(of(regularizer=regularizer))
    assert set(found) == {"NLL", "NLL_real"}


def test_without_probes_there_is_no_correlation_along_training():
    found = LatentLikelihood(**SMALL).run(of(probes=0))
    assert "NLL_correlation_training" not in found and "NLL_correlation_plane" in found


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("flow_prior", {}, True),
        ("none", {}, False),
        ("kl", {}, False),
        ("lzn", {}, False),
        ("dmvae", {}, False),
        ("dmvae", {"objective": "real_score_both"}, True),
        ("dmvae", {"objective": "real_score_ascent"}, False),
    ],
)
def test_of_the_methods_those_with_a_potential_are_known(name, options, expected):
    torch.manual_seed(0)
    spec = LatentSpec(1, 2)
    facts = {"classes": 0, "reference_spec": spec, "reference_classes": 0}
    known = get("regularizers", name).__init__.__annotations__
    regularizer = create(
        "regularizers", name, spec=spec, **{k: v for k, v in facts.items() if k in known}, **options
    )
    with torch.no_grad():  # layers that start at zero would make every network's field the same
        for p in regularizer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert is_potential(regularizer, torch.randn(64, 1, 2), Noise(0)) is expected


def test_the_landscape_of_a_flow_to_the_normal_is_its_closed_form():
    # For N(0, I) the best field is v = (2 t - 1) / (t^2 + (1 - t)^2) x, and the mean loss of an element at
    # z is (pi / 4) (z^2 + 1).
    torch.manual_seed(0)
    regularizer = create(
        "regularizers", "flow_prior", spec=LatentSpec(1, 2), reference_spec=LatentSpec(1, 2), weight=1.0
    )

    def velocity(x, t, labels):
        t = t.reshape(-1, 1, 1)
        return (2 * t - 1) / (t.square() + (1 - t).square()) * x

    regularizer.prior.velocity = velocity
    points = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 1.0]])
    found = landscape(regularizer, points, 20_000, Noise(0), 0)
    expected = torch.pi / 4 * (points.square().mean(1) + 1)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_a_constant_series_correlates_with_nothing():
    assert pearson(torch.ones(5), torch.arange(5)) is None
    assert pearson(torch.arange(5), -2 * torch.arange(5)) == pytest.approx(-1)


@pytest.mark.parametrize("regularizer, panels", [(OfLikelihood, 3), (Surrogate, 2)])
def test_the_figure_shows_the_loss_where_there_is_one(regularizer, panels):
    figure = LatentLikelihood(**SMALL).figures(of(regularizer=regularizer))["likelihood"]
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == panels


def test_protocols_say_which_density_and_how_many():
    for name, density in (("ring", "true"), ("spiral", "smoothed by a Gaussian kernel of 0.1")):
        subject, evaluator = of(name), LatentLikelihood(points=100, **SMALL)
        found = {key: evaluator.protocol(key, subject) for key in evaluator.run(subject)}
        assert {protocol["density"] for protocol in found.values()} == {density}
        counts = [protocol["n"] for protocol in found.values()]
        assert counts == [100, 150, 5, 81, 40]


def test_other_datasets_are_refused():
    subject = FakeSubject(
        scope="tokenizer", regularizer=create("regularizers", "none", spec=LatentSpec(4, 3))
    )
    with pytest.raises(ValueError, match="s_curve"):
        LatentLikelihood().run(subject)


def test_references_are_used_in_the_units_of_the_frame():
    subject = of()
    assert isinstance(subject.reference("val"), Reference)
    assert LatentLikelihood(**SMALL).run(subject)["NLL_real"] == pytest.approx(
        -subject.dataset.log_prob(subject.references["val"][:, 0].double()).mean().item()
    )


def test_a_loss_that_cannot_be_batched_has_the_same_landscape():
    class Branching(OfLikelihood):
        def loss(self, z, h, step):
            return super().loss(z, h, step) if z.sum().item() < 1e9 else {}

    dataset = create("datasets", "ring", count=20, val=20)
    points = torch.randn(40, 2)
    one, two = (
        landscape(cls(dataset, noise=1.0), points, 4, Noise(0), 0) for cls in (OfLikelihood, Branching)
    )
    torch.testing.assert_close(one, two)
