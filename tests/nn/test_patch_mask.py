"""Hidden patches: their law against scipy's, their number, and who sees them."""

import math

import pytest
import torch
from scipy import stats

from latentbench.bench.api import ImageSpec, Noise, Regularizer
from latentbench.bench.nn.patch_mask import PatchMask, hidden_patches, hidden_share
from latentbench.bench.registry import create
from latentbench.bench.runtime.recompute import prepare
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer

DIGITS = ImageSpec(1, 8, 8)
TOKENIZERS = [("vit", {}), ("vit", {"latents": 5}), ("softvq", {"patch": 2})]


def built(name, options, expansion=1, **more):
    torch.manual_seed(0)
    return create("tokenizers", name, image=DIGITS, expansion=expansion, **options, **more)


def images(rows=4):
    return torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_shares_are_draws_of_a_truncated_normal_distribution():
    shares = [hidden_share(0.4, 0.6, Noise(0).fork(i)) for i in range(4000)]
    law = stats.truncnorm((0.4 - 0.6) / 0.25, 0, loc=0.6, scale=0.25)
    assert stats.kstest(shares, law.cdf).pvalue > 0.01
    assert law.mean() == pytest.approx(0.505, abs=5e-4)
    u = Noise(0).fork(3).uniform(torch.zeros(()), "share").item()
    assert shares[3] == pytest.approx(law.ppf(u), abs=1e-12)
    assert hidden_share(0.5, 0.5, Noise(0)) == 0.5 and 0 <= hidden_share(0, 1, Noise(0)) <= 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.51, 1.0])
def test_as_many_patches_are_hidden_in_each_image_at_places_of_its_own(share):
    hidden = hidden_patches(torch.zeros(200, 16, 3), share, Noise(0))
    assert (hidden.sum(1) == math.ceil(16 * share)).all()
    if 0 < share < 1:
        assert len(hidden.unique(dim=0)) > 10
        expected = math.ceil(16 * share) / 16
        spread = (expected * (1 - expected) / 200) ** 0.5
        assert (hidden.float().mean(0) - expected).abs().max() < 4 * spread


def test_a_patch_is_its_own_token_or_the_learned_one():
    mask, x = PatchMask(3, (0.5, 0.5)), torch.randn(6, 8, 3, requires_grad=True)
    masked = mask(x, Noise(0))
    hidden = hidden_patches(x, 0.5, Noise(0))
    assert torch.equal(masked[~hidden], x[~hidden]) and (masked[hidden] == mask.token).all()
    (weights := torch.randn(6, 8, 3)).mul(masked).sum().backward()
    torch.testing.assert_close(mask.token.grad, weights[hidden].sum(0))
    assert (x.grad[hidden] == 0).all() and mask(x.bfloat16(), Noise(0)).dtype == torch.bfloat16


def test_two_processes_hide_the_patches_of_one():
    mask, x = PatchMask(3, (0.1, 0.9)), torch.randn(6, 32, 3)
    parts = [mask(x[3 * rank : 3 * rank + 3], Noise(0, ("a",), rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), mask(x, Noise(0, ("a",))))


@pytest.mark.parametrize("name, options", TOKENIZERS)
def test_only_training_hides_patches_and_without_a_mask_nothing_changes(name, options):
    plain, masked = built(name, options), built(name, options, mask=(0.4, 0.6))
    own, other = plain.state_dict(), masked.state_dict()
    assert other.keys() - own.keys() == {"encoder.mask.token"}
    assert all(torch.equal(own[key], other[key]) for key in own)  # both start alike
    x, noise = images(), Noise(0)
    assert torch.equal(plain.encode(x), masked.encode(x))
    assert torch.equal(plain.encode_in_training(x, noise), plain.encode(x))
    first, second = (masked.encode_in_training(x, noise.fork(i)) for i in (0, 1))
    assert not torch.allclose(first, masked.encode(x)) and not torch.allclose(first, second)


@pytest.mark.parametrize("name, options", TOKENIZERS)
def test_h_depends_on_no_hidden_pixel(name, options):
    model, x, seen = built(name, options, mask=(0.5, 0.5)), images().requires_grad_(), []
    model.encoder.mask.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    h = model.encode_in_training(x, Noise(0))
    hidden = hidden_patches(seen[0], 0.5, Noise(0)).unflatten(1, (4, 4))
    pixels = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    assert pixels.float().mean() == 0.5
    gradient = torch.autograd.grad(h.square().sum(), x)[0]
    assert (gradient[pixels] == 0).all() and (gradient[~pixels] != 0).all()


@pytest.mark.parametrize("name, options", TOKENIZERS)
def test_a_network_that_is_computed_again_hides_the_same_patches(name, options):
    gradients = []
    for checkpointing in (False, True):
        model = built(name, options, mask=(0.4, 0.6)).train()
        prepare({"checkpointing": checkpointing}, model)
        model.encode_in_training(images(), Noise(0)).square().sum().backward()
        gradients.append(model.encoder.mask.token.grad)
        assert gradients[-1].any()
    assert torch.equal(*gradients)


def trained(folder, seed=0, stop_at=-1):
    """The weights of a tokenizer with a mask after twelve updates and two of its decoder."""
    torch.manual_seed(seed)
    model, asked = (
        create("tokenizers", "vit", image=DIGITS, expansion=1, depth=1, mask=(0.4, 0.6)),
        iter(range(99)),
    )
    folder.mkdir(exist_ok=True)
    train_tokenizer(
        model,
        Regularizer(model.spec),
        create("datasets", "digits"),
        Objective({"l1": Term(1.0, l1)}),
        TrainingBudget(12, 8, refine_steps=2),
        seed=0,
        optimizer=({"warmup": 0}, {}),
        context=Context(folder, stopping=lambda: next(asked) == stop_at),
    )
    return dict(model.state_dict())


def test_training_that_goes_on_hides_the_patches_of_one_that_never_stopped(tmp_path):
    straight = trained(tmp_path / "straight")
    assert (
        straight["encoder.mask.token"] - built("vit", {"depth": 1}, mask=(0.4, 0.6)).encoder.mask.token
    ).any()
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", stop_at=5)
    resumed = trained(tmp_path / "stopped", seed=1)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_range_in_the_wrong_order_is_named():
    with pytest.raises(ValueError, match=r"mask \[0.6, 0.4\] is no range"):
        built("vit", {}, mask=(0.6, 0.4))
