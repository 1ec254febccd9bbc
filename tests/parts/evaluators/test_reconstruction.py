import numpy as np
import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.stats import special_ortho_group
from skimage.metrics import peak_signal_noise_ratio

from latentbench.bench.api import to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.frechet import frechet_distance
from latentbench.bench.registry import create
from latentbench.evaluators.reconstruction import ssim, ssim_window


def pair(side, channels=1, n=3):
    generator = torch.Generator().manual_seed(side)
    a = torch.randint(0, 256, (n, channels, side, side), generator=generator)
    b = (a + torch.randint(-20, 21, a.shape, generator=generator)).clamp(0, 255)
    return a.to(torch.uint8), b.to(torch.uint8)


def test_psnr_is_scikit_images():
    a, b = pair(8, channels=3)
    expected = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)
    ]
    assert psnr(a, b).tolist() == pytest.approx(expected)


def test_an_exact_image_is_one_level_off_in_one_value():
    a = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    b = a.clone()
    b[0, 0, 0, 0] = 1
    assert psnr(a, a) == psnr(a, b) == pytest.approx(10 * np.log10(255**2 * 64))


@pytest.mark.parametrize("side", [8, 16])
def test_ssim_is_the_papers_formula(side):
    """Written out with SciPy's filters: a 7 x 7 box at 8 px, the 11 x 11 Gaussian from 11 px up."""
    a, b = pair(side)
    values = []
    for x, y in zip(a.squeeze(1).double().numpy(), b.squeeze(1).double().numpy(), strict=True):
        small = side < 11

        def mean(v, small=small):
            return uniform_filter(v, 7) if small else gaussian_filter(v, 1.5, radius=5)

        sample = 49 / 48 if small else 1  # scikit-image's unbiased covariance for the box
        mx, my = mean(x), mean(y)
        vx, vy, vxy = (sample * (mean(p * q) - mean(p) * mean(q)) for p, q in ((x, x), (y, y), (x, y)))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        found = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        edge = 3 if small else 5
        values.append(found[edge:-edge, edge:-edge].mean())
    assert ssim(a, b).tolist() == pytest.approx(values)


def test_ssim_windows_fit_the_image_and_vanish_below_three_pixels():
    assert [ssim_window(side, 64)["win_size"] for side in (3, 4, 5, 6, 7, 8, 10, 11, 64)] == [
        3, 3, 5, 5, 7, 7, 7, 11, 11,
    ]  # fmt: skip
    assert ssim_window(1, 2) is None


def test_perfect_reconstructions_have_the_best_scores():
    images = FakeSubject().sets["val"]
    scores = create("evaluators", "reconstruction").run(
        FakeSubject(scope="tokenizer", reconstructions=images)
    )
    assert scores["SSIM"] == 1 and scores["rFD[pixels]"] == pytest.approx(0, abs=1e-4)
    assert scores["PSNR"] == scores["PSNR_mean"] > 60


def test_psnr_is_of_drawn_latents_and_psnr_mean_of_deterministic_ones():
    subject = FakeSubject(scope="tokenizer", mean_reconstructions=FakeSubject().sets["val"])
    scores = create("evaluators", "reconstruction").run(subject)
    assert scores["PSNR"] < 10 and scores["PSNR_mean"] > 60


def test_a_rotation_of_gaussian_features_has_the_closed_forms_distance():
    """FD of N(0, I) to N(m, S) is |m|^2 + tr(I + S - 2 S^(1/2)); the sets are whitened to make it exact."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(200, 6))
    raw = raw - raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    scales, mean = np.array([0.5, 1, 1.5, 2, 3, 0.1]), np.arange(6) / 3
    turn = special_ortho_group.rvs(6, random_state=rng)
    other = white * scales @ turn + mean
    expected = (mean**2).sum() + ((scales - 1) ** 2).sum()
    assert frechet_distance(*map(torch.from_numpy, (white, other))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("PSNR", {"rounding", "latent"}),
        ("SSIM", {"win_size", "data_range"}),
        ("rFD[pixels]", {"features"}),
        ("rKD[pixels]", {"features", "estimator"}),
    ],
)
def test_the_protocol_says_what_a_value_depends_on(name, keys):
    protocol = create("evaluators", "reconstruction").protocol(name, FakeSubject(scope="tokenizer"))
    assert protocol["n"] == 20 and keys <= protocol.keys()


def test_means_over_images_come_with_resamples_and_classes():
    subject = FakeSubject(scope="tokenizer")
    found = create("evaluators", "reconstruction").run(subject)["PSNR"]
    each = psnr(subject.reconstructions(), subject.images("val"))
    assert found == pytest.approx(each.mean().item())
    assert found.replicates[3] == pytest.approx(np.average(each, weights=counts("PSNR", 20)[3]))
    assert found.classes["4"] == pytest.approx(each[[4, 14]].mean().item())


def test_a_row_and_its_copy_differ_by_nothing_in_any_resample():
    one, two = (
        create("evaluators", "reconstruction", lpips="none").run(FakeSubject(scope="tokenizer"))
        for _ in range(2)
    )
    assert all(one[name].replicates == two[name].replicates for name in one)


def test_every_extractor_has_its_distances_but_those_for_cmmd():
    subject = FakeSubject(scope="tokenizer", extractor=["pixels", "other", "clip"])
    subject.extractors[2].cmmd = True
    evaluator = create("evaluators", "reconstruction", lpips="none")
    scores = evaluator.run(subject)
    assert {name for name in scores if "[" in name} == {
        f"{base}[{extractor}]" for base in ("rFD", "rKD") for extractor in ("pixels", "other")
    }
    assert evaluator.protocol("rFD[other]", subject)["features"] == {"extractor": "other"}


def test_the_worst_are_shown_below_their_originals_worst_first():
    images = FakeSubject().sets["val"]
    reconstructions = images.clone()
    for place, error in ((7, 1.0), (3, 0.5), (12, 0.25)):
        reconstructions[place] = images[place] - error * images[place].sign()
    subject = FakeSubject(scope="tokenizer", reconstructions=reconstructions)
    shown = create("evaluators", "reconstruction").figures(subject)["worst"]
    assert shown.dtype == torch.uint8 and shown.shape == (2 * 34 + 2, 16 * 34 + 2, 3)  # 8 pixels as 32
    rows = [
        [shown[top : top + 32 : 4, 2 + 34 * i : 34 * (i + 1) : 4, 0] for i in range(3)] for top in (2, 36)
    ]
    for i, place in enumerate((7, 3, 12)):
        assert torch.equal(rows[0][i], to_uint8(images)[place, 0])
        assert torch.equal(rows[1][i], to_uint8(reconstructions)[place, 0])
