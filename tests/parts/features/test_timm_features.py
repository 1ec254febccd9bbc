import pytest
import safetensors.torch
import timm
import torch

from latentbench.bench.metrics.names import metric_name
from latentbench.bench.nn.weights import sha256
from latentbench.bench.registry import create

VIT = {"model": "test_vit.r160_in1k", "resolution": 64}


@pytest.fixture
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "model", ["test_vit", "test_efficientnet", "test_resnet", "test_convnext", "test_maxvit"]
)
def test_outputs_are_timms_own(model, images):
    extractor = create("features", "timm", model=model, weights="random", resolution=64)
    network, prepared = extractor._network, extractor._prepared(images)
    found = extractor.describe(images, extractor.outputs)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], network(prepared))
        features = network.forward_features(prepared)
        torch.testing.assert_close(found["pooled"], network.forward_head(features, pre_logits=True))
    if model == "test_vit":
        torch.testing.assert_close(found["tokens"], features[:, network.num_prefix_tokens :])
    assert found["pooled"].shape == (3, extractor.channels)
    assert found["tokens"].shape == (3, extractor.spec.tokens, extractor.spec.channels)


def test_images_are_standardised_as_the_models_weights_want(images):
    extractor = create("features", "timm", model="test_efficientnet", weights="random", resolution=16)
    levels = (images * 127.5 + 127.5).round().expand(-1, 3, -1, -1) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    torch.testing.assert_close(extractor._prepared(images), (levels - mean) / std)


def test_a_model_without_a_classifier_has_no_logits_and_needs_no_weights_to_be_described():
    extractor = create("features", "timm", weights="nowhere")
    assert extractor.outputs == ("pooled", "tokens") and extractor.fingerprint() is None
    assert extractor.channels == extractor.spec.channels == 384 and extractor.spec.grid == (16, 16)
    assert extractor.name == "timm:vit_small_patch14_dinov2.lvd142m"


def test_a_layer_chooses_where_tokens_come_from(images):
    last, first = (create("features", "timm", **VIT, weights="random", layer=layer) for layer in (None, 0))
    assert torch.equal(last(images)[0], first(images)[0]) and not torch.equal(
        last(images)[1], first(images)[1]
    )
    assert first.name == "timm:test_vit.r160_in1k:64:layer0:random" and first.protocol()["layer"] == 0
    coarse = create("features", "timm", model="test_resnet", weights="random", resolution=64, layer=1)
    assert coarse.spec.grid == (16, 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "vit_smal_patch14_dinov2"}, "did you mean 'vit_small_patch14"),
        ({"model": "test_vit", "resolution": 30}, "test_vit at 30 pixels"),
        ({"model": "test_vit", "layer": 99}, "layer 99"),
    ],
)
def test_what_timm_cannot_build_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        create("features", "timm", **options)


def test_random_weights_are_always_the_same_ones(images):
    state = torch.get_rng_state()
    one, two = (create("features", "timm", **VIT, weights="random") for _ in range(2))
    assert torch.equal(one(images)[0], two(images)[0]) and one.fingerprint() == two.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)
    assert metric_name("gFD", one) == "gFD[timm:test_vit.r160_in1k:64:random]"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file_and_positions_are_resampled(suffix, tmp_path, images):
    torch.manual_seed(3)
    network, file = timm.create_model("test_vit"), tmp_path / f"weights.{suffix}"
    (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(network.state_dict(), file)
    extractor = create("features", "timm", **VIT | {"resolution": 160}, weights=str(file))
    with torch.no_grad():
        torch.testing.assert_close(
            extractor.describe(images, ["logits"])["logits"], network.eval()(extractor._prepared(images))
        )
    assert extractor.fingerprint() == sha256(file) == extractor.protocol()["weights_sha256"]
    small = create("features", "timm", **VIT, weights=str(file))
    assert small(images)[1].shape == (3, 16, 64)


def test_weights_are_found_in_hugging_faces_cache(offline, images):
    repository = offline / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    file = repository / "snapshots" / "abc" / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), file)
    extractor = create("features", "timm", **VIT)
    assert extractor.fingerprint() == sha256(file) and extractor(images)[0].shape == (3, 64)


def test_offline_missing_weights_are_named_at_once(offline, images):
    extractor = create("features", "timm", **VIT)
    assert extractor.fingerprint() is None
    with pytest.raises(FileNotFoundError, match="timm/test_vit.r160_in1k/model.safetensors"):
        extractor(images)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create("features", "timm", **VIT, weights="nowhere")(images)
