"""Released checkpoints: names and shapes as the published codes have them, and rows that start from one."""

import pytest
import safetensors.torch
import torch
from helpers.matrices import planned
from torch.nn import functional as F

from latentbench.bench.api import ImageSpec, Unfit
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.nn import released_weights
from latentbench.bench.nn.weight_files import read_checkpoint
from latentbench.bench.nn.weights import sha256
from latentbench.bench.registry import create, get
from latentbench.bench.stages.table import STAGES
from latentbench.bench.store.stage import UNKNOWN
from latentbench.bench.training.context import Context

SMALL = ImageSpec(3, 32, 32)


def pair(shapes, name, *shape):
    shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def block(shapes, name, inner, outer):
    pair(shapes, f"{name}.norm1", inner)
    pair(shapes, f"{name}.conv1", outer, inner, 3, 3)
    pair(shapes, f"{name}.norm2", outer)
    pair(shapes, f"{name}.conv2", outer, outer, 3, 3)
    if inner != outer:
        pair(shapes, f"{name}.nin_shortcut", outer, inner, 1, 1)


def attention(shapes, name, width):
    pair(shapes, f"{name}.norm", width)
    for layer in ("q", "k", "v", "proj_out"):
        pair(shapes, f"{name}.{layer}", width, width, 1, 1)


def middle(shapes, part, width):
    block(shapes, f"{part}.mid.block_1", width, width)
    attention(shapes, f"{part}.mid.attn_1", width)
    block(shapes, f"{part}.mid.block_2", width, width)


def decoder(shapes, ch, mult, blocks, attended):
    inner = ch * mult[-1]
    middle(shapes, "decoder", inner)
    for level in reversed(range(len(mult))):
        for i in range(blocks + 1):
            block(shapes, f"decoder.up.{level}.block.{i}", inner, ch * mult[level])
            inner = ch * mult[level]
            if attended and level == len(mult) - 1:
                attention(shapes, f"decoder.up.{level}.attn.{i}", inner)
        if level:
            pair(shapes, f"decoder.up.{level}.upsample.conv", inner, inner, 3, 3)
    pair(shapes, "decoder.norm_out", inner)
    pair(shapes, "decoder.conv_out", 3, inner, 3, 3)


def ldm(attended, z=16, ch=128, mult=(1, 1, 2, 2, 4), blocks=2):
    """Shapes of `AutoencoderKL` in LTH14/mar and, attended in the decoder, in hustvl/LightningDiT."""
    shapes = {}
    pair(shapes, "encoder.conv_in", ch, 3, 3, 3)
    inner = ch
    for level, factor in enumerate(mult):
        for i in range(blocks):
            block(shapes, f"encoder.down.{level}.block.{i}", inner, ch * factor)
            inner = ch * factor
            if level == len(mult) - 1:
                attention(shapes, f"encoder.down.{level}.attn.{i}", inner)
        if level < len(mult) - 1:
            pair(shapes, f"encoder.down.{level}.downsample.conv", inner, inner, 3, 3)
    middle(shapes, "encoder", inner)
    pair(shapes, "encoder.norm_out", inner)
    pair(shapes, "encoder.conv_out", 2 * z, inner, 3, 3)
    pair(shapes, "quant_conv", 2 * z, 2 * z, 1, 1)
    pair(shapes, "post_quant_conv", z, z, 1, 1)
    pair(shapes, "decoder.conv_in", inner, z, 3, 3)
    decoder(shapes, ch, mult, blocks, attended)
    return shapes


def vit(shapes, name, width, depth, patches, patch, ratio=4, scale=True):
    """timm's vision transformer."""
    shapes |= {f"{name}.cls_token": (1, 1, width), f"{name}.pos_embed": (1, patches + 1, width)}
    pair(shapes, f"{name}.patch_embed.proj", width, 3, patch, patch)
    for i in range(depth):
        at = f"{name}.blocks.{i}"
        pair(shapes, f"{at}.norm1", width)
        pair(shapes, f"{at}.attn.qkv", 3 * width, width)
        pair(shapes, f"{at}.attn.proj", width, width)
        pair(shapes, f"{at}.norm2", width)
        pair(shapes, f"{at}.mlp.fc1", ratio * width, width)
        pair(shapes, f"{at}.mlp.fc2", width, ratio * width)
        if scale:
            shapes |= {f"{at}.ls1.gamma": (width,), f"{at}.ls2.gamma": (width,)}
    pair(shapes, f"{name}.norm", width)


