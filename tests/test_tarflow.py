"""TARFlow against autograd's Jacobian, an uncached inverse and closed forms."""

import math

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Unfit
from latentbench.generators.tarflow import TARFlow

SPEC = LatentSpec(4, 3)
LABELS = torch.tensor([0, 1, 2, -1])


def make(classes=3, randomise=True, **options):
    torch.manual_seed(0)
    model = TARFlow(SPEC, classes, width=8, blocks=3, layers=2, heads=2, **options).double().eval()
    if randomise:
        for block in model.blocks:
            torch.nn.init.normal_(block.output.weight, std=0.1)
            torch.nn.init.normal_(block.output.bias, std=0.1)
    return model


def latents(n=4):
    return torch.randn(n, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def uncached_inverse(model, noise, labels):
    """Fixed-point iteration of z = noise exp(a(z)) + b(z): exact after as many rounds as there are tokens."""
    for index, block in reversed(list(enumerate(model.blocks))):
        target = noise.flip(1) if index % 2 else noise
        x = target
        for _ in range(SPEC.tokens):
            z, _ = block(x, labels)
            hidden = block.embed(x) + block.positions + block.label(labels)
            for layer in block.layers:
                hidden = layer(hidden)
            a = torch.nn.functional.pad(block.output(hidden)[:, :-1], (0, 0, 1, 0)).chunk(2, -1)[0]
            x = x + (target - z) * a.exp()
        noise = x.flip(1) if index % 2 else x
    return noise


def test_conditional_imagenet_64_has_its_parameter_count():
    with torch.device("meta"):
        model = TARFlow(LatentSpec(1024, 12, (32, 32)), 1000, width=768, blocks=8, layers=8, heads=12)
    assert sum(p.numel() for p in model.parameters()) == 466_286_784


def test_the_log_determinant_is_that_of_autograd_s_jacobian():
    model, z = make(), latents()
    _, logdet = model(z, LABELS)
    for i in range(4):
        one = lambda flat, i=i: model(flat.reshape(1, 4, 3), LABELS[i : i + 1])[0].flatten()  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(one, z[i].flatten())
        assert logdet[i].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("labels", [LABELS, None])
def test_the_cached_inverse_undoes_the_forward_pass(labels):
    model, z = make(), latents()
    noise, _ = model(z, labels)
    assert not torch.allclose(noise, z, atol=0.1)
    torch.testing.assert_close(model.inverse(noise, labels), z, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_cached_inverse_equals_the_uncached_one():
    model, noise = make(), latents()
    torch.testing.assert_close(model.inverse(noise, LABELS), uncached_inverse(model, noise, LABELS))


def test_an_untrained_flow_is_the_identity_with_a_standard_normal_density():
    model, z = make(randomise=False), latents()
    noise, logdet = model(z, LABELS)
    assert torch.equal(noise, z) and not logdet.any()
    expected = -0.5 * z.square().sum((1, 2)) - 6 * math.log(2 * math.pi)
    torch.testing.assert_close(model.log_prob(z, LABELS), expected)


def test_the_density_integrates_to_one():
    torch.manual_seed(0)
    model = TARFlow(LatentSpec(2, 1), 0, width=8, blocks=2, heads=1)
    for block in model.blocks:
        torch.nn.init.normal_(block.output.weight, std=0.3)
    axis = torch.linspace(-12, 12, 400)
    grid = torch.cartesian_prod(axis, axis)[..., None]
    with torch.no_grad():
        total = model.log_prob(grid, None).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_a_block_leaves_its_first_token_and_looks_only_backward():
    block, z = make().blocks[0], latents()
    out, _ = block(z, LABELS)
    assert torch.equal(out[:, 0], z[:, 0])
    other = z.clone()
    other[:, 2] += 1
    changed = (block(other, LABELS)[0] - out).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, False, True, True]


def test_no_class_is_the_mean_of_all_classes():
    model, z = make(), latents()
    none = model.log_prob(z, None)
    torch.testing.assert_close(model.log_prob(z, torch.full((4,), -1)), none)
    assert not torch.isclose(model.log_prob(z, LABELS)[:3], none[:3]).any()
    with torch.no_grad():
        for block in model.blocks:
            block.labels.copy_(block.labels.mean(0).expand(3, -1))
    torch.testing.assert_close(model.log_prob(z, LABELS), none)


@torch.no_grad()
def test_guidance_of_one_is_none_and_zero_is_unconditional():
    model, noise = make(), latents()
    conditional = model.inverse(noise, LABELS)
    torch.testing.assert_close(model.inverse(noise, LABELS, 1.0 + 1e-12), conditional)
    torch.testing.assert_close(model.inverse(noise, LABELS, 0.0, anneal=False), model.inverse(noise, None))
    assert not torch.allclose(model.inverse(noise, LABELS, 3.0), conditional)


@torch.no_grad()
def test_annealed_guidance_grows_to_its_full_value_at_the_last_token():
    model, noise = make(), latents()
    del model.blocks[1:]
    plain, annealed, full = (
        model.inverse(noise, LABELS, w, anneal=anneal)
        for w, anneal in ((1.0, True), (2.0, True), (2.0, False))
    )
    # The second token follows the unchanged first one, so its shift is linear in w where a does not matter.
    with torch.no_grad():
        gap = (annealed - plain)[:, 1].norm() / (full - plain)[:, 1].norm()
    assert 0.2 < gap < 0.45  # g (i + 1) / (T - 1) = 1/3


@torch.no_grad()
def test_temperature_touches_only_the_unconditional_branch():
    model, noise = make(), latents()
    assert torch.equal(model.inverse(noise, LABELS, temperature=2.0), model.inverse(noise, LABELS))
    assert not torch.equal(
        model.inverse(noise, LABELS, 2.0, temperature=2.0), model.inverse(noise, LABELS, 2.0)
    )


def test_denoising_an_untrained_flow_is_gaussian_shrinkage_also_without_autograd():
    model, z = make(randomise=False, noise_std=0.5), latents()
    with torch.no_grad():
        torch.testing.assert_close(model.denoise(z, LABELS), z * (1 - 0.25))


def test_the_loss_is_the_noised_latent_s_negative_log_likelihood_per_dimension():
    model, z = make(noise_std=0.0, label_dropout=0.0), latents()
    loss = model.loss(z, LABELS, Noise(0))["nll"]
    assert loss.item() == pytest.approx(-model.log_prob(z, LABELS).mean().item() / 12)


def test_a_single_token_does_not_fit():
    with pytest.raises(Unfit, match="single"):
        TARFlow(LatentSpec(1, 2), 0)
