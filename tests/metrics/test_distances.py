from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu
from sklearn.metrics.pairwise import rbf_kernel
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from latentbench.bench.metrics import frechet, kernel, neighbours
from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.frechet import frechet_distance, frechet_estimate, gaussian
from latentbench.bench.metrics.kernel import cmmd_estimate, kernel_distance, kernel_estimate
from latentbench.bench.metrics.neighbours import (
    halves,
    memorisation_estimate,
    nearest,
    overlap,
    overlap_estimates,
    radii,
)
from latentbench.bench.metrics.reuse import once

NAMES = {base: base for base in ("precision", "recall", "density", "coverage", "label_agreement")}


def features(n, seed=0, width=12, shift=0.0, scale=1.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def replicates(estimate):
    return torch.tensor(estimate.replicates, dtype=torch.float64)


def resampled(function, name, a, b, paired=False):
    """The plain bootstrap: the function on resamples as they would be drawn."""
    found = []
    for weights in counts(name, len(a)).long():
        rows = torch.arange(len(a)).repeat_interleave(weights)
        found.append(function(a[rows], b[rows] if paired else b))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 12), (20, 200, 40), (200, 20, 40), (30, 25, 40)])
def test_distances_are_torch_fidelitys_on_the_same_features(n, m, width):
    a, b = features(n, width=width, shift=0.3, scale=1.2), features(m, 1, width)
    one, two = (fid_features_to_statistics(x.double()) for x in (a, b))
    expected = fid_statistics_to_metric(one, two, verbose=False)["frechet_inception_distance"]
    assert frechet_estimate("gFD", a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_estimate("gFD", a, b) == frechet_distance(a, b)
    size = min(n, m) // 2
    of = kid_features_to_metric(a.double(), b.double(), kid_subset_size=size, kid_subsets=100, verbose=False)
    expected = of["kernel_inception_distance_mean"]
    assert kernel_estimate("KD", a, b) == pytest.approx(expected, rel=1e-4)
    assert kernel_distance(a, b) == pytest.approx(kernel_estimate("KD", a, b), rel=1e-6)


def test_the_frechet_distance_is_scipys():
    a, b = features(100), features(80, seed=1) * 2 + 1
    ca, cb = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    cross = np.trace(sqrtm(ca @ cb).real)
    expected = (a.double().mean(0) - b.double().mean(0)).square().sum().item() + np.trace(ca + cb) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_the_kernel_distance_is_near_zero_for_one_distribution_and_grows_with_a_shift():
    same, near, far = (kernel_distance(features(300), features(300, 1, shift=s)) for s in (0.0, 0.3, 1.0))
    assert abs(same) < near / 3 < near < far


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [400, 25])
def test_replicates_follow_the_plain_bootstrap_but_lie_around_the_value(n, paired):
    a = features(n, width=8, scale=1.3, shift=0.5)
    b = a + 0.8 * features(n, 1, width=8) if paired else features(300, 1, width=8)
    functions = (frechet_distance, frechet_estimate), (all_pairs if paired else unbiased, kernel_estimate)
    for function, estimate in functions:
        plain = resampled(function, "x", a, b, paired)
        ours = estimate("x", a, b, paired=paired)
        spread = replicates(ours).std()
        assert spread == pytest.approx(plain.std().item(), rel=0.2 if n > 100 else 0.5)
        assert torch.corrcoef(torch.stack([plain, replicates(ours)]))[0, 1] > (0.9 if n > 100 else 0.6)
        assert abs(replicates(ours).mean() - ours) < spread / 2


def unbiased(a, b):
    """The squared MMD of all images, by a loop over pairs that aren't of equal images."""
    k = lambda x, y: (x.double() @ y.double().T / x.shape[1] + 1) ** 3  # noqa: E731

    def within(x):
        different = (x[:, None] != x).any(2)
        return k(x, x)[different].mean()

    return (within(a) + within(b) - 2 * k(a, b).mean()).item()


def all_pairs(a, b):
    """The same of pairs, without the kernel of an image and its own, or its copies', reconstruction."""
    k = lambda x, y: (x.double() @ y.double().T / x.shape[1] + 1) ** 3  # noqa: E731
    different = (b[:, None] != b).any(2)
    return (k(a, a) + k(b, b) - 2 * k(a, b))[different].mean().item()


def reconstructed(n, seed, width=12):
    originals = features(n, seed, width)
    return 0.9 * originals + 0.3 * features(n, 5000 + seed, width), originals


def test_the_paired_kernel_distance_is_without_bias_and_its_replicates_spread_as_new_pairs_do():
    found = [kernel_estimate("rKD", *reconstructed(40, seed), paired=True) for seed in range(200)]
    assert found[0] == pytest.approx(all_pairs(*reconstructed(40, 0)), abs=1e-4)
    values = torch.tensor([float(one) for one in found])
    one, two = reconstructed(5000, 999)
    truth = all_pairs_in_blocks(one, two)
    assert values.mean().item() == pytest.approx(truth, abs=3 * values.std().item() / 200**0.5)
    spread = torch.stack([replicates(one).std() for one in found]).square().mean().sqrt().item()
    assert spread == pytest.approx(values.std().item(), rel=0.2)


