import json

import numpy as np
import pytest
import torch
import torch_fidelity
from helpers.fake_subject import FakeExtractor, FakeSubject
from torch.utils.data import TensorDataset
from torch_fidelity import FeatureExtractorBase

from latentbench.bench.api import from_uint8, to_uint8
from latentbench.bench.data.fixed_order import fixed_order
from latentbench.bench.metrics.bootstrap import counts
from latentbench.bench.metrics.kernel import kernel_distance
from latentbench.bench.metrics.names import INCEPTION, base_name
from latentbench.bench.metrics.precision_recall import precision_recall
from latentbench.bench.registry import create
from latentbench.evaluators import generation
from latentbench.evaluators.generation import inception_score

SHARES = {"precision", "recall", "density", "coverage"}


def describe(images):
    """uint8 (B, c, H, W) -> twelve features of the first bytes, and ten logits."""
    features = images.flatten(1)[:, :12].float() / 64 - 2
    weights = torch.randn(12, 10, generator=torch.Generator().manual_seed(1))
    return {"pooled": features, "logits": features @ weights, "spatial": features[:, :7] ** 2}


class Network(FakeExtractor):
    outputs = ("pooled", "tokens", "logits", "spatial")

    def __init__(self, name="network", sha256="0"):
        super().__init__(name)
        self.sha256 = sha256

    def protocol(self):
        return {"extractor": self.name, "weights_sha256": self.sha256}

    def describe(self, images, outputs):
        return {name: describe(to_uint8(images))[name] for name in outputs}


class Embedding(FakeExtractor):
    cmmd = True


class ForTorchFidelity(FeatureExtractorBase):
    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)

    def forward(self, x):
        return tuple(describe(x)[name] for name in self.features_list)

    get_provided_features_list = staticmethod(lambda: ("pooled", "logits"))
    get_default_feature_layer_for_metric = staticmethod(lambda m: "logits" if m == "isc" else "pooled")
    can_be_compiled = staticmethod(lambda: False)
    get_dummy_input_for_compile = staticmethod(lambda: None)
    get_default_name = staticmethod(lambda: "described")


class Images(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


def subject_of(extractors, labels=None, **given):
    subject = FakeSubject(**given)
    subject.extractors, subject.sample_labels = tuple(extractors), labels
    return subject


def run(subject):
    return create("evaluators", "generation").run(subject)


def test_scores_equal_torch_fidelitys_own_run():
    generator = torch.Generator().manual_seed(0)
    generated, real = (torch.randint(0, high, (90, 3, 2, 2), generator=generator) for high in (200, 256))
    generated, real = generated.to(torch.uint8), real.to(torch.uint8)
    torch_fidelity.register_feature_extractor("described", ForTorchFidelity)
    expected = torch_fidelity.calculate_metrics(
        input1=Images(generated), input2=Images(real), feature_extractor="described", cuda=False, isc=True,
        save_cpu_ram=True, fid=True, kid=True, prc=True, kid_subset_size=45, verbose=False, cache=False,
    )  # fmt: skip
    subject = subject_of([Network()], samples=from_uint8(generated))
    subject.sets["train"] = from_uint8(real)
    found = run(subject)
    assert found["gFD[network]"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert found["KD[network]"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert found["IS[network]"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found["precision[network]"] == pytest.approx(expected["precision"])
    assert found["recall[network]"] == pytest.approx(expected["recall"])
    a, b = describe(generated)["pooled"], describe(real)["pooled"]
    assert kernel_distance(a, b) == pytest.approx(found["KD[network]"])
    assert precision_recall(a, b) == pytest.approx((expected["precision"], expected["recall"]))


def test_the_inception_score_is_one_for_equal_samples_and_the_classes_for_sure_and_even_ones():
    assert inception_score("IS", torch.ones(40, 5)) == pytest.approx(1)
    assert inception_score("IS", torch.ones(40, 5)).replicates == pytest.approx([1.0] * 100)
    sure = 100 * torch.eye(4).repeat(500, 1)  # a tenth has each class about 50 times
    assert inception_score("IS", sure) == pytest.approx(4, rel=0.01)
    assert 1 <= inception_score("IS", sure[:3]) <= 4


@pytest.mark.parametrize(("n", "classes", "scale"), [(300, 6, 2), (360, 200, 5)])
def test_replicates_of_the_inception_score_spread_as_values_of_new_samples_do(n, classes, scale):
    def draw(seed):
        likely = torch.linspace(3, -3, classes)
        noise = torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))
        return scale * (noise + likely)

    values = torch.tensor([inception_score("IS", draw(seed)) for seed in range(100)])
    spreads = [torch.tensor(inception_score("IS", draw(seed)).replicates).std() for seed in range(30)]
    spread = torch.stack(spreads).square().mean().sqrt()
    assert spread == pytest.approx(values.std().item(), rel=0.25)


def test_the_replicates_of_the_inception_score_are_those_of_leaving_a_sample_out():
    logits = 3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))

    def score(rows):
        p = logits[rows].double().softmax(1)
        return (p * (p / p.mean(0)).log()).sum(1).mean().exp()

    found, change = inception_score("IS", logits), torch.zeros(40, dtype=torch.float64)
    for tenth in np.random.RandomState(2020).permutation(40).reshape(10, 4).tolist():
        without = torch.stack([score([other for other in tenth if other != one]) for one in tenth])
        change[tenth] = (without.mean() - without) * 3 / 4 / 10
    expected = float(found) + (counts("IS", 40) - 1) @ change
    assert found.replicates == pytest.approx(expected.tolist())
    assert inception_score("IS", logits[:20]).replicates is None  # alone, either of two has a score of 1


