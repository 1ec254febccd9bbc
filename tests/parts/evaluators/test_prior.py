"""The evaluator `prior`: on priors whose distance to the reference is known."""

import math

import pytest
import torch
from helpers.fake_subject import FakeSubject

from latentbench.bench.api import Flow, Generator, LatentSpec, Reference, Regularizer
from latentbench.bench.contracts import evaluators as contract
from latentbench.bench.contracts.common import Part
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.evaluators.prior import Prior

SPEC = LatentSpec(4, 3, (2, 2))


class Drawn(Generator):
    """Samples N(shift, scale^2), shifted by the label, and by the guidance beyond 1."""

    def __init__(self, shift=0.0, scale=1.0, classes=0, spec=SPEC):
        super().__init__(spec, classes)
        self.shift, self.scale = torch.nn.Parameter(torch.tensor(shift)), scale

    def sample(self, labels, guidance, noise):
        z = noise.normal(torch.empty(len(labels), self.spec.tokens, self.spec.channels), "z")
        along = labels[:, None, None].clamp(min=0) + 10.0 * (guidance - 1)
        return self.shift.detach() + self.scale * z + along


class PerToken(Drawn, Flow):
    per_token = True


class Method(Regularizer):
    def __init__(self, **priors):
        super().__init__(SPEC)
        self.of = torch.nn.ModuleDict(priors)

    def priors(self):
        return dict(self.of)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subject(labels=None, mean=0.0, **priors):
    one = FakeSubject(scope="tokenizer", regularizer=Method(**priors))
    sets = {split: randn(400, 4, 3, seed=seed) + mean for seed, split in enumerate(("train", "val"))}
    if labels is not None:
        sets = {split: x + labels[:, None, None] for split, x in sets.items()}
    one.reference = lambda split, own=False: Reference(sets[split], labels)
    return one


def test_a_perfect_prior_scores_as_other_reference_samples_do():
    one, larger = subject(flow=Drawn()), randn(4000, 4, 3, seed=2)
    fresh = one.reference("val")
    one.reference = lambda split, own=False: fresh if split == "val" else Reference(larger)
    found = Prior().run(one)
    assert set(found) == {f"prior_{d}{s}" for d in ("FD", "SWD") for s in ("", "_gaussian", "_real")}
    for distance in ("FD", "SWD"):
        for other in ("_gaussian", "_real"):
            assert found[f"prior_{distance}"] == pytest.approx(found[f"prior_{distance}{other}"], rel=0.25)


def test_a_shift_adds_its_square_to_the_frechet_distance():
    near, far = (Prior().run(subject(flow=Drawn(shift)))["prior_FD"] for shift in (0.0, 2.0))
    # Of 12 values, each shifted by 2; the sample means' errors leave a few percent.
    assert far - near == pytest.approx(12 * 4, rel=0.05)


def test_values_have_replicates_and_nothing_is_nan():
    found = Prior().run(subject(flow=Drawn()))
    assert all(math.isfinite(value) for value in found.values())
    assert len(found["prior_FD"].replicates) == 100


def test_whole_latents_or_single_tokens_are_compared_as_the_prior_knows_them():
    whole, token = subject(flow=Drawn()), subject(flow=PerToken())
    evaluator = Prior(samples=300)
    assert evaluator.protocol("prior_FD", whole)["of"] == "whole latents, 12 values"
    assert evaluator.protocol("prior_FD", token)["of"] == "single tokens"
    for one in (whole, token):
        evaluator.run(one)
        assert evaluator.protocol("prior_FD", one)["n"] == 300
    # A token's distance has 3 of the 12 values.
    far = [Prior(samples=400).run(subject(flow=kind(2.0)))["prior_FD"] for kind in (Drawn, PerToken)]
    assert far[0] == pytest.approx(4 * far[1], rel=0.1)


def test_classes_are_asked_for_in_the_proportions_of_the_training_reference():
    labels = (torch.arange(400) % 10 == 0).long() * 5  # a tenth is of class 5, whose latents lie at 5
    good = Prior().run(subject(labels, flow=Drawn(classes=6)))
    assert good["prior_FD"] == pytest.approx(good["prior_FD_real"], rel=0.5)
    assert good["prior_FD_guided"] > 10 * good["prior_FD"]  # guidance of 2 moves these samples by 10


def test_a_prior_without_classes_is_not_guided():
    labels = torch.arange(400) % 2
    assert "prior_FD_guided" not in Prior().run(subject(labels, flow=Drawn()))
    assert "prior_FD_guided" not in Prior().run(subject(flow=Drawn(classes=2)))  # the reference has none


def test_a_mixture_is_worse_told_by_a_gaussian_along_projections():
    signs = torch.randint(2, (400,), generator=torch.Generator().manual_seed(0)) * 2 - 1
    sets = {s: randn(400, 4, 3, seed=i) * 0.1 + signs[:, None, None] for i, s in enumerate(("train", "val"))}
    one = subject(flow=Drawn())
    one.reference = lambda split, own=False: Reference(sets[split])
    found = Prior().run(one)
    assert found["prior_SWD_gaussian"] > 3 * found["prior_SWD_real"]
    assert found["prior_FD_gaussian"] == pytest.approx(found["prior_FD_real"], abs=0.5)  # equal moments


def test_the_gaussian_is_the_one_with_the_moments_of_train():
    one = subject(mean=3.0, flow=Drawn())
    fresh = one.reference("val").samples.flatten(1)
    assert Prior().run(one)["prior_FD_gaussian"] < 0.05 * frechet_distance(randn(400, 12, seed=5), fresh)


@pytest.mark.parametrize("check", [contract.values, contract.repeats, contract.inputs])
def test_it_keeps_the_contract_on_a_row_with_a_prior(check):
    labels = torch.arange(400) % 3
    check(contract.Scene(Part("evaluators", "prior"), [lambda: subject(labels, flow=Drawn(classes=3))]))


def test_rows_without_priors_have_no_such_numbers_and_several_have_their_names():
    assert Prior().run(FakeSubject(scope="tokenizer", regularizer=Regularizer(SPEC))) == {}
    two = subject(a=Drawn(), b=Drawn(2.0))
    found = Prior().run(two)
    assert found["prior_FD@b"] > 5 * found["prior_FD@a"] and "prior_FD" not in found
    assert Prior().protocol("prior_FD@b", two)["n"] == 400
