"""TARFlow, and its layouts and guidance of STARFlow and SimFlow, against autograd and closed forms."""

import math

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Unfit
from latentbench.bench.models.flops import OperationCounter
from latentbench.bench.nn.causal_blocks import CausalLayer, starflow_guide
from latentbench.bench.runtime import parts_of_batches
from latentbench.bench.runtime.recompute import prepare
from latentbench.generators.tarflow import TARFlow

SPEC = LatentSpec(4, 3)
LABELS = torch.tensor([0, 1, 2, -1])
LAYOUTS = [
    {},
    {"deep": 3},
    {"conditioning": "adaln"},
    {"deep": 3, "conditioning": "adaln"},
    {"conditioning": "adaln", "classes": 0},
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def make(classes=3, randomise=True, **options):
    torch.manual_seed(0)
    model = TARFlow(SPEC, classes, width=8, blocks=3, layers=2, heads=2, **options).double().eval()
    if randomise:
        for name, parameter in model.named_parameters():
            if "blocks" in name and name.split(".")[2] == "output" or "modulation" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def latents(n=4):
    return torch.randn(n, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def uncached_inverse(model, noise, labels):
    """Fixed-point iteration of z = noise exp(a(z)) + b(z): exact after as many rounds as there are tokens."""
    for index, block in reversed(list(enumerate(model.blocks))):
        target = noise.flip(1) if index % 2 else noise
        x = target
        for _ in range(SPEC.tokens):
            x = x + (target - block(x, labels)[0]) * block.affine(x, labels)[0].exp()
        noise = x.flip(1) if index % 2 else x
    return noise


def test_the_deep_block_is_the_last_towards_noise():
    assert [len(block.layers) for block in make(deep=3).blocks] == [2, 2, 3]


@every_layout
def test_the_log_determinant_is_that_of_autograd_s_jacobian(layout):
    model, z = make(**layout), latents()
    _, logdet = model(z, LABELS)
    for i in range(4):
        one = lambda flat, i=i: model(flat.reshape(1, 4, 3), LABELS[i : i + 1])[0].flatten()  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(one, z[i].flatten())
        assert logdet[i].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("labels", [LABELS, None])
@every_layout
def test_the_cached_inverse_undoes_the_forward_pass(labels, layout):
    model, z = make(**layout), latents()
    noise, _ = model(z, labels)
    assert not torch.allclose(noise, z, atol=0.1)
    torch.testing.assert_close(model.inverse(noise, labels), z, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@every_layout
def test_the_cached_inverse_equals_the_uncached_one(layout):
    model, noise = make(**layout), latents()
    torch.testing.assert_close(model.inverse(noise, LABELS), uncached_inverse(model, noise, LABELS))


@torch.no_grad()
@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("group", [2, 3, 100])
@pytest.mark.parametrize("layout", [*LAYOUTS, {"conditioning": "prefix"}], ids=str)
def test_groups_of_tokens_settle_at_the_inverse_token_by_token(layout, group, w):
    model, noise = make(**layout), latents()
    one = model.inverse(noise, LABELS, w)
    exact = model.inverse(noise, LABELS, w, group=group)  # as many rounds as a group has tokens
    torch.testing.assert_close(exact, one, rtol=1e-12, atol=1e-12)
    near = model.inverse(noise, LABELS, w, group=group, tolerance=1e-6)
    torch.testing.assert_close(near, one, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_group_ends_when_no_number_changes_by_more_than_the_tolerance():
    block, z, rounds = make().blocks[0], latents(), []
    block.layers[0].register_forward_hook(lambda *_: rounds.append(None))
    for tolerance, expected in ((0.0, 3), (1e9, 1)):  # three tokens are transformed, in one group
        rounds.clear()
        block.inverse(z, LABELS, None, 4, tolerance)
        assert len(rounds) == expected
    step = block.inverse(z, LABELS, None, 4, 1e9)
    a, b = block.affine(z, LABELS)  # a group starts as the noise
    torch.testing.assert_close(step, z * a.exp() + b)


@torch.no_grad()
def test_the_inverse_with_compiled_layers_is_the_same(monkeypatch):
    compile_, (model, noise) = torch.compile, (make(), latents())
    plain = model.inverse(noise, LABELS, 2.0)
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend="eager"))  # without a compiler
    prepare({"compile": True}, model)
    torch.testing.assert_close(model.inverse(noise, LABELS, 2.0), plain)


def test_a_score_computes_no_gradients_of_weights_and_rows_in_parts(monkeypatch):
    model, z = make(), latents()
    with torch.no_grad(), OperationCounter() as forward:
        model.log_prob(z, LABELS)
    with OperationCounter() as counter:
        whole = model.score(z, LABELS)
    assert counter.flops < 2.5 * forward.flops  # 3 with gradients of weights
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    monkeypatch.setattr(parts_of_batches, "TOKENS", 8)  # of four rows, each of four tokens
    torch.testing.assert_close(model.score(z, LABELS), whole)
    torch.testing.assert_close(model.score(z, None), model.score(z, torch.full((4,), -1)))


@every_layout
def test_an_untrained_flow_is_the_identity_with_a_standard_normal_density(layout):
    model, z = make(randomise=False, **layout), latents()
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


@every_layout
def test_a_block_leaves_its_first_token_and_looks_only_backward(layout):
    block, z = make(**layout).blocks[0], latents()
    out, _ = block(z, LABELS)
    assert torch.equal(out[:, 0], z[:, 0])
    other = z.clone()
    other[:, 2] += 1
    changed = (block(other, LABELS)[0] - out).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, False, True, True]


@pytest.mark.parametrize("conditioning", ["embedding", "adaln"])
def test_no_class_is_the_mean_of_all_classes(conditioning):
    model, z = make(conditioning=conditioning), latents()
    none = model.log_prob(z, None)
    torch.testing.assert_close(model.log_prob(z, torch.full((4,), -1)), none)
    assert not torch.isclose(model.log_prob(z, LABELS)[:3], none[:3]).any()
    with torch.no_grad():
        for block in model.blocks:
            block.labels.copy_(block.labels.mean(0).expand(3, -1))
    torch.testing.assert_close(model.log_prob(z, LABELS), none)


def test_adaptive_layers_start_as_the_identity_and_learn_with_and_without_classes():
    x = torch.randn(2, 4, 8)
    layer = CausalLayer(8, 2, adaptive=True)
    torch.nn.init.zeros_(layer.modulation.weight), torch.nn.init.zeros_(layer.modulation.bias)
    assert torch.equal(layer(x, layer.modulation(x)), x)
    for classes in (3, 0):
        model = make(classes, conditioning="adaln", noise_std=0.0)
        model.loss(latents(), LABELS if classes else None, Noise(0))["nll"].backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())


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


