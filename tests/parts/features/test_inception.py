import hashlib

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from latentbench.bench.api import FeatureExtractor
from latentbench.bench.features import inception
from latentbench.bench.metrics.names import INCEPTION, metric_name
from latentbench.bench.nn.weights import Weights, sha256
from latentbench.bench.registry import create


@pytest.fixture(scope="module")
def extractor():
    return create("features", "inception", weights="random")


@pytest.fixture(scope="module")
def file(extractor, tmp_path_factory):
    """Random weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(extractor._network.state_dict(), path)
    return path


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def levels(images):
    return (images * 127.5 + 127.5).round().to(torch.uint8)


def test_features_and_logits_are_torch_fidelitys_bit_for_bit(file, images):
    own = create("features", "inception", weights=str(file), verify=False)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(file))
    found = own.describe(images, own.outputs)
    pooled, logits = theirs(levels(images))
    assert torch.equal(found["pooled"], pooled) and torch.equal(found["logits"], logits)
    assert pooled.shape == (2, 2048) and logits.shape == (2, 1008)


def test_the_spatial_output_is_adms_first_seven_channels_of_mixed_6_conv(file, images):
    theirs, kept = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file)), []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, output: kept.append(output))
    theirs(levels(images))
    assert kept[0].shape == (2, 192, 17, 17)
    spatial = create("features", "inception", weights=str(file), verify=False).describe(images, ["spatial"])
    assert torch.equal(spatial["spatial"], kept[0][:, :7].reshape(2, 2023))


def test_random_weights_are_always_the_same_and_keep_the_scale_of_features(extractor, images):
    state = torch.get_rng_state()
    again = create("features", "inception", weights="random")
    assert torch.equal(again(images)[0], extractor(images)[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert 1e-3 < extractor(images)[0].std() < 1e3


def test_names_say_whose_weights_they_are(extractor, file):
    assert extractor.name == "inception:random" and metric_name("rFD", extractor) == "rFD[inception:random]"
    digits = hashlib.sha256(file.read_bytes()).hexdigest()
    other = create("features", "inception", weights=str(file), verify=False)
    assert other.fingerprint() == other.protocol()["weights_sha256"] == digits
    assert metric_name("gFD", other) == f"gFD[inception:{digits[:8]}]"


def test_a_file_with_another_hash_is_refused_with_both(file):
    with pytest.raises(ValueError) as error:
        create("features", "inception", weights=str(file))
    assert (
        INCEPTION in str(error.value) and sha256(file) in str(error.value) and str(file) in str(error.value)
    )


def test_with_the_weights_that_define_it_a_distance_is_fid(file, monkeypatch):
    monkeypatch.setattr(inception, "INCEPTION", sha256(file))
    monkeypatch.setattr("latentbench.bench.metrics.names.INCEPTION", sha256(file))
    extractor: FeatureExtractor = create("features", "inception", weights=str(file))
    assert extractor.name == "inception" and metric_name("gFD", extractor, 360) == "gFID@360"


def test_weights_are_found_in_torch_hubs_cache_under_either_name(file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert create("features", "inception").fingerprint() is None
    for name in inception.KEPT:
        kept = tmp_path / "hub" / "checkpoints" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(file.read_bytes())
        found = create("features", "inception", verify=False)
        assert found.fingerprint() == sha256(file)
        with pytest.raises(ValueError, match="verify: false"):
            create("features", "inception")
        kept.unlink()


def test_offline_a_missing_file_is_named_at_once(tmp_path, monkeypatch, images):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    extractor = create("features", "inception")
    assert extractor.name == "inception" and extractor.fingerprint() is None
    with pytest.raises(FileNotFoundError, match="weights-inception-2015-12-05-6726825d.pth"):
        extractor(images)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create("features", "inception", weights=str(tmp_path / "nowhere"))(images)


def test_a_download_is_kept_only_with_the_published_hash(tmp_path):
    source, kept = tmp_path / "source.pth", tmp_path / "cache" / "weights.pth"
    source.write_bytes(b"weights")
    with pytest.raises(RuntimeError, match="hash"):
        Weights(None, True, source.as_uri(), "0" * 64, [kept]).file()
    assert not kept.exists()
    weights = Weights(None, True, source.as_uri(), sha256(source), [kept])
    assert weights.fingerprint("x") is None and weights.file() == kept and weights.suffix("x") == ""
    assert kept.read_bytes() == b"weights" and weights.fingerprint("x") == sha256(source)


def test_a_pickle_of_anything_else_is_not_run(tmp_path, images):
    class Harm:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    torch.save({"x": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(Exception, match="needs code to be read"):
        create("features", "inception", weights=str(tmp_path / "harm.pth"), verify=False)(images)


def test_an_audit_may_change_resizing_and_rounding(extractor, images):
    changed, images = create("features", "inception", weights="random"), images[:1]
    own = changed.protocol()["resize"]
    for resizing in ("clean", "clean_rounded", "legacy"):
        changed.resizing = resizing
        assert changed.protocol()["resize"] != own and not torch.equal(
            changed(images)[0], extractor(images)[0]
        )
    changed.resizing, changed.rounds = "tensorflow", False
    assert changed.protocol()["rounding"] == "none"
    torch.testing.assert_close(
        changed(levels(images) / 127.5 - 1)[0], extractor(images)[0], atol=1e-3, rtol=1e-3
    )