def all_pairs_in_blocks(a, b):
    """For many images: the mean over 50 blocks of them."""
    parts = zip(a.split(100), b.split(100), strict=True)
    return sum(all_pairs(one, two) for one, two in parts) / 50


def share(base):
    return lambda name, a, b: overlap_estimates(NAMES, a, b)[0][base]


ESTIMATES = {
    "FD": frechet_estimate,
    "KD": kernel_estimate,
    "CMMD": cmmd_estimate,
    "precision": share("precision"),
    "recall": share("recall"),
    "coverage": share("coverage"),
}
FEW = {
    "n": 40,
    "width": 60,
    "shift": 0.0,
    "scale": 1.0,
}  # fewer samples than features, of the reference's kind
SPREADS = [(base, {"n": 200, "width": 6, "shift": 0.4, "scale": 1.5}) for base in ESTIMATES] + [
    ("FD", FEW),
    ("FD", {**FEW, "width": 40}),
    ("KD", FEW),
    ("CMMD", {**FEW, "scale": 4.0}),
    ("recall", {**FEW, "n": 100, "width": 20}),
]


@pytest.mark.parametrize(("base", "drawn"), SPREADS)
def test_replicates_spread_as_values_of_new_samples_do(base, drawn):
    reference = features(300, 1000, drawn["width"], scale=drawn["scale"] if drawn["n"] < 200 else 1.0)
    found = [ESTIMATES[base](base, features(seed=seed, **drawn), reference) for seed in range(100)]
    spread = torch.stack([replicates(estimate).std() for estimate in found]).square().mean().sqrt().item()
    true = torch.tensor([float(e) for e in found]).std().item()
    # Beyond the second order, a Frechet distance of fewer samples than features spreads too wide.
    assert 0.75 < spread / true < (1.4 if base == "FD" and drawn["n"] < 200 else 1.25)


def test_equal_sets_are_at_zero_with_all_their_paired_replicates():
    a = features(60)
    found = frechet_estimate("rFD", a, a, paired=True)
    assert found == pytest.approx(0, abs=1e-6) and replicates(found).abs().max() < 1e-5
    few = features(8)  # singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    found = kernel_estimate("rKD", a, a, paired=True)
    assert found == pytest.approx(0, abs=1e-6) and replicates(found).abs().max() < 1e-6


def test_rows_are_resampled_alike():
    b = features(80, 3)
    one, two = (frechet_estimate("gFD", features(90), b), frechet_estimate("gFD", features(90) * 1.01, b))
    assert torch.corrcoef(torch.stack([replicates(one), replicates(two)]))[0, 1] > 0.95
    assert frechet_estimate("gFD", features(90), b).replicates == one.replicates
    assert frechet_estimate("gFD@90", features(90), b).replicates != one.replicates


def test_classes_have_the_kernel_distance_of_their_images():
    a, b = features(40, shift=0.2), features(50, 1)
    labels = torch.arange(40) % 3, torch.arange(50) % 4
    found = kernel_estimate("KD", a, b, labels=labels).classes
    assert found.keys() == {"0", "1", "2"}  # b alone has 3
    for label, value in found.items():
        one, two = a[labels[0] == int(label)], b[labels[1] == int(label)]
        assert value == pytest.approx(unbiased(one, two), rel=1e-3)
    assert kernel_estimate("KD", a, b).classes is None


def test_cmmd_is_the_mean_of_scikit_learns_kernels():
    a, b = features(30, shift=2.0, scale=5), features(40, 1, scale=5)
    k = partial(rbf_kernel, gamma=1 / 200)
    expected = 1000 * (k(a).mean() + k(b).mean() - 2 * k(a, b).mean())
    found = cmmd_estimate("CMMD", a, b)
    assert found == pytest.approx(expected)
    assert cmmd_estimate("CMMD", a, a) == pytest.approx(0, abs=1e-9)
    labels = torch.arange(30) % 2, torch.arange(40) % 2
    even, other = a[::2], b[::2]
    expected = 1000 * (k(even).mean() + k(other).mean() - 2 * k(even, other).mean())
    assert cmmd_estimate("CMMD", a, b, labels).classes["0"] == pytest.approx(expected)


def loop(points, centres, radii):
    """For each point the centres in whose ball it lies."""
    return [[i for i, c in enumerate(centres) if (point - c).norm() <= radii[i]] for point in points.double()]


