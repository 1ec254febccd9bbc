import pytest
import torch
from helpers.fake_subject import FakeExtractor, FakeSubject

from latentbench.bench.data.fixed_order import random_rows
from latentbench.bench.metrics.names import INCEPTION
from latentbench.bench.metrics.proxies import sliced_distance
from latentbench.bench.metrics.sliced import random_directions
from latentbench.bench.registry import create


class Inception(FakeExtractor):
    def protocol(self):
        return {"extractor": self.name, "weights_sha256": INCEPTION}


def run(subject):
    return create("evaluators", "mind").run(subject)


def protocol(name, subject):
    return create("evaluators", "mind").protocol(name, subject)


def distance(a, b):
    return sliced_distance(a, b, random_directions(a.shape[1])).item()


def test_samples_are_scored_at_their_number_and_at_that_of_held_out_images():
    subject = FakeSubject(train=60, val=20)
    subject.samples = subject.sets["samples"] = subject.sets["samples"][:45]
    samples, train = subject.features("samples"), subject.features("train")
    assert run(subject) == {
        "MIND[pixels]": pytest.approx(distance(samples, train[random_rows(60, 45)])),
        "MIND@20[pixels]": pytest.approx(distance(samples[:20], train[random_rows(60, 20)])),
    }
    assert protocol("MIND[pixels]", subject)["n"] == 45
    assert protocol("MIND@20[pixels]", subject)["reference_n"] == 20


def test_of_more_samples_than_training_images_a_random_choice_counts():
    subject = FakeSubject(train=30, val=80)
    subject.samples = subject.sets["samples"] = torch.rand(50, 1, 8, 8) * 2 - 1
    samples, train = subject.features("samples"), subject.features("train")
    assert run(subject) == {"MIND[pixels]": pytest.approx(distance(samples[random_rows(50, 30)], train))}
    assert protocol("MIND[pixels]", subject)["n"] == 30


def test_held_out_images_are_scored_at_their_number():
    subject = FakeSubject(train=60, val=20, real=True)
    subject.samples = subject.sets["samples"] = subject.sets["val"]
    assert list(run(subject)) == ["MIND@20[pixels]"]


def test_the_plain_name_is_of_inceptions_features():
    subject = FakeSubject(train=30, val=40)
    subject.extractors = (Inception("inception"), FakeExtractor())
    assert list(run(subject)) == ["MIND", "MIND[pixels]"]
    assert protocol("MIND", subject)["features"]["weights_sha256"] == INCEPTION
    assert protocol("MIND", subject)["directions"] == 1000
