import pytest
import torch

from latentbench.bench.api import Unfit
from latentbench.bench.metrics import one_pass
from latentbench.bench.metrics.kernel import KD_SUBSETS, kernel_estimate
from latentbench.bench.metrics.neighbours import REACH, _holding, halves, overlap, overlap_estimates
from latentbench.bench.metrics.one_pass import kernel_and_overlap, kernel_and_overlap_estimates

NAMES = {base: base for base in ("precision", "recall", "density", "coverage", "label_agreement")}


def features(n, seed=0, width=90, shift=0.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift


def sets(width, far=0.0):
    generated, real = 1.2 * features(230, 0, width, 0.3) + far, features(260, 1, width) + far
    return generated, real, (torch.arange(230) % 3, torch.arange(260) % 3)


@pytest.mark.parametrize(("width", "far"), [(5, 0), (90, 0), (90, 30)])
def test_one_pass_has_the_numbers_of_both_passes(width, far, monkeypatch):
    monkeypatch.setattr("latentbench.bench.metrics.kernel.ROWS", 100)  # several blocks
    monkeypatch.setattr("latentbench.bench.metrics.neighbours.ROWS", 70)
    generated, real, labels = sets(width, far)
    shares, near = overlap_estimates(NAMES, generated, real, labels)
    distance = kernel_estimate("KD", generated.double(), real.double(), labels=labels)
    found, nearest = kernel_and_overlap_estimates("KD", NAMES, generated, real, labels)
    assert list(found) == ["KD", *shares] and nearest.equal(near)
    for name, share in shares.items():
        assert found[name] == share and found[name].replicates == share.replicates
    scale = (1 + far**2) ** 3  # of the kernel's values
    assert found["KD"] == pytest.approx(distance, abs=1e-5 * scale)
    assert found["KD"].replicates == pytest.approx(distance.replicates, abs=1e-5 * scale)
    assert found["KD"].classes == pytest.approx(distance.classes, abs=1e-5 * scale)


def test_the_part_of_the_reference_is_computed_once(monkeypatch):
    calls, reference = [], one_pass._reference.__wrapped__

    def counting(real, weights):
        calls.append(len(real))
        return reference(real, weights)

    monkeypatch.setattr(one_pass, "_reference", one_pass.once(counting))
    generated, real, labels = sets(20)
    for some in (generated, generated + 1):
        kernel_and_overlap(some, real.clone(), labels)
    assert calls == [260]


def test_values_without_choices_are_those_with_them():
    generated, real, _ = sets(90)
    _, mmd, shares = kernel_and_overlap(generated, real)
    all_shares = overlap(generated, real, None, halves("recall", len(generated)))
    assert len(mmd.unbiased) == KD_SUBSETS and len(shares.recall) == 1
    assert shares.recall[0].equal(all_shares.recall[0]) and shares.inside.equal(all_shares.inside)


def test_too_few_images_for_subsets_are_unfit():
    with pytest.raises(Unfit, match="4 images"):
        kernel_and_overlap(features(3), features(30))


def test_a_ball_holds_what_fewer_than_three_chosen_neighbours_are_nearer_than():
    generator = torch.Generator().manual_seed(0)
    who = torch.stack([torch.randperm(50, generator=generator)[:REACH] for _ in range(50)])
    chosen = torch.rand(130, 50, generator=generator) < 0.4  # three words
    holding = torch.from_numpy(_holding(who, chosen))
    for choice, member in enumerate(chosen):
        nearer = torch.cat([torch.zeros(50, 1), member[who].cumsum(1)], 1)
        expected = (nearer < 3) & member[:, None]
        expected[:, -1] = False
        assert (holding[choice // 60] >> (choice % 60) & 1).bool().equal(expected)