def softvq(codebooks, width=1024, depth=24, patches=256, patch=16, tokens=64, z=32, codes=8192, **kind):
    """Shapes of `SoftVQModel` in Hhhhhhao/continuous_tokenizer; of `AEModel` without codebooks."""
    shapes = {}
    for part in ("encoder", "decoder"):
        vit(shapes, f"{part}.model", width, depth, patches, patch, **kind)
        shapes[f"{part}.latent_pos_embed"] = (1, tokens, width)
    shapes |= {"encoder.latent_tokens": (1, tokens, width), "decoder.mask_token": (1, 1, width)}
    pair(shapes, "decoder.to_pixel.model", 3 * patch**2, width)
    pair(shapes, "quant_conv", z, width)
    pair(shapes, "post_quant_conv", width, z)
    return shapes | ({"quantize.embedding": (codebooks, codes, z)} if codebooks else {})


def dmvae(width=1024, depth=24, patches=256, patch=16, hidden=2048, z=32, ch=128, mult=(1, 2, 4, 4), **kind):
    """Shapes of `VAE` in sen-ye/dmvae."""
    shapes = {}
    vit(shapes, "encoder.model", width, depth, patches, patch, **kind)
    pair(shapes, "bottle_neck.mlp.0", hidden, width)
    pair(shapes, "bottle_neck.mlp.2", z, hidden)
    pair(shapes, "decoder.conv_in.0.conv", z, z, 3, 3)
    pair(shapes, "decoder.conv_in.1", ch * mult[-1], z, 3, 3)
    decoder(shapes, ch, mult, 2, attended=False)
    return shapes


def tensors(shapes, device="cpu", seed=0):
    generator = None if device == "meta" else torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, device=device, generator=generator) / 10 for n, s in shapes.items()}


TINY = {"width": 64, "depth": 6, "patches": 64, "patch": 4, "tokens": 8, "z": 8, "ratio": 3, "scale": False}
TINY_CONV = {"width": 8, "mult": (1, 1, 2), "blocks": 2, "channels": 4}


@pytest.fixture
def saved(tmp_path):
    """Keeps tensors in a file."""

    def do(state, name="released.safetensors"):
        file = tmp_path / name
        safetensors.torch.save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
        return file

    return do


def loaded(name, file, expansion=1, image=SMALL, **options):
    model = create("tokenizers", name, image=image, expansion=expansion, **options).eval()
    model.load_state_dict(released_weights.state(model, file))
    return model


@pytest.mark.parametrize(
    "part, size, expansion, shapes",
    [
        ("conv", "f16d16", 2, ldm(False)),
        ("vavae", "f16d32", 2, ldm(True, z=32)),
        ("softvq", "L-64", 1, softvq(0)),
        ("softvq", "softvq-L-64", 1, softvq(4)),
        ("dino", "L", 1, dmvae()),
    ],
    ids=["mar", "vavae", "ae", "softvq", "dmvae"],
)
def test_a_released_checkpoint_fills_its_tokenizer(part, size, expansion, shapes, monkeypatch, tmp_path):
    given = tensors(shapes, "meta")
    monkeypatch.setattr(released_weights, "read_weights", lambda file: given)
    with torch.device("meta"):
        options = get("tokenizers", part).sizes[size]
        model = create("tokenizers", part, image=ImageSpec(3, 256, 256), expansion=expansion, **options)
    found = released_weights.state(model, tmp_path / "a")
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert sum(t.numel() for t in found.values()) == sum(t.numel() for t in given.values())


