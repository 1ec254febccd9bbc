import json

import numpy as np
import pytest
import torch
import torch_fidelity
from scipy.linalg import sqrtm
from subjects import FakeSubject
from torch.utils.data import TensorDataset
from torch_fidelity import FeatureExtractorBase

from latentbench.bench.distances import (
    frechet_distance,
    kernel_distance,
    memorisation,
    precision_recall,
)
from latentbench.bench.registry import create


def features(n, seed=0, width=12, shift=0.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift


class Bytes(FeatureExtractorBase):
    """The first twelve bytes of an image, centred: as features for torch-fidelity's own entry point."""

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)

    def forward(self, x):
        return (x.flatten(1)[:, :12].float() / 64 - 2,)

    get_provided_features_list = staticmethod(lambda: ("bytes",))
    get_default_feature_layer_for_metric = staticmethod(lambda metric: "bytes")
    can_be_compiled = staticmethod(lambda: False)
    get_dummy_input_for_compile = staticmethod(lambda: None)
    get_default_name = staticmethod(lambda: "bytes")


class Images(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


def test_distances_equal_torch_fidelitys_own_run():
    generator = torch.Generator().manual_seed(0)
    generated, real = (torch.randint(0, high, (90, 3, 2, 2), generator=generator) for high in (200, 256))
    generated, real = generated.to(torch.uint8), real.to(torch.uint8)
    torch_fidelity.register_feature_extractor("bytes", Bytes)
    expected = torch_fidelity.calculate_metrics(
        input1=Images(generated), input2=Images(real), feature_extractor="bytes", cuda=False,
        save_cpu_ram=True, fid=True, kid=True, prc=True, kid_subset_size=45, verbose=False, cache=False,
    )  # fmt: skip
    a, b = (Bytes("bytes", ["bytes"])(images)[0] for images in (generated, real))
    assert frechet_distance(a, b) == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert kernel_distance(a, b) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert precision_recall(a, b) == pytest.approx((expected["precision"], expected["recall"]))


def test_the_frechet_distance_is_scipys_and_zero_from_a_set_to_itself():
    a, b = features(100), features(80, seed=1) * 2 + 1
    ca, cb = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    cross = np.trace(sqrtm(ca @ cb).real)
    expected = (a.double().mean(0) - b.double().mean(0)).square().sum().item() + np.trace(ca + cb) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    few = features(8)  # singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


def test_the_kernel_distance_is_near_zero_for_one_distribution_and_grows_with_a_shift():
    same, near, far = (kernel_distance(features(300), features(300, 1, shift=s)) for s in (0.0, 0.3, 1.0))
    assert abs(same) < near / 3 < near < far
    assert kernel_distance(features(300), features(200, 1)) == kernel_distance(
        features(300), features(200, 1)
    )


def test_precision_and_recall_are_the_brute_force_ones():
    generated, real = features(30), features(40, seed=1, shift=0.4)

    def inside(points, centres):
        found = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted((centre - c).norm().item() for j, c in enumerate(centres) if j != i)
                if (point - centre).norm() <= others[2]:
                    found += 1
                    break
        return found / len(points)

    expected = inside(generated.double(), real.double()), inside(real.double(), generated.double())
    assert precision_recall(generated, real) == pytest.approx(expected)


def test_memorisation_is_a_half_for_new_data_one_for_copies_and_zero_far_away():
    train, new, heldout = features(400), features(300, 1), features(300, 2)
    assert memorisation(new, heldout, train) == pytest.approx(0.5, abs=0.06)
    assert memorisation(heldout, heldout, train) == 0.5
    assert memorisation(train[:50], heldout, train) == 1
    assert memorisation(new + 10, heldout, train) == 0


def test_memorisation_counts_pairs_and_half_of_ties():
    train = torch.zeros(1, 1)
    samples, heldout = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0]])
    assert memorisation(samples, heldout, train) == pytest.approx((4 + 0.5) / 6)  # 1<2 1<4 2=2 2<4 3>2 3<4


def test_samples_are_scored_in_full_and_at_the_number_of_held_out_images():
    evaluator, subject = create("evaluators", "generation"), FakeSubject(train=60, val=20)
    scores = evaluator.run(subject)
    bases = ("gFD", "KD", "precision", "recall")
    assert set(scores) == {f"{base}{at}[pixels]" for base in bases for at in ("", "@20")} | {
        "memorisation[pixels]"
    }
    fewer = evaluator.run(FakeSubject(train=60, val=20, samples=subject.samples[:20]))
    assert all(fewer[f"{base}[pixels]"] == scores[f"{base}@20[pixels]"] for base in bases)
    assert not any("@" in name for name in evaluator.run(FakeSubject(samples=subject.samples[:12])))


def test_the_real_row_has_only_names_with_its_own_number():
    val = FakeSubject().images("val")
    scores = create("evaluators", "generation").run(FakeSubject(real=True, samples=val))
    assert set(scores) == {f"{base}@20[pixels]" for base in ("gFD", "KD", "precision", "recall")}


def test_scores_are_the_same_twice_and_touch_no_global_generator():
    evaluator = create("evaluators", "generation")
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert evaluator.run(FakeSubject()) == evaluator.run(FakeSubject())
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_nothing_is_printed(capsys):
    create("evaluators", "generation").run(FakeSubject())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "n", "keys"),
    [
        ("gFD[pixels]", 60, set()),
        ("KD@20[pixels]", 20, {"subsets", "subset_size"}),
        ("recall[pixels]", 60, {"k"}),
        ("memorisation[pixels]", 60, {"heldout_n"}),
    ],
)
def test_the_protocol_says_what_a_value_depends_on(name, n, keys):
    protocol = create("evaluators", "generation").protocol(name, FakeSubject())
    common = {"n", "reference", "reference_n", "features"}
    assert protocol["n"] == n and protocol["reference_n"] == 60 and common | keys <= protocol.keys()
    assert json.loads(json.dumps(protocol)) == protocol


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="need 4 images"):
        create("evaluators", "generation").run(FakeSubject(samples=FakeSubject().samples[:3]))