def gaussian_product(a, b, a_u, b_u, w):
    """a and b of the Gaussian with density ~ p_c^w / p_u^(w - 1), by adding precisions."""
    precision = w * (-2 * a).exp() - (w - 1) * (-2 * a_u).exp()
    return -0.5 * precision.log(), (w * b * (-2 * a).exp() - (w - 1) * b_u * (-2 * a_u).exp()) / precision


def test_starflow_s_guidance_is_a_product_of_gaussians_where_the_conditional_is_the_narrower():
    a, b, b_u, gap = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    c, u = torch.cat([a, b], -1), torch.cat([a + gap.abs(), b_u], -1)
    for w in (0.0, 0.5, 1.0, 1.5, 4.0):
        expected = torch.cat(gaussian_product(a, b, a + gap.abs(), b_u, w), -1)
        torch.testing.assert_close(starflow_guide(c, u, w), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(starflow_guide(c, u, 1.0), c, atol=1e-15, rtol=0)
    # Where it is the wider, dividing could leave nothing to normalise; widths count as equal.
    wide = starflow_guide(c, torch.cat([a - gap.abs(), b_u], -1), 3.0)
    torch.testing.assert_close(wide, torch.cat([a, b + 2 * (b - b_u)], -1))


@torch.no_grad()
@every_layout
def test_starflow_s_guidance_is_for_the_last_block_and_the_others_stay_conditional(layout):
    model, noise = make(**layout), latents()
    z = model.inverse(noise, LABELS, 2.0, guidance_rule="starflow")
    if not model.classes:
        assert torch.equal(z, model.inverse(noise, LABELS))
        return
    for index, block in enumerate(model.blocks[:-1]):
        z = block(z.flip(1) if index % 2 else z, LABELS)[0]
        z = z.flip(1) if index % 2 else z
    last = model.blocks[-1]  # of three: reads tokens forward
    (a, b), (a_u, b_u) = last.affine(z, LABELS), last.affine(z, None)
    a, b = gaussian_product(a, b, torch.maximum(a, a_u), b_u, 2.0)
    torch.testing.assert_close((z - b) * (-a).exp(), noise)


@torch.no_grad()
def test_the_score_step_adds_gamma_times_the_difference_of_scores():
    model = make(noise_std=0.0)
    plain, stepped = (model.sample(LABELS, 1.5, Noise(0), score_step=gamma) for gamma in (0.0, 0.25))
    with torch.enable_grad():
        z = plain.clone().requires_grad_()
        (model.log_prob(z, LABELS) - model.log_prob(z, None)).sum().backward()
    torch.testing.assert_close(stepped - plain, 0.25 * z.grad)
    assert torch.equal(stepped[3], plain[3]) and not torch.equal(stepped[:3], plain[:3])  # label 3 is none
    unguided = [model.sample(LABELS, 1.0, Noise(0), score_step=gamma) for gamma in (0.0, 0.25)]
    assert torch.equal(*unguided)


@torch.no_grad()
def test_without_training_noise_there_is_nothing_to_denoise():
    model = make(noise_std=0.0)
    one, two = (model.sample(LABELS, 1.0, Noise(0), denoise=denoise) for denoise in (True, False))
    assert torch.equal(one, two)


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


@pytest.mark.parametrize("layout", [*LAYOUTS, {"conditioning": "prefix"}], ids=str)
def test_hidden_tokens_lie_where_their_tokens_do_in_blocks_of_either_direction(layout):
    model, z = make(randomise=False, **layout), latents(1)  # blocks are identities: dependence is a block's
    label = torch.tensor([1]) if model.classes else None
    for name, parameter in model.named_parameters():
        if "modulation" in name:  # else layers are identities too
            torch.nn.init.normal_(parameter, std=0.1)
    for tap, index in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)):
        log_prob, hidden = model.tapped(z, label, tap)
        assert hidden.shape == (1, 4, 8) and torch.equal(log_prob, model.log_prob(z, label))
        slopes = torch.autograd.functional.jacobian(lambda z, tap=tap: model.tapped(z, label, tap)[1], z)
        sees = slopes.abs().sum((0, 2, 3, 5)) > 0  # (hidden token, token)
        ones = torch.ones(4, 4).bool()
        # STARFlow's hidden tokens stand a place ahead: at i they have seen those before i.
        ahead = int(layout.get("conditioning") == "prefix")
        backward = model.backward[index]
        assert torch.equal(sees, ones.triu(ahead) if backward else ones.tril(-ahead))
    with pytest.raises(ValueError, match="tap = 9 is none of tarflow's layers 1 to"):
        model.tapped(z, label, 9)