# What the released code computes of its parameters, written with functions.


def conv(w, name, x, **how):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)


def normed(w, name, x, groups):
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)


def ran(w, x, names, groups):
    """x through blocks, attentions, and convolutions that halve or double the size."""
    for name in names:
        kind = name.split(".")[-1 if "sample" in name or "mid" in name else -2]
        if kind.startswith("block"):
            h = conv(w, f"{name}.conv1", F.silu(normed(w, f"{name}.norm1", x, groups(x))), padding=1)
            h = conv(w, f"{name}.conv2", F.silu(normed(w, f"{name}.norm2", h, groups(h))), padding=1)
            x = h + (conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)
        elif kind.startswith("attn"):
            h = normed(w, f"{name}.norm", x, groups(x))
            q, k, v = (conv(w, f"{name}.{one}", h).flatten(2) for one in "qkv")
            mixed = v @ (q.mT @ k / x.shape[1] ** 0.5).softmax(-1).mT
            x = x + conv(w, f"{name}.proj_out", mixed.unflatten(2, x.shape[2:]))
        elif kind == "downsample":
            x = conv(w, f"{name}.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        else:
            x = conv(w, f"{name}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
    return x


@pytest.mark.parametrize("part, attended", [("conv", False), ("vavae", True)])
def test_a_convolutional_checkpoint_computes_what_its_code_does(part, attended, saved):
    w = tensors(ldm(attended, z=4, ch=8, mult=(1, 1, 2)))
    file = saved({"model": w | {"loss.logvar": torch.zeros(1)}}, "kl.ckpt")
    model = loaded(part, file, 2, **TINY_CONV)
    images = torch.randn(2, 3, 32, 32)

    def groups(x):
        return {8: 2, 16: 4}[x.shape[1]]  # of four channels, as ours has where released ones are wider

    mid = ["mid.block_1", "mid.attn_1", "mid.block_2"]
    down = [f"down.{i}.{one}" for i in (0, 1) for one in ("block.0", "block.1", "downsample")]
    down += ["down.2.block.0", "down.2.attn.0", "down.2.block.1", "down.2.attn.1", *mid]
    x = ran(w, conv(w, "encoder.conv_in", images, padding=1), [f"encoder.{n}" for n in down], groups)
    x = conv(w, "encoder.conv_out", F.silu(normed(w, "encoder.norm_out", x, groups(x))), padding=1)
    moments = conv(w, "quant_conv", x)
    torch.testing.assert_close(model.encode(images), moments.flatten(2).mT, rtol=1e-4, atol=1e-4)

    z = moments[:, :4]
    top = [f"up.2.{one}.{i}" for i in range(3) for one in (("block", "attn") if attended else ("block",))]
    up = [*mid, *top, "up.2.upsample"]
    up += [*(f"up.1.block.{i}" for i in range(3)), "up.1.upsample", *(f"up.0.block.{i}" for i in range(3))]
    x = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", z), padding=1)
    x = ran(w, x, [f"decoder.{n}" for n in up], groups)
    x = conv(w, "decoder.conv_out", F.silu(normed(w, "decoder.norm_out", x, groups(x))), padding=1)
    torch.testing.assert_close(model.decode(z.flatten(2).mT), x, rtol=1e-4, atol=1e-4)


def test_parameters_of_softvq_and_dmvae_go_where_their_codes_have_them(saved):
    w = tensors(softvq(2, codes=16, **TINY))
    extra = {
        "projection.0.weight": torch.ones(2),
        "repa_model.cls_token": torch.ones(1),
        "scale.mean": torch.ones(1),
    }
    model = loaded("softvq", saved(w | extra), codebooks=2, codes=16)
    images = torch.randn(2, 3, 32, 32)
    vit_of = model.encoder.vit
    x = vit_of._pos_embed(vit_of.patch_embed(images))
    x = torch.cat((x, (w["encoder.latent_tokens"] + w["encoder.latent_pos_embed"]).expand(2, -1, -1)), 1)
    h = F.linear(vit_of.norm(vit_of.blocks(x))[:, -8:], w["quant_conv.weight"], w["quant_conv.bias"])
    assert torch.equal(vit_of.blocks[5].mlp.fc2.weight, w["encoder.model.blocks.5.mlp.fc2.weight"])
    book = F.normalize(w["quantize.embedding"][1], dim=-1)  # of the second half of the tokens
    codes = (F.normalize(h[:, 4:], dim=-1) @ book.T / 0.07).softmax(-1) @ book
    torch.testing.assert_close(model.encode(images)[:, 4:], codes)
    assert torch.equal(model.decoder.head.weight, w["decoder.to_pixel.model.weight"])
    assert torch.equal(model.decoder.embed.bias, w["post_quant_conv.bias"])

    tiny = {k: v for k, v in TINY.items() if k != "tokens"} | {"hidden": 128, "ch": 32, "mult": (1, 2)}
    w = tensors(dmvae(**tiny))
    old = {name: torch.zeros_like(value) for name, value in w.items()}
    dino = loaded("dino", saved({"vae_wo_ddp": old, "vae_ema": w}, "dmvae.pt"), blocks=2)
    features = dino.encoder.inner(torch.ones(1, 64))
    hidden = F.silu(w["bottle_neck.mlp.0.weight"].sum(1) + w["bottle_neck.mlp.0.bias"])
    torch.testing.assert_close(features[0], hidden)
    assert torch.equal(dino.decoder[2].weight, w["decoder.conv_in.1.weight"])
    assert torch.equal(dino.decoder[-1].bias, w["decoder.conv_out.bias"])


def test_a_file_of_timm_fills_the_encoders_transformer_alone(saved):
    shapes = {}
    vit(shapes, "m", 64, 6, patches=16, patch=2, ratio=3, scale=False)  # of other patches and images
    w = {name.removeprefix("m."): t for name, t in tensors(shapes).items()}
    torch.manual_seed(1)
    model = create("tokenizers", "dino", image=SMALL, expansion=1)
    found = released_weights.state(model, saved(w | {"head.weight": torch.ones(1)}))
    for name, before in model.state_dict().items():
        own = name.removeprefix("encoder.vit.")
        if own in w and w[own].shape == before.shape:
            assert torch.equal(found[name], w[own])
        elif own == name:
            assert torch.equal(found[name], before)
    # A patch of 4 sees as much of a constant image as a patch of 2 did.
    sums = [
        t.sum((2, 3)) for t in (found["encoder.vit.patch_embed.proj.weight"], w["patch_embed.proj.weight"])
    ]
    torch.testing.assert_close(*sums, rtol=1e-3, atol=1e-3)
    assert torch.equal(found["encoder.vit.pos_embed"][:, 0], w["pos_embed"][:, 0])


def test_our_own_names_are_read_too(saved):
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1))
    one, two = states
    found = released_weights.state(two, saved(one.state_dict()))
    assert all(torch.equal(found[name], tensor) for name, tensor in one.state_dict().items())