def test_shares_and_density_are_the_brute_force_ones():
    generated, real = features(30, width=4), features(40, seed=1, width=4, shift=0.4)
    labels = torch.arange(30) % 3, torch.arange(40) % 3

    def reach(points, k):
        points = points.double()
        return [
            sorted((p - q).norm().item() for j, q in enumerate(points) if j != i)[k - 1]
            for i, p in enumerate(points)
        ]

    found, near = overlap_estimates(NAMES, generated, real, labels)
    in_real, in_generated = loop(generated, real, reach(real, 3)), loop(real, generated, reach(generated, 3))
    in_fifth = loop(generated, real, reach(real, 5))
    assert found["precision"] == pytest.approx(sum(map(bool, in_real)) / 30)
    assert found["recall"] == pytest.approx(sum(map(bool, in_generated)) / 40)
    assert found["density"] == pytest.approx(sum(map(len, in_fifth)) / 30 / 5)
    assert found["coverage"] == pytest.approx(len(set(sum(in_fifth, []))) / 40)
    agree = 0.0
    for point, label, distance in zip(generated, labels[0], near, strict=True):
        order = sorted(range(40), key=lambda j, p=point: (p - real[j]).norm().item())
        agree += sum(int(labels[1][j] == label) for j in order[:5]) / 5 / 30
        assert distance == pytest.approx((point - real[order[0]]).norm().item(), rel=1e-5)
    assert found["label_agreement"] == pytest.approx(agree)
    of_class = [bool(balls) for balls, label in zip(in_generated, labels[1], strict=True) if label == 1]
    assert found["recall"].classes["1"] == pytest.approx(sum(of_class) / len(of_class))
    # Without a generated image, coverage falls by the balls that hold it alone.
    balls = [*map(holders(in_fifth), range(40))]
    without = [sum(any(i != gone for i in held) for held in balls) / 40 for gone in range(30)]
    change = found["coverage"] - torch.tensor(without, dtype=torch.float64)
    expected = found["coverage"] + (counts("coverage", 30) - 1) @ change
    torch.testing.assert_close(replicates(found["coverage"]), expected)
    # Of half of them, recall is that of balls among themselves.
    shares = []
    for half in halves("recall", 30):
        some = generated[half]
        assert len(some) == 15
        shares.append(sum(map(bool, loop(real, some, reach(some, 3)))) / 40)
    shares = torch.tensor(shares, dtype=torch.float64)
    torch.testing.assert_close(replicates(found["recall"]), found["recall"] + shares - shares.mean())


def test_halves_of_few_and_of_copies_have_recall():
    a, b = features(6, width=3), features(30, 1, 3)
    assert replicates(overlap_estimates(NAMES, a, b)[0]["recall"]).isfinite().all()
    found, _ = overlap_estimates(NAMES, b, b)
    assert found["recall"] == 1 and replicates(found["recall"]).isfinite().all()
    same, _ = overlap_estimates(NAMES, torch.ones(8, 3), torch.ones(9, 3))
    assert same["recall"] == 1 and set(same["recall"].replicates) == {1.0}
    assert radii(torch.ones(8, 3)).eq(0).all()


def holders(balls):
    return lambda j: [i for i, held in enumerate(balls) if j in held]


def test_memorisation_is_the_mann_whitney_statistic_and_its_replicates_are_those_of_samples():
    train, heldout = features(50, 1).round(), features(30, 2).round()  # ties
    samples = features(40, 3).round() * 0.9
    near, far = nearest(samples, train), nearest(heldout, train)
    found = memorisation_estimate("memorisation", near, heldout, train)
    expected = mannwhitneyu(far, near).statistic / (30 * 40)
    assert found == pytest.approx(expected)
    rows = torch.arange(40).repeat_interleave(counts("memorisation", 40)[7].long())
    assert found.replicates[7] == pytest.approx(mannwhitneyu(far, near[rows]).statistic / (30 * 40))


def test_what_concerns_the_reference_is_computed_once_however_it_is_read(monkeypatch):
    calls = []

    def counting(x):
        calls.append(len(x))
        return gaussian(x)

    monkeypatch.setattr(frechet, "_reference", once(counting))
    b = features(30, 1)
    for seed in (2, 3):
        frechet_estimate("gFD", features(20, seed), b.clone())
    assert calls == [30]
    frechet_estimate("gFD", features(20), b + 1)
    assert calls == [30, 30]


def test_sets_larger_than_a_chunk_are_compared_whole(monkeypatch):
    a, b = features(50), features(70, 1)
    labels = torch.arange(50) % 2, torch.arange(70) % 2
    whole = kernel_estimate("KD", a, b), cmmd_estimate("CMMD", a, b), overlap(a, b, labels)
    for module, name in ((kernel, "_within_reference"), (neighbours, "_radii_of_reference")):
        monkeypatch.setattr(module, "ROWS", 16)
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    assert kernel_estimate("KD", a, b) == pytest.approx(whole[0], rel=1e-4)
    assert cmmd_estimate("CMMD", a, b) == pytest.approx(whole[1])
    for one, two in zip(overlap(a, b, labels), whole[2], strict=True):
        torch.testing.assert_close(one, two)
