import warnings

import pytest
import timm
import torch
from torch import nn
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, CLIPVisual, FeatureExtractorCLIP

from latentbench.bench.features.clip import MODELS
from latentbench.bench.metrics.names import CLIP, metric_name
from latentbench.bench.nn.weights import sha256
from latentbench.bench.registry import create

SIZES = {
    "embed_dim": 16,
    "image_resolution": 224,
    "vision_layers": 2,
    "vision_width": 64,
    "vision_patch_size": 32,
}


class Stored(nn.Module):
    """The layout of OpenAI's archives, with a network of two small blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual = CLIPVisual(**SIZES).visual
        self.text_projection = nn.Parameter(torch.zeros(8, 16))

    def forward(self, x):
        return self.visual(x)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("weights") / "ViT-B-32.pt", Stored().eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # the file's precision is half
    with warnings.catch_warnings(action="ignore"):  # PyTorch deprecates the format that these files have
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 224, 224)), path)
    return path


@pytest.fixture(scope="module")
def extractor():
    return create("features", "clip", model="ViT-B-32", weights="random")


@pytest.fixture
def images():
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embeddings_are_torch_fidelitys_with_unit_length(file, images):
    own = create("features", "clip", model="ViT-B-32", weights=str(file), verify=False)
    theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(file))
    (expected,) = theirs((images * 127.5 + 127.5).round().to(torch.uint8))
    torch.testing.assert_close(
        own(images)[0], expected / expected.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-4
    )


def test_tokens_are_the_last_blocks_without_the_class_token(file, images):
    own = create("features", "clip", model="ViT-B-32", weights=str(file), verify=False)
    kept, network = [], own._network
    network.ln_post.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    handle = network.transformer.register_forward_hook(lambda _, __, output: kept.append(output))
    tokens = own(images)[1]
    handle.remove()
    assert tokens.shape == (2, 49, 64)
    assert torch.equal(kept[0][1:].transpose(0, 1), tokens) and torch.equal(kept[0][0], kept[1])


def test_vectors_and_grids_are_as_declared(extractor, images):
    pooled, tokens = extractor(images)
    assert pooled.shape == (2, extractor.channels) == (2, 512)
    assert tokens.shape == (2, extractor.spec.tokens, extractor.spec.channels) == (2, 49, 768)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))


def test_the_default_has_the_shapes_of_timms_model_of_that_name():
    default = create("features", "clip", weights="nowhere")
    with torch.device("meta"):
        theirs = timm.create_model("vit_large_patch14_clip_336.openai", pretrained=False)
        own = CLIPVisual(*MODELS["ViT-L-14-336px"][1]).visual
    assert default.channels == theirs.num_classes == 768
    assert default.spec.grid == theirs.patch_embed.grid_size and default.spec.channels == theirs.embed_dim
    count = [sum(p.numel() for p in network.parameters()) for network in (own, theirs)]
    assert count[0] == count[1] - 768  # timm's projection has a bias


def test_only_the_model_that_cmmd_is_defined_with_gives_cmmd(extractor, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    default = create("features", "clip")
    assert default.cmmd and default.name == "clip" and default.fingerprint() is None
    assert metric_name("CMMD", default) == "CMMD[clip]"  # nothing is known of weights that aren't here
    assert metric_name("CMMD", extractor) == "CMMD[clip:ViT-B-32:random]"
    other = create("features", "clip", weights=str(file), verify=False)
    assert metric_name("CMMD", other) == f"CMMD[clip:{sha256(file)[:8]}]"
    monkeypatch.setattr(type(other.weights), "fingerprint", lambda *_: CLIP)
    assert metric_name("CMMD", other) == "CMMD"


def test_hashes_are_openais():
    for name, (published, _) in MODELS.items():
        assert MODEL_METADATA[f"clip-{name.lower()}"] == {"hash": published, "filename": name}


def test_a_file_with_another_hash_is_refused(file):
    with pytest.raises(ValueError, match=CLIP):
        create("features", "clip", weights=str(file))


def test_offline_a_missing_file_is_named_at_once(tmp_path, monkeypatch, images):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=f"{CLIP}.pt"):
        create("features", "clip")(images)
