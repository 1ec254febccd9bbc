"""The evaluator `class_accuracy` where the classes of samples are known, and against scikit-learn."""

import json

import pytest
import torch
from helpers.fake_subject import FakeExtractor, FakeSubject
from sklearn.linear_model import LogisticRegression

from latentbench.bench.metrics.reuse import once
from latentbench.bench.registry import create
from latentbench.evaluators import class_accuracy
from latentbench.evaluators.class_accuracy import confusion

NAME = "class_accuracy[pixels]"


def toned(n, noise=0.01, seed=0):
    """Images (n, 1, 8, 8) where the pixel of their class is bright: 0 to 9 in turn, FakeSubject's labels."""
    images = noise * torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))
    images[torch.arange(n), torch.arange(n) % 10] += 1
    return images.view(n, 1, 8, 8)


def subject_of(samples, asked, train=None, **given):
    subject = FakeSubject(samples=samples, **given)
    subject.sets["train"] = toned(300) if train is None else train
    subject.sample_labels = asked
    return subject


def run(subject, **options):
    return create("evaluators", "class_accuracy", **options).run(subject)


def test_samples_that_look_like_their_class_all_count_and_none_of_another_class():
    asked = torch.arange(40) % 10
    assert run(subject_of(toned(40, seed=1), asked)) == {NAME: 1}
    assert run(subject_of(toned(40, seed=1), (asked + 1) % 10)) == {NAME: 0}


def test_each_class_has_its_share_and_the_number_replicates_around_it():
    asked = torch.arange(40) % 10
    asked[[0, 10]] = 9  # two of its six
    found = run(subject_of(toned(40, seed=1), asked))[NAME]
    assert found == 38 / 40
    assert found.classes == {str(label): 4 / 6 if label == 9 else 1 for label in range(10)}
    assert torch.tensor(found.replicates).mean() == pytest.approx(found, abs=0.02)


def test_it_tells_what_scikit_learns_converged_regression_tells():
    train, samples = toned(600, 0.6, 1), toned(400, 0.6, 2)
    mean, std = train.flatten(1).double().mean(0), train.flatten(1).double().std(0, correction=0)
    x, y = (((images.flatten(1).double() - mean) / std).numpy() for images in (train, samples))
    labels = torch.arange(600) % 10
    regression = LogisticRegression(C=1 / (0.01 * 600), solver="newton-cholesky", tol=1e-8)
    expected = regression.fit(x, labels.numpy()).score(y, labels[:400].numpy())
    assert 0.3 < expected < 0.9
    found = run(subject_of(samples, labels[:400], train), strength=0.01)[NAME]
    assert found == pytest.approx(expected, abs=0.003)


def test_the_real_row_has_the_name_and_the_protocol_of_samples_but_for_n():
    real = subject_of(toned(20, seed=3), torch.arange(20) % 10, real=True)
    samples = subject_of(toned(40, seed=1), torch.arange(40) % 10)
    assert run(real) == {NAME: 1}
    evaluator = create("evaluators", "class_accuracy")
    ceiling, found = (evaluator.protocol(NAME, subject) for subject in (real, samples))
    assert (ceiling.pop("n"), found.pop("n")) == (20, 40)
    assert ceiling == found == json.loads(json.dumps(found)) and found["reference_n"] == 300


def test_samples_have_a_picture_for_each_guidance_and_real_images_none():
    subject, evaluator = subject_of(toned(40), torch.arange(40) % 10), create("evaluators", "class_accuracy")
    for guidance, name in ((None, "classes"), (1.5, "classes@1.5")):
        subject.guidance = guidance
        assert evaluator.figures(subject).keys() == {name}
    subject.real = True
    assert evaluator.figures(subject) == {}


@pytest.mark.parametrize("asked", [None, torch.full((40,), -1)])
def test_where_no_class_is_asked_for_there_is_nothing(asked):
    subject, evaluator = subject_of(toned(40), asked), create("evaluators", "class_accuracy")
    assert evaluator.run(subject) == evaluator.figures(subject) == {}


@pytest.mark.parametrize("known", [None, torch.zeros(300, dtype=torch.int64)])
def test_where_images_have_no_classes_there_is_nothing(known):
    subject = subject_of(toned(40), torch.zeros(40, dtype=torch.int64))
    subject.labels = lambda split: known
    assert run(subject) == {}


def test_every_extractor_has_a_number():
    subject = subject_of(toned(40), torch.arange(40) % 10)
    subject.extractors = FakeExtractor("one"), FakeExtractor("two")
    assert run(subject).keys() == {"class_accuracy[one]", "class_accuracy[two]"}
    assert create("evaluators", "class_accuracy").protocol("class_accuracy[two]", subject)["features"] == {
        "extractor": "two"
    }


def test_numbers_are_the_same_twice_and_one_classifier_is_fitted_for_all_rows(monkeypatch):
    fits, fit = [], class_accuracy.fit_classifier.__wrapped__

    def counted(*arguments):
        fits.append(arguments)
        return fit(*arguments)

    def scored(seed):
        return run(subject_of(toned(40, 0.6, seed), torch.arange(40) % 10, toned(60, 0.6)))[NAME]

    monkeypatch.setattr(class_accuracy, "fit_classifier", once(counted))
    first, other, again = scored(1), scored(2), scored(1)
    assert len(fits) == 1 and first == again != other
    monkeypatch.setattr(class_accuracy, "fit_classifier", counted)
    afresh = scored(1)
    assert len(fits) == 2 and afresh == first and afresh.replicates == first.replicates


def test_it_learns_from_as_many_images_as_it_is_given():
    """Of 2000 images it draws 12, from which it can't know much."""
    samples, asked, train = toned(200, 0.4, 2), torch.arange(200) % 10, toned(2000, 0.4, 1)
    few, many = (run(subject_of(samples, asked, train), images=n)[NAME] for n in (12, 2000))
    assert few + 0.1 < many
    evaluator = create("evaluators", "class_accuracy", images=12)
    assert evaluator.protocol(NAME, subject_of(samples, asked, train))["reference_n"] == 12


def test_a_line_of_the_confusion_has_the_shares_of_a_class_that_was_asked_for():
    asked, found = torch.tensor([3, 3, 3, 3, 7, 7]), torch.tensor([3, 3, 3, 8, 3, 7])
    classes, shares = confusion(asked, found)
    assert classes.tolist() == [3, 7, 8]
    assert shares.tolist() == [[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 0, 0]]  # 8 was not asked for