def test_samples_are_scored_in_full_and_at_the_number_of_held_out_images():
    subject = FakeSubject(train=60, val=20)
    scores, bases = run(subject), {"gFD", "KD"} | SHARES
    assert set(scores) == {f"{base}{at}[pixels]" for base in bases for at in ("", "@20")} | {
        "memorisation[pixels]"
    }
    for n in (20, 12):  # as many or fewer: no number stands twice
        fewer = run(FakeSubject(train=60, val=20, samples=subject.samples[:n]))
        assert not any("@" in name for name in fewer)
        assert n < 20 or all(fewer[f"{base}[pixels]"] == scores[f"{base}@20[pixels]"] for base in bases)


def test_every_number_has_replicates_around_it():
    labels = torch.arange(60) % 10
    for name, value in run(subject_of([Network(), Embedding("clip")], labels, val=40)).items():
        found = torch.tensor(value.replicates)
        assert len(found) == 100, name
        assert abs(found.mean() - value) <= found.std() / 2 + 1e-9, name


def test_every_extractor_has_what_its_outputs_allow():
    scores = run(subject_of([FakeExtractor("one"), Network("two"), Embedding("three")]))
    at = {name.replace("@20", "") for name in scores if "@20" in name}
    full = {name for name in scores if "@20" not in name}
    one = {f"{base}[one]" for base in {"gFD", "KD", "memorisation"} | SHARES}
    two = {name.replace("one", "two") for name in one} | {"sFD[two]", "IS[two]"}
    assert full == one | two | {"CMMD[three]"}
    assert full - at == {"memorisation[one]", "memorisation[two]", "sFD[two]"}


def test_published_names_appear_with_the_weights_that_define_them():
    subject = subject_of([Network("inception", INCEPTION)])
    scores, evaluator = run(subject), create("evaluators", "generation")
    assert {"gFID", "gFID@20", "sFID", "KID", "KID@20", "IS"} <= set(scores)
    assert not {base_name(name) for name in scores} & {"gFD", "sFD", "KD"}
    assert {base_name(name) for name in scores} <= set(evaluator.metrics)
    assert evaluator.protocol("KID@20", subject)["subset_size"] == 10


def test_classes_have_scores_where_samples_were_asked_for_one():
    train, labels = FakeSubject().sets["train"], torch.arange(60) % 10
    scores = run(subject_of([FakeExtractor("pixels")], labels, samples=train))
    classes = {str(label) for label in range(10)}
    for base in (*SHARES, "KD", "label_agreement", "memorisation"):
        assert scores[f"{base}[pixels]"].classes.keys() == classes
    assert scores["gFD[pixels]"].classes is None
    assert set(scores["precision[pixels]"].classes.values()) == {1.0}
    for none in (None, torch.full((60,), -1)):
        unlabelled = run(subject_of([FakeExtractor("pixels")], none, samples=train))
        assert unlabelled["KD[pixels]"].classes is None and "label_agreement[pixels]" not in unlabelled


