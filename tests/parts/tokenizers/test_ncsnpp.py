"""LZN's networks of images: published sizes, and a decoder that draws."""

import pytest
import torch

from latentbench.bench.api import ImageSpec, LatentSpec, Noise, Step
from latentbench.bench.options.options import check_options
from latentbench.bench.registry import create, get
from latentbench.tokenizers.ncsnpp import doubled, halved

TINY = {"width": 8, "channels": 3, "reduced": 2, "units": 4}


class Labelled:
    classes = 10


def build(size=None, side=16, device="cpu", **options):
    clean, wrong = check_options(get("tokenizers", "ncsnpp"), options | ({"size": size} if size else TINY))
    assert not wrong
    torch.manual_seed(0)
    with torch.device(device):
        facts = {"image": ImageSpec(3, side, side), "expansion": 1, "dataset": Labelled()}
        return create("tokenizers", "ncsnpp", **facts, **clean)


def awake(model):
    """As if trained: a network whose output starts at zero would say nothing."""
    for index, p in enumerate(model.parameters()):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(index))
        p.data += 0.03 * noise * p.requires_grad
    return model.eval()


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(part):
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("size", "side", "options", "encoder", "decoder"),
    [
        ("cifar10", 32, {}, 49_790_260, 61_906_819),
        ("cifar10", 32, {"latent": False}, None, 61_804_419),
        ("cifar10", 32, {"conditional": True}, 49_790_260, 61_911_939),
        ("cifar10", 32, {"conditional": True, "latent": False}, None, 61_809_539),
        ("image256", 256, {}, 87_768_896, 65_676_949),
        ("image256", 256, {"latent": False}, None, 65_574_549),
    ],
)
def test_sizes_have_the_published_number_of_parameters(size, side, options, encoder, decoder):
    model = build(size, side, "meta", **options)
    assert count(model.decoder) == decoder and model.spec == LatentSpec(1, 200)
    assert encoder is None or count(model.encoder) == encoder
    frozen = sum(p.numel() for p in model.decoder.parameters() if not p.requires_grad)
    assert frozen == (128 if size == "image256" else 0)  # the frequencies of time


@pytest.mark.parametrize("style", ["ddpm++", "ncsn++"])
def test_resizing_is_zeros_put_between_and_a_filter(style):
    kernel = torch.tensor([1.0, 3, 3, 1]) / 8 if style == "ncsn++" else torch.tensor([1.0, 1]) / 2
    x, size = rand(1, 2, 6, 4), len(kernel)

    def filtered(row):
        """Every offset of the filter over a row with zeros around it."""
        padded = torch.cat([torch.zeros(size), row, torch.zeros(size)])
        return torch.stack([(padded[i : i + size] * kernel).sum() for i in range(len(row) + size + 1)])

    def down(row):
        first = size - (size - 2) // 2  # so many zeros before the row
        return filtered(row)[first : first + len(row) : 2]

    def up(row):
        stretched = torch.stack([row, torch.zeros_like(row)], 1).flatten()
        return 2 * filtered(stretched)[size // 2 :][: 2 * len(row)]

    def both(one, x):
        for axis in (2, 3):
            rows = [one(row) for row in x.movedim(axis, 3).flatten(0, 2)]
            shape = [*x.movedim(axis, 3).shape[:3], -1]
            x = torch.stack(rows).reshape(shape).movedim(3, axis)
        return x

    torch.testing.assert_close(halved(x, style), both(down, x))
    torch.testing.assert_close(doubled(x, style), both(up, x))


@pytest.mark.parametrize("style", ["ddpm++", "ncsn++"])
def test_an_untrained_decoder_does_not_move_noise_and_its_loss_is_the_whole_way(style):
    model, images, z = build(style=style), rand(64, 3, 16, 16).tanh(), rand(64, 1, 3)
    noise = Noise(3)
    x0 = noise.normal(images)
    torch.testing.assert_close(model.decode(z, None, noise), x0, atol=1e-2, rtol=0)
    found = model.loss(images, z, Step(0, images, None, noise, model.decode))
    assert set(found) == {"flow"}
    # images and noise are independent: E (x1 - x0)^2 = E x1^2 + 1
    assert found["flow"].item() == pytest.approx(images.square().mean().item() + 1, rel=0.05)


def test_the_loss_is_the_velocity_s_error_on_the_straight_line():
    model, images, z = awake(build()), rand(4, 3, 16, 16).tanh(), rand(4, 1, 3)
    seen = {}

    def velocity(x, t, z, labels):
        seen.update(x=x, t=t)
        return torch.zeros_like(x)

    model.velocity = velocity
    loss = model.loss(images, z, Step(0, images, None, Noise(1), model.decode))["flow"]
    t = seen["t"][:, None, None, None]
    assert (t >= 1e-3).all() and (t <= 1).all()
    x0 = (seen["x"] - t * images) / (1 - t)
    assert loss.item() == pytest.approx((images - x0).square().mean().item(), rel=1e-4)


def test_images_inverted_and_drawn_again_are_themselves():
    model = awake(build(solver="rk45", side=8, conditional=True))
    z, labels = rand(3, 1, 3), torch.tensor([2, -1, 7])
    with torch.no_grad():
        x = rand(3, 3, 8, 8, seed=1)
        images = model.drawn(x, z, labels)
        assert (images - x).abs().max() > 0.1
        torch.testing.assert_close(
            model.drawn(model.inverted(images, z, labels), z, labels), images, atol=0.02, rtol=0
        )


def test_the_solvers_agree_with_many_steps():
    one, two = awake(build(solver="rk45", side=8)), awake(build(steps=200, side=8))
    z = rand(2, 1, 3)
    with torch.no_grad():
        torch.testing.assert_close(one.decode(z), two.decode(z), atol=0.02, rtol=0)


def test_the_decoder_is_told_the_latent_and_the_class_or_not():
    x, t, z, labels = rand(2, 3, 16, 16), torch.tensor([0.3, 0.9]), rand(2, 1, 3), torch.tensor([1, 2])
    for latent in (True, False):
        for conditional in (True, False):
            model = awake(build(latent=latent, conditional=conditional))
            with torch.no_grad():
                first = model.velocity(x, t, z, labels)
                assert torch.equal(model.velocity(x, t, z + 1, labels), first) != latent
                assert torch.equal(model.velocity(x, t, z, labels.flip(0)), first) != conditional
                unknown = model.velocity(x, t, z, torch.full((2,), -1))
                assert torch.equal(unknown, model.velocity(x, t, z, None))


def test_the_flow_s_gradient_reaches_the_encoder_through_the_zones_of_images():
    model = awake(build())
    zones = create("regularizers", "lzn", spec=model.spec, classes=0, anchors="image", steps=8)
    images = rand(8, 3, 16, 16).tanh()
    h = model.encode(images)
    z = zones.latent(h, Noise(0))
    sum(model.loss(images, z, Step(0, images, None, Noise(0), model.decode)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.outputs.parameters())


def test_without_weight_or_latent_decoder_or_encoder_stay_as_they_are():
    images = rand(4, 3, 16, 16).tanh()
    for options, still in (({"weight": 0.0}, "decoder"), ({"latent": False}, "encoder")):
        model = build(**options)
        z = model.encode(images)
        terms = model.loss(images, z, Step(0, images, None, Noise(0), model.decode))
        if z.requires_grad or still == "encoder":
            sum(terms.values()).backward()
        assert all(p.grad is None for p in getattr(model, still).parameters())