def test_missing_and_unexpected_parameters_are_named(saved):
    w = tensors(ldm(False, z=4, ch=8, mult=(1, 1, 2)))
    model = create("tokenizers", "conv", image=SMALL, expansion=2, **TINY_CONV)
    del w["encoder.mid.attn_1.k.bias"]
    with pytest.raises(ValueError, match=r"lacks encoder\.mid\.attn_1\.k\.bias$"):
        released_weights.state(model, saved(w))
    w = tensors(ldm(True, z=4, ch=8, mult=(1, 1, 2)))
    with pytest.raises(ValueError, match=r"has decoder\.up\.2\.attn\.0\.k\.bias, .* 27 more, which the tok"):
        released_weights.state(model, saved(w))


def test_a_checkpoint_of_another_shape_does_not_fit(saved):
    file = saved(tensors(ldm(False, z=4, ch=8, mult=(1, 1, 2))))
    model = create("tokenizers", "conv", image=SMALL, expansion=1, **TINY_CONV)
    with pytest.raises(Unfit, match=r"8 x 16 x 3 x 3 in .*released.safetensors, and 4 x 16 x 3 x 3 in the"):
        released_weights.state(model, file)


def test_a_file_with_more_than_tensors_is_not_run(saved):
    with pytest.raises(ValueError, match="needs code to be read"):
        read_checkpoint(saved({"model": {}, "code": pytest.raises}, "bad.pt"))


