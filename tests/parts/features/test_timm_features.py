import pytest
import safetensors.torch
import timm
import torch

from latentbench.bench.metrics.names import metric_name
from latentbench.bench.nn.weights import sha256
from latentbench.bench.registry import create, get

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


def small(**options):
    return create("features", "timm", **VIT, weights="random", **options)


def blocks(extractor, images):
    """The patches' tokens (B, N, G) after each block of a plain vision transformer, not normalised."""
    network, outputs = extractor._network, []
    hooks = [b.register_forward_hook(lambda _, __, out: outputs.append(out)) for b in network.blocks]
    with torch.no_grad():
        network(extractor._prepared(images))
    for hook in hooks:
        hook.remove()
    return [out[:, network.num_prefix_tokens :] for out in outputs]


def test_a_plain_norm_has_neither_weight_nor_bias_and_leaves_other_outputs(images):
    affine, plain = small(), small(norm="plain")
    for network in (affine._network, plain._network):
        with torch.no_grad():  # unlike those of new networks, which are ones and zeros
            network.norm.weight.copy_(torch.linspace(0.5, 2, 64))
            network.norm.bias.copy_(torch.linspace(-1, 1, 64))
    norm, tokens = affine._network.norm, plain(images)[1]
    raw = blocks(plain, images)[-1]
    meant = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(tokens, meant)
    torch.testing.assert_close(tokens * norm.weight + norm.bias, affine(images)[1])
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(3, 16), atol=1e-4, rtol=0)
    for output in ("pooled", "logits"):
        assert torch.equal(*(e.describe(images, [output])[output] for e in (affine, plain)))


@pytest.mark.parametrize("norm", ["affine", "plain"])
def test_several_layers_are_the_mean_of_their_normed_tokens(norm, images):
    layers = [small(layer=layer, norm=norm)(images)[1] for layer in (0, 2, 5)]
    mean = small(layer=(5, 0, 2), norm=norm)
    torch.testing.assert_close(mean(images)[1], sum(layers) / 3)
    added = small(layer=(0, 2, 5), norm=norm, add_mean=True)(images)[1]
    torch.testing.assert_close(added, sum(layers) / 3 + layers[-1].mean(1, keepdim=True))
    assert torch.equal(small(layer=(3,), norm=norm)(images)[1], small(layer=3, norm=norm)(images)[1])


def test_registers_and_the_class_token_are_no_tokens(images):
    options = {"model": "vit_small_patch14_reg4_dinov2.lvd142m", "resolution": 28, "weights": "random"}
    extractor = create("features", "timm", **options, norm="plain")
    assert extractor._network.num_prefix_tokens == 5 and extractor.spec.tokens == 4
    raw = blocks(extractor, images)[-1]
    torch.testing.assert_close(extractor(images)[1], torch.nn.functional.layer_norm(raw, (384,), eps=1e-6))


def test_names_and_protocols_say_how_tokens_are_made_where_it_is_not_the_default():
    several = small(layer=(2, 0), norm="plain", add_mean=True)
    assert several.name == "timm:test_vit.r160_in1k:64:layer0+2:plain:mean:random"
    added = several.protocol().items() - small(layer=0).protocol().items()
    assert {key for key, _ in added if key not in ("extractor", "layer")} == {"norm", "tokens"}
    assert {"norm", "tokens"}.isdisjoint(small().protocol())
    assert {"norm", "add_mean"} == get("features", "timm").later


def test_images_on_the_meta_device_need_no_weights_and_leave_the_network_where_it_is(images):
    extractor = create("features", "timm", **VIT, weights="nowhere")
    described = extractor.describe(images.to("meta"), extractor.outputs)
    assert all(value.is_meta for value in described.values())
    random = small()
    before = random(images)
    random(images.to("meta"))
    assert all(map(torch.equal, random(images), before))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "test_vit", "layer": (1, 1)}, r"layer \[1, 1\] names a layer twice"),
        ({"model": "test_vit", "layer": (1, 99)}, "layer 1, 99"),
        ({"model": "test_resnet", "norm": "plain"}, "needs a last layer norm"),
        ({"model": "test_resnet", "layer": (0, 1), "resolution": 64}, "layer 0, 1"),
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
