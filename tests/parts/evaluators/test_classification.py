"""The evaluator `classification` with a method that says classes, and with one that doesn't."""

import pytest
import torch
from helpers.fake_subject import FakeSubject

from latentbench.bench.api import ImageSpec, LatentSpec, Regularizer
from latentbench.bench.models.latents import encode
from latentbench.bench.registry import create
from latentbench.regularizers.lzn import LZN

SPEC = LatentSpec(4, 3)


class FirstNumber(Regularizer):
    """A latent's first number is its class."""

    def classify(self, z):
        return z[:, 0, 0].round().long()


def latents(classes):
    return torch.cat([classes[:, None, None].float().expand(-1, 4, 1), torch.zeros(len(classes), 4, 2)], 2)


def score(regularizer, z, mean_z=None):
    sets = {"train": z, "val": z}, {"val": z if mean_z is None else mean_z}
    subject = FakeSubject(scope="tokenizer", val=len(z), regularizer=regularizer, z=sets[0], mean_z=sets[1])
    return create("evaluators", "classification").run(subject)


def test_the_share_that_is_right_is_counted_in_all_and_by_class():
    told = torch.arange(300) % 10  # more than are classified at a time
    told[:30:10] = 7  # of the 30 images of class 0, three
    found = score(FirstNumber(SPEC), latents(told))["zone_accuracy"]
    assert found == pytest.approx(297 / 300) and len(found.replicates) == 100
    assert found.classes == pytest.approx({str(c): 0.9 if c == 0 else 1.0 for c in range(10)})


def test_latents_without_noise_are_classified_apart():
    right = torch.arange(40) % 10
    found = score(FirstNumber(SPEC), latents(0 * right), latents(right))
    assert found == {"zone_accuracy": 0.1, "zone_accuracy_mean": 1.0}


def test_the_minibatch_that_a_latent_depends_on_is_in_the_protocol():
    evaluator = create("evaluators", "classification")
    subjects = [FakeSubject(scope="tokenizer", latent_batch=batch) for batch in (128, 2000, None)]
    for name in evaluator.metrics:
        batches = [evaluator.protocol(name, subject)["latent_batch"] for subject in subjects]
        assert batches == [128, 2000, None]


def test_methods_that_say_no_class_have_no_accuracy():
    assert score(Regularizer(SPEC), torch.zeros(20, 4, 3)) == {}
    assert score(LZN(SPEC, 10), torch.zeros(20, 4, 3)) == {}


def test_draws_from_the_labels_zones_are_known_again():
    torch.manual_seed(0)
    lzn = LZN(SPEC, 10, align=1.0, align_steps=50)
    labels = torch.arange(200) % 10
    with torch.no_grad():
        z = lzn.generator().sample(labels, 1.0, FakeSubject().noise)
    assert score(lzn, z)["zone_accuracy"] > 0.9


def test_alphas_are_tried_on_the_same_noise_from_the_centres_of_zones_outwards():
    torch.manual_seed(0)
    tokenizer = create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1, channels=2)
    zones = LZN(tokenizer.spec, classes=10, anchors="image", align=1.0, align_steps=20)
    subject = FakeSubject(scope="tokenizer", val=64, tokenizer=tokenizer, regularizer=zones, latent_batch=64)
    h = encode(tokenizer, subject.dataset, "val", "cpu")
    centres = {"val": zones.latent(h, None)}
    subject.z, subject.mean_z = centres, centres
    plain, evaluator = (create("evaluators", f"classification{more}") for more in ("", "_by_alpha"))
    found = evaluator.run(subject)
    assert set(found) == set(evaluator.metrics) and len(found) == 7 and zones.alpha == 1.0
    assert found["zone_accuracy_alpha_0"] == plain.run(subject)["zone_accuracy_mean"]
    assert evaluator.protocol("zone_accuracy_alpha_1.2", subject)["alpha"] == 1.2


def test_larger_minibatches_are_the_ones_that_were_asked_for_and_at_most_all_images():
    torch.manual_seed(0)
    tokenizer = create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1, channels=2)
    zones = LZN(tokenizer.spec, classes=10, anchors="image", align=1.0, align_steps=20)
    subject = FakeSubject(scope="tokenizer", val=64, tokenizer=tokenizer, regularizer=zones, latent_batch=16)

    def found(**options):
        evaluator = create("evaluators", "classification_by_alpha", alphas=(1.0,), **options)
        return evaluator, evaluator.run(subject)

    (_, plain), (evaluator, by_batch) = found(), found(batches=(16, 64, 2000))
    values = [by_batch[f"zone_accuracy_alpha_1_batch_{size}"] for size in (16, 64, 2000)]
    assert values[0] == plain["zone_accuracy_alpha_1"] and values[1] == values[2] and len(by_batch) == 3
    batches = [evaluator.protocol(name, subject)["latent_batch"] for name in by_batch]
    assert batches == [16, 64, 64]
