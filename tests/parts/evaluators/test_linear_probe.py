"""The evaluator `linear_probe` where the best linear classifier is known."""

import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.stats import norm

from latentbench.bench.api import ImageSpec, Tokenizer
from latentbench.bench.registry import create


class Labelled(FakeSubject):
    def __init__(self, labels, **given):
        super().__init__(scope="tokenizer", **{"tokenizer": Tokenizer(ImageSpec(1, 8, 8), 1)} | given)
        self.known = labels

    def labels(self, split):
        return self.known and self.known[split]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probe(latents, labels, **options):
    sizes = {split: len(z) for split, z in latents.items()}
    return create("evaluators", "linear_probe", **options).run(Labelled(labels, z=latents, **sizes))


def classes_of(n, count=2):
    return torch.arange(n) % count


def gaussians(n, apart, seed, tokens=2, channels=3):
    """Two classes of unit variance, `apart` from each other along one number; the other numbers are noise."""
    z = randn(n, tokens, channels, seed=seed)
    z[:, 0, 0] += apart * classes_of(n)
    return 3 * z + 10


def test_two_gaussians_are_told_apart_as_well_as_they_can_be():
    labels = {"train": classes_of(2000), "val": classes_of(4000)}
    found = probe({"train": gaussians(2000, 2, 1), "val": gaussians(4000, 2, 2)}, labels)["probe_accuracy"]
    assert found == pytest.approx(norm.cdf(1), abs=0.02)
    assert found.classes["0"] == pytest.approx(norm.cdf(1), abs=0.03)
    assert sum(found.classes.values()) / 2 == pytest.approx(found)  # of equal size
    spread = torch.tensor(found.replicates).std().item()
    assert spread == pytest.approx((found * (1 - found) / 4000) ** 0.5, rel=0.3)


def test_noise_tells_nothing():
    labels = {"train": classes_of(500, 5), "val": classes_of(1000, 5)}
    found = probe({"train": randn(500, 2, 3), "val": randn(1000, 2, 3, seed=1)}, labels)
    assert found["probe_accuracy"] == pytest.approx(0.2, abs=0.05)
    assert list(found["probe_accuracy"].classes) == ["0", "1", "2", "3", "4"]


def test_what_only_the_order_of_tokens_says_is_lost_by_their_mean():
    labels = {"train": classes_of(300), "val": classes_of(300)}
    first = torch.where(classes_of(300) > 0, 1.0, -1.0)
    latents = {
        split: torch.stack([first, -first], 1)[..., None] + 0.3 * randn(300, 2, 1, seed=seed)
        for seed, split in enumerate(labels)
    }
    assert probe(latents, labels, pool="flatten")["probe_accuracy"] > 0.99
    assert probe(latents, labels, pool="mean")["probe_accuracy"] == pytest.approx(0.5, abs=0.1)


def test_wide_latents_are_pooled_unless_told_otherwise():
    for shape, pool in (((64, 64), "flatten"), ((65, 64), "mean")):
        z = {"train": torch.zeros(4, *shape), "val": torch.zeros(4, *shape)}
        subject = Labelled(None, z=z)
        assert create("evaluators", "linear_probe").protocol("probe_accuracy", subject)["pool"] == pool


class Wise(Tokenizer):
    """Features of an image are its pixels."""

    def __init__(self):
        super().__init__(ImageSpec(1, 8, 8), 1)
        self.weight = torch.nn.Parameter(torch.eye(64))

    def features(self, images):
        return images.flatten(1) @ self.weight


def test_a_tokenizers_own_features_are_probed_beside_latents():
    """The class is in the images, which are the features, and not in the latents."""
    labels = {"train": classes_of(600, 8), "val": classes_of(400, 8)}
    latents = {split: randn(len(known), 2, 3, seed=len(known)) for split, known in labels.items()}
    subject = Labelled(labels, z=latents, train=600, val=400, tokenizer=Wise())
    for split, known in labels.items():
        subject.sets[split].flatten(1)[torch.arange(len(known)), known] += 1.2
    evaluator = create("evaluators", "linear_probe", strength=0.1)
    found = evaluator.run(subject)
    assert found["probe_accuracy"] == pytest.approx(1 / 8, abs=0.07)
    assert 0.6 < found["feature_probe_accuracy"] < found["feature_probe_top5"] < 1
    assert sum(found["feature_probe_top5"].classes.values()) / 8 == pytest.approx(found["feature_probe_top5"])
    protocols = [evaluator.protocol(name, subject) for name in ("probe_accuracy", "feature_probe_top5")]
    assert "latents" in protocols[0] and "latents" not in protocols[1] and "features" in protocols[1]


def test_five_classes_are_always_among_five():
    labels = {"train": classes_of(50, 5), "val": classes_of(50, 5)}
    latents = {split: randn(50, 2, 3) for split in labels}
    subject = Labelled(labels, z=latents, train=50, val=50, tokenizer=Wise())
    assert create("evaluators", "linear_probe").run(subject).keys() == {
        "probe_accuracy",
        "feature_probe_accuracy",
    }


def test_without_labels_there_is_nothing_to_tell():
    assert probe({"train": randn(9, 2, 3), "val": randn(9, 2, 3)}, None) == {}


def test_it_learns_from_as_many_images_as_it_is_given():
    """Of 2000 images it draws 6, from which it can't know much."""
    labels = {"train": classes_of(2000), "val": classes_of(500)}
    latents = {"train": gaussians(2000, 3, 1, 8, 8), "val": gaussians(500, 3, 2, 8, 8)}
    few, many = (probe(latents, labels, images=n)["probe_accuracy"] for n in (6, 2000))
    assert few + 0.1 < many
    subject = Labelled(labels, z=latents, train=2000, val=500)
    protocol = create("evaluators", "linear_probe", images=6).protocol("probe_accuracy", subject)
    assert (protocol["n"], protocol["train"]) == (500, 6)


def test_one_class_has_no_classifier():
    labels = {"train": torch.zeros(20).long(), "val": torch.zeros(20).long()}
    assert probe({"train": randn(20, 2, 3), "val": randn(20, 2, 3, seed=1)}, labels) == {}