def test_labels_agree_where_samples_look_like_their_class():
    labels = torch.arange(60) % 10  # as in FakeSubject
    tones = labels[:, None, None, None] / 5 - 1
    images = (tones + 0.01 * torch.rand(60, 1, 8, 8)).clamp(-1, 1)
    subject = subject_of([FakeExtractor("pixels")], labels, samples=images)
    subject.sets["train"] = images
    assert run(subject)["label_agreement[pixels]"] == 1
    subject.sample_labels = (labels + 1) % 10
    assert run(subject)["label_agreement[pixels]"] == 0


def test_memorisation_is_a_half_for_new_data_one_for_copies_and_zero_far_away():
    def memorisation(samples, **sizes):
        return run(FakeSubject(samples=samples, **sizes))["memorisation[pixels]"]

    new = FakeSubject(seed=1, val=300).sets["val"]
    assert memorisation(new, train=400, val=300) == pytest.approx(0.5, abs=0.06)
    assert memorisation(FakeSubject().sets["val"]) == 0.5
    assert memorisation(FakeSubject().sets["train"]) == 1
    assert memorisation(new + 10) == 0


def test_the_real_row_has_only_names_with_its_own_number():
    val = FakeSubject().sets["val"]
    scores = run(FakeSubject(real=True, samples=val))
    assert set(scores) == {f"{base}@20[pixels]" for base in {"gFD", "KD"} | SHARES}
    assert set(scores) < set(run(FakeSubject()))


def test_of_more_training_images_than_can_be_compared_in_pairs_a_random_choice_is(monkeypatch):
    subject = FakeSubject(train=60)
    whole = run(subject)
    monkeypatch.setattr(generation, "PAIRS", 25)
    scores, evaluator = run(subject), create("evaluators", "generation")
    few = FakeSubject(samples=subject.samples)
    few.sets["train"] = subject.sets["train"][fixed_order(60)[:25].sort().values]
    assert scores["gFD[pixels]"] == whole["gFD[pixels]"]
    for base in {"KD", "memorisation"} | SHARES:
        assert scores[f"{base}[pixels]"] == run(few)[f"{base}[pixels]"] != whole[f"{base}[pixels]"]
        assert evaluator.protocol(f"{base}[pixels]", subject)["reference_n"] == 25
    assert evaluator.protocol("gFD[pixels]", subject)["reference_n"] == 60


def test_scores_are_the_same_twice_and_touch_no_global_generator():
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert run(FakeSubject()) == run(FakeSubject())
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_nothing_is_printed(capsys):
    run(FakeSubject())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "n", "keys"),
    [
        ("gFD[network]", 60, {"reference_n"}),
        ("sFD[network]", 60, {"reference_n", "output"}),
        ("KD@20[network]", 20, {"reference_n", "subsets", "subset_size", "subset_seed"}),
        ("IS@20[network]", 20, {"splits", "split_seed"}),
        ("recall[network]", 60, {"reference_n", "k"}),
        ("coverage[network]", 60, {"reference_n", "k"}),
        ("label_agreement@20[network]", 20, {"reference_n", "k"}),
        ("memorisation[network]", 60, {"reference_n", "heldout_n"}),
        ("CMMD[clip]", 60, {"reference_n", "sigma"}),
    ],
)
def test_the_protocol_says_what_a_value_depends_on(name, n, keys):
    subject = subject_of([Network(), Embedding("clip")])
    protocol = create("evaluators", "generation").protocol(name, subject)
    assert protocol["n"] == n and {"n", "features"} | keys <= protocol.keys()
    assert protocol.get("reference_n", 60) == 60 and protocol["features"]["extractor"] in name
    assert json.loads(json.dumps(protocol)) == protocol


@pytest.mark.parametrize("n, computed", [(3, {"gFD[pixels]"}), (5, {"gFD[pixels]", "KD[pixels]"})])
def test_metrics_that_so_few_samples_do_not_allow_are_left_out_with_their_reason(n, computed):
    subject = FakeSubject(samples=FakeSubject().samples[:n])
    assert set(run(subject)) == computed
    left_out = {f"{name}[pixels]" for name in ("KD", "precision", "recall", "density", "coverage")} - computed
    assert left_out <= subject.left_out.keys()
    assert all(f"images on either side, not {n}" in why for why in subject.left_out.values())
