"""Discriminators: the published sizes, what an output sees, and which features the heads are on."""

import pytest
import timm
import torch
from torch import distributed, multiprocessing, nn

from latentbench.bench.api import ImageSpec, Noise
from latentbench.bench.nn.discriminators import LAYOUTS, Features, Norm1d, Patch, features, load
from latentbench.bench.nn.timm_vit import transformer
from latentbench.bench.runtime.processes import Group
from latentbench.bench.training.adversary import Adversarial, Adversary, discriminator

IMAGENET = ImageSpec(3, 256, 256)
SMALL = ImageSpec(1, 32, 32)


def parameters(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_sizes_are_those_of_the_published_code():
    with torch.device("meta"):
        assert parameters(Patch(IMAGENET)) == 2_766_529
        softvq, dmvae = (Features(IMAGENET, LAYOUTS[name], "random") for name in ("dino", "dinov2"))
    assert parameters(softvq) == parameters(dmvae) == 7_386_245  # of the heads: the rest is frozen
    assert (softvq.side, dmvae.side) == (224, 252)
    noise, images = Noise(0), torch.empty(2, 3, 256, 256, device="meta")
    assert softvq(images, noise).shape == (2, 5 * 14 * 14)
    assert dmvae(images, noise).shape == (2, 5 * 18 * 18)


def test_an_output_of_patchgan_sees_a_patch_of_70_pixels():
    network = Patch(ImageSpec(1, 128, 128), width=4).eval()
    image = torch.zeros(1, 1, 128, 128, requires_grad=True)
    logits = network(image, Noise(0))
    assert logits.shape == (1, 14 * 14)
    logits[0, 7 * 14 + 7].backward()
    touched = image.grad[0, 0].abs() > 0
    assert touched.any(1).sum() == touched.any(0).sum() == 70


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_patchgan_says_which_images_are_too_small_for_it(layers):
    side = 3 * 2**layers
    assert Patch(ImageSpec(1, side, side), 4, layers)(torch.zeros(1, 1, side, side), Noise(0)).numel() >= 1
    with pytest.raises(ValueError, match=f"images of {side} pixels or more"):
        Patch(ImageSpec(1, side - 1, side), 4, layers)


def test_features_are_the_transformer_s_own_with_the_class_token_added():
    network = transformer("test_vit", ImageSpec(3, 32, 32), 16).eval()
    seen = {}
    for depth, block in enumerate(network.blocks):
        block.register_forward_hook(lambda module, given, out, depth=depth: seen.update({depth: out}))
    network.blocks[0].register_forward_pre_hook(lambda module, given: seen.update({-1: given[0]}))
    pixels = torch.rand(2, 3, 32, 32)
    network.forward_features(pixels)
    expected = {depth: tokens[:, 1:] + tokens[:, :1] for depth, tokens in seen.items()}
    found = features(network, pixels, [-1, 2, 5])
    for depth, maps in zip([-1, 2, 5], found, strict=True):
        assert torch.allclose(maps.mT, expected[depth], atol=1e-6)


def test_the_transformer_is_frozen_and_in_evaluation_while_the_heads_learn_and_gradients_pass():
    network = Features(SMALL, LAYOUTS["dino"], "random", "test_vit", 32).train()
    assert not any(p.requires_grad for p in network.network.parameters())
    assert not network.network.training and network.heads.training
    images = torch.rand(2, 1, 32, 32, requires_grad=True)
    network(images, Noise(0)).sum().backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is not None for p in network.heads.parameters())


def test_spectral_norms_bound_the_heads_weights():
    network = Features(SMALL, LAYOUTS["dinov2"], "random", "test_vit").train()
    for _ in range(30):
        network(torch.rand(2, 1, 32, 32), Noise(0))
    convolutions = [module for module in network.eval().modules() if isinstance(module, nn.Conv1d)]
    assert len(convolutions) == 3 * len(network.taps)
    for convolution in convolutions:
        assert torch.linalg.matrix_norm(convolution.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.05)


def test_weights_come_from_a_file_of_timm_s_at_any_size_and_another_file_is_refused(tmp_path):
    published = timm.create_model("test_vit")
    torch.save(published.state_dict(), tmp_path / "vit.pth")
    network = Features(SMALL, LAYOUTS["dino"], str(tmp_path / "vit.pth"), "test_vit", 32).network
    assert torch.equal(network.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
    assert network.pos_embed.shape != published.pos_embed.shape
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is not of timm's test_vit"):
        load(network, tmp_path / "other.pth", "test_vit")


def test_features_need_their_weights_named():
    with pytest.raises(ValueError, match="needs `dino: PATH` or `dino: random`"):
        discriminator(Adversarial(discriminator="dino"), SMALL)


def batch():
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


def normed(rank, folder, dtype):
    """A process's share of a batch through a norm, its gradient and the averages, to a file."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    judge = Adversary(nn.Sequential(Norm1d(3)), Adversarial())
    judge.set_group(Group(rank, 2))
    x = batch().to(dtype).chunk(2)[rank].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = judge.network(x)
    (y**3).sum().backward()
    norm = judge.network[0]
    torch.save([y.detach(), x.grad, norm.running_mean, norm.running_var], folder / str(rank))
    distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_two_processes_is_torch_s_of_the_whole_batch(dtype, tmp_path):
    multiprocessing.start_processes(normed, (tmp_path, dtype), nprocs=2, start_method="fork")
    norm, x = nn.BatchNorm1d(3), batch().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = norm(x)
    (y**3).sum().backward()
    shares = [torch.load(tmp_path / str(rank)) for rank in (0, 1)]
    for place, whole in enumerate((y.detach(), x.grad)):
        found = torch.cat([share[place] for share in shares])
        assert found.dtype == dtype
        assert torch.allclose(found, whole, atol=1e-5 if dtype == torch.float32 else 0.03)
    for share in shares:
        assert torch.allclose(share[2], norm.running_mean) and torch.allclose(share[3], norm.running_var)