MATRIX = """\
name: tiny
dataset: {use: digits}
features: {use: timm, model: test_vit, weights: random}
seeds: [0]
budget: {tokenizer_steps: 0, generator_steps: 1, batch: 8}
samples: 20
tokenizers:
  mine: {use: conv, width: 4, channels: 2, WEIGHTS}
regularizers: {none: {}, kl: {}}
generators: {gaussian: {}}
evaluators: [reconstruction]
"""


def with_weights(folder, weights, **options):
    return planned(folder, MATRIX.replace("WEIGHTS", weights), **options)


def trained(plan):
    return [stage for stage in plan.stages.values() if stage.kind == "tokenizer"]


def test_a_row_with_weights_is_known_by_their_hash_and_skipped_where_they_do_not_fit(saved, tmp_path):
    torch.manual_seed(5)
    image = ImageSpec(1, 8, 8)
    state = create("tokenizers", "conv", image=image, expansion=1, width=4, channels=2).state_dict()
    fresh = trained(with_weights(tmp_path, ""))
    assert len(fresh) == 2 and not any("weights" in stage.config for stage in fresh)
    file = saved(state)
    first = with_weights(tmp_path, f"weights: {file}")
    (stage,) = trained(first)
    assert stage.config["weights"] == {"file": str(file), "fingerprint": sha256(file)} and stage.known
    (cell,) = [cell for cell in first.cells if cell.skipped]
    assert cell.regularizer == "kl" and "2 x 8 x 3 x 3" in cell.skipped
    saved({name: tensor + 1 for name, tensor in state.items()})
    assert trained(with_weights(tmp_path, f"weights: {file}"))[0].key != stage.key


def test_missing_and_wrong_weights_are_problems_of_their_row(saved, tmp_path):
    absent = tmp_path / "absent.pt"
    plan = with_weights(tmp_path, f"weights: {absent}")
    assert {stage.key for stage in trained(plan)} == {UNKNOWN}
    with pytest.raises(MatrixError, match=f"there is no file {absent}"):
        with_weights(tmp_path, f"weights: {absent}", fetch=True)
    with pytest.raises(MatrixError, match="lacks decoder.conv_in.bias, .* and has a, which"):
        with_weights(tmp_path, f"weights: {saved({'a': torch.ones(1)})}")
    with pytest.raises(MatrixError, match="weights must be a path, not 3"):
        with_weights(tmp_path, "weights: 3")


def test_without_updates_a_tokenizer_is_scored_as_it_was_released(saved, tmp_path):
    torch.manual_seed(5)
    image = ImageSpec(1, 8, 8)
    state = create("tokenizers", "conv", image=image, expansion=1, width=4, channels=2).state_dict()
    (stage,) = trained(with_weights(tmp_path, f"weights: {saved(state)}"))
    result = STAGES["tokenizer"](stage.config, {}, Context(tmp_path))
    kept = {name: tensor for name, tensor in result.tensors.items() if name.startswith("tokenizer/")}
    assert {f"tokenizer/{name}" for name in state} == set(kept)
    assert all(torch.equal(kept[f"tokenizer/{name}"], tensor) for name, tensor in state.items())


def test_where_weights_lie_does_not_change_a_stage(saved, tmp_path):
    state = create(
        "tokenizers", "conv", image=ImageSpec(1, 8, 8), expansion=1, width=4, channels=2
    ).state_dict()
    one, two = (
        trained(with_weights(tmp_path, f"weights: {saved(state, f'{name}.safetensors')}"))[0]
        for name in ("a", "b")
    )
    assert one.key == two.key and one.config != two.config
