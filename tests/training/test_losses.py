"""Reconstruction losses against closed forms, autograd and the package lpips."""

import lpips as package
import pytest
import torch
from torch import nn

from latentbench.bench.api import ImageSpec, Noise, from_uint8
from latentbench.bench.metrics.lpips import Distance, Lpips
from latentbench.bench.training.adversary import (
    Adversarial,
    Adversary,
    adaptive_weight,
    consistency,
    hinge,
    lecam,
)
from latentbench.bench.training.losses import RECONSTRUCTION, Term, build_adversary, l1, terms

LPIPS = {"weight": 2.0, "network": "alex", "weights": "random", "ramp": 10}


class Brightness(nn.Module):
    """Its logit is the mean pixel; a scale makes it learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, noise):
        return self.scale * images.mean((1, 2, 3))[:, None]


def test_values_by_hand():
    a, b = torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert RECONSTRUCTION["l1"](a, b).item() == 1.0
    assert RECONSTRUCTION["l2"](a, b).item() == 1.5


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_a_loss_is_zero_at_the_image_and_does_not_depend_on_the_number_of_pixels(name):
    small, large = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 16, 16)
    assert RECONSTRUCTION[name](small, small) == 0
    values = [RECONSTRUCTION[name](x + 0.1, x).item() for x in (small, large)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_weight_rises_linearly_over_its_ramp():
    x = torch.zeros(1, 1, 2, 2)
    term = Term(2.0, l1, ramp=10)
    assert [term(x + 1, x, update).item() for update in (0, 5, 10, 99)] == [0, 1, 2, 2]
    assert Term(2.0, l1)(x + 1, x, 0) == 2


@pytest.mark.filterwarnings("ignore:.*pretrained.*", "ignore:Arguments other than a weight")
def test_lpips_is_the_package_s_and_the_evaluator_s():
    term = terms({"lpips": LPIPS})["lpips"]
    levels = torch.randint(0, 256, (2, 2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    a, b = (from_uint8(one.to(torch.uint8)) for one in levels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        known = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    assert torch.allclose(term.function(a, b), known(a, b).mean(), rtol=1e-4)
    evaluated = Lpips("alex", "random")(*levels.to(torch.uint8)).mean()
    assert term(a, b, 10).item() == pytest.approx(2 * evaluated.item(), rel=1e-4)


@pytest.mark.parametrize("side", [8, 64])
def test_lpips_has_a_gradient_to_the_reconstruction_alone(side):
    distance = Distance(Lpips("alex", "random"))
    a, b = (torch.rand(1, 1, side, side) * 2 - 1 for _ in range(2))
    a.requires_grad_()
    distance(a, b).backward()
    assert a.grad.abs().sum() > 0 and all(p.grad is None for p in distance.parameters())
    assert distance(a, a).item() == pytest.approx(0, abs=1e-6)


def test_the_hinge_is_zero_beyond_one_and_one_at_a_loss():
    far = torch.full((4, 3), 1.5)
    assert hinge(far, -far) == 0
    assert hinge(torch.zeros(4, 3), torch.zeros(4, 3)) == 1
    assert hinge(torch.tensor([[-1.0]]), torch.tensor([[0.5]])).item() == 0.5 * (2 + 1.5)


def test_lecam_is_a_square_beyond_the_other_s_average_and_averages_follow_logits():
    real, fake = torch.tensor([[3.0, -5.0]]), torch.tensor([[1.0, 4.0]])
    value = lecam(real, fake, torch.tensor(2.0), torch.tensor(1.0))
    assert value.item() == (3 - 1) ** 2 / 2 + (2 - 1) ** 2 / 2
    judge = Adversary(Brightness(), Adversarial(lecam=1.0))
    images = torch.full((2, 1, 4, 4), 0.5)
    for k in range(1, 4):
        judge.loss(images, -images, Noise(0))
        left = 0.5 * (1 - 0.999**k)
        assert torch.allclose(judge.seen, torch.tensor([left, -left]))


def test_the_discriminator_s_loss_is_its_parts_with_their_weights():
    images = torch.full((2, 1, 16, 16), 0.6)
    plain = Adversary(Brightness(), Adversarial()).loss(images, -images, Noise(0))
    assert plain.item() == pytest.approx(0.4)
    scaled = Adversary(Brightness(), Adversarial(discriminator_weight=0.2)).loss(images, -images, Noise(0))
    assert scaled.item() == pytest.approx(0.2 * 0.4)

    def loss(**options):
        return Adversary(Brightness(), Adversarial(**options)).loss(images, -images, Noise(0)).item()

    more = [loss(discriminator_weight=0.2, consistency=weight) - 0.2 * 0.4 for weight in (1.0, 4.0)]
    assert more[1] == pytest.approx(4 * more[0]) and more[0] > 0
    assert loss(augment=1.0) != pytest.approx(0.4)


def test_consistency_is_a_mean_square_and_both_sides_learn():
    a, b = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[0.0, 4.0]], requires_grad=True)
    value = consistency(a, b)
    value.backward()
    assert (
        value.item() == 2.5
        and torch.equal(a.grad, -b.grad)
        and torch.equal(a.grad, torch.tensor([[1.0, -2.0]]))
    )


def test_the_tokenizer_s_loss_is_minus_the_mean_logit_and_pulls_towards_real():
    images = torch.full((2, 1, 4, 4), 0.25, requires_grad=True)
    fooled = Adversary(Brightness(), Adversarial()).fooled(images, Noise(0))
    fooled.backward()
    assert fooled.item() == -0.25
    assert torch.allclose(images.grad, torch.full_like(images, -1 / images.numel()))


def test_the_adaptive_weight_makes_both_gradients_alike_at_the_head_and_is_detached_and_bounded():
    head = nn.Parameter(torch.tensor([3.0, 4.0]))
    weight = adaptive_weight((2 * head).sum(), head.square().sum(), head)
    assert weight.item() == pytest.approx(8**0.5 / (10 + 1e-4)) and not weight.requires_grad
    assert adaptive_weight((2 * head).sum(), 0 * head.sum(), head) == 1e4
    assert adaptive_weight(0 * head.sum(), head.sum(), head) == 0


def test_a_matrix_s_losses_keep_their_order_and_only_gan_has_a_discriminator():
    config = {"l2": 1.0, "lpips": LPIPS, "l1": 0.5}
    assert list(terms(config)) == list(config) and build_adversary(config, ImageSpec(1, 32, 32)) is None
    gan = {"gan": vars(Adversarial(width=4)) | {"optimizer": {"lr": 1e-4}}}
    judge = build_adversary(gan, ImageSpec(1, 32, 32))
    assert judge.start == 0 and judge.network(torch.zeros(2, 1, 32, 32), Noise(0)).shape == (2, 4)
    assert Adversary(Brightness(), Adversarial(start=7)).start == 7
    assert Adversary(Brightness(), Adversarial(start=7, discriminator_start=3)).start == 3
