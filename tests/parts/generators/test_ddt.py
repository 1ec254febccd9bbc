"""DDT: its conditions of each token, its loss and its sampler against loops and formulas."""

import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import silu

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.flow import euler, logit_normal, shift_time
from latentbench.bench.nn.blocks import modulate, rotate
from latentbench.generators.ddt import DDT

SPEC = LatentSpec(4, 3, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1])


def make(randomise=True, spec=SPEC, classes=3, **options):
    torch.manual_seed(0)
    options = {"width": 16, "depth": 2, "heads": 2, "head_width": 24, "head_heads": 2} | options
    model = DDT(spec, classes, **options)
    if randomise:  # past adaLN-Zero, where nothing depends on anything
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def inputs(spec=SPEC):
    return torch.randn(4, spec.tokens, spec.channels).double(), torch.rand(4).double()


@pytest.mark.parametrize("spec", [SPEC, LatentSpec(4, 3)])
def test_an_untrained_network_has_zero_velocity(spec):
    v = make(randomise=False, spec=spec).velocity(*inputs(spec), LABELS)
    assert v.shape == (4, 4, 3) and not v.any()


def test_its_time_is_the_noise_level_through_fixed_frequencies_of_the_seed():
    model, seen = make(), []
    model.time.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x, _ = inputs()
    model.velocity(x, torch.tensor([1.0, 0.75, 0.5, 0.0]).double(), None)
    angles = 2 * torch.pi * torch.tensor([0.0, 0.25, 0.5, 1.0]).double()[:, None] * model.frequencies
    torch.testing.assert_close(seen[0], torch.cat([angles.sin(), angles.cos()], dim=-1))
    assert torch.equal(make().frequencies, model.frequencies) and "frequencies" in model.state_dict()
    assert "frequencies" not in dict(model.named_parameters())


def test_its_frequencies_are_standard_normals():
    torch.manual_seed(0)
    drawn = torch.cat([DDT(SPEC, 0, width=4, depth=1, heads=1).frequencies for _ in range(20)])
    assert kstest(drawn.numpy(), "norm").pvalue > 0.01


def test_each_token_of_the_stack_is_the_condition_of_its_own_token():
    """A changed token of the stack's output changes one row of the head's condition, and of the velocity."""
    model, (x, t) = make(), inputs()
    conditions, change = [], torch.zeros(4, 4, 16).double()
    model.blocks[-1].register_forward_hook(lambda module, args, output: output + change)
    model.head_blocks[0].register_forward_pre_hook(lambda module, args: conditions.append(args[1]))
    for block in model.head_blocks:  # without attention nothing else mixes tokens
        torch.nn.init.zeros_(block.attention.output.weight)
    before = model.velocity(x, t, LABELS)
    change[:, 2] = 0.5
    after = model.velocity(x, t, LABELS)
    assert conditions[0].shape == (4, 4, 24)
    differs = (conditions[0] != conditions[1]).any(-1)
    assert torch.equal(differs, torch.tensor([False, False, True, False]).expand(4, -1))
    assert torch.equal((before != after).any(-1), differs)


def block_by_hand(block, x, conditions, rotary, heads):
    """One image's tokens (T, D), each with a condition (T, D) of its own, by loops over tokens and heads."""
    T, width = x.shape
    rows = [block.modulation(silu(c)).chunk(6) for c in conditions]
    h = torch.stack([modulate(block.norm1(x[i]), rows[i][0], rows[i][1]) for i in range(T)])
    q, k, v = block.attention.qkv(h).chunk(3, dim=-1)
    mixed = []
    for part in range(heads):
        cut = slice(part * width // heads, (part + 1) * width // heads)
        # rotary embedding is in single precision; both sides share it
        a, b = rotate(q[:, cut][None], rotary)[0], rotate(k[:, cut][None], rotary)[0]
        mixed.append((a @ b.T / (width // heads) ** 0.5).softmax(-1) @ v[:, cut])
    y = block.attention.output(torch.cat(mixed, dim=-1))
    x = torch.stack([x[i] + rows[i][2] * y[i] for i in range(T)])
    outputs = [
        x[i] + rows[i][5] * block.mlp(modulate(block.norm2(x[i]), rows[i][3], rows[i][4])) for i in range(T)
    ]
    return torch.stack(outputs)


def test_the_network_is_the_paper_s_code_token_by_token():
    model, (x, t) = make(), inputs()
    for row in range(4):
        angles = 2 * torch.pi * (1 - t[row]) * model.frequencies
        time = model.time(torch.cat([angles.sin(), angles.cos()]))
        c = silu(time + model.label(LABELS[row : row + 1], 1)[0])
        s = torch.stack([model.embed(x[row, i]) + model.positions[i] for i in range(4)])
        for block in model.blocks:
            s = block_by_hand(block, s, c.expand(4, -1), model.rotary, 2)
        s = model.condition(silu(time + s))
        y = model.head_embed(x[row])
        for block in model.head_blocks:
            y = block_by_hand(block, y, s, model.head_rotary, 2)
        shift, scale = model.modulation(silu(s)).chunk(2, dim=-1)
        expected = model.output(model.norm(y) * (1 + scale) + shift)
        torch.testing.assert_close(model.velocity(x, t, LABELS)[row], expected)


def test_blocks_are_counted_through_the_stack_and_the_head():
    model, (x, t) = make(), inputs()
    widths = [model.velocity(x, t, LABELS, tap=tap)[1].shape[-1] for tap in (1, 2, 3, 4)]
    assert widths == [16, 16, 24, 24]
    with pytest.raises(ValueError, match="tap = 5"):
        model.velocity(x, t, LABELS, tap=5)


def test_alignment_is_of_the_stack_alone():
    teacher = LatentSpec(4, 5, (2, 2))
    model = make(repa=0.5, repa_depth=2, teacher_spec=teacher)
    z, features = torch.randn(4, 4, 3).double(), torch.randn(4, 4, 5).double()
    model.loss(z, LABELS, Noise(0), features)["repa"].backward()
    assert model.blocks[1].mlp.fc1.weight.grad.any()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {"embed", "time", "label", "blocks", "projector"}
    with pytest.raises(ValueError, match="repa_depth = 3 is none of the blocks 1 to 2"):
        make(repa=0.5, repa_depth=3, teacher_spec=teacher)


@pytest.mark.parametrize(("time_shift", "s"), [("none", 1.0), ("dimension", 2.0), (3.0, 3.0)])
@pytest.mark.parametrize("prediction", ["velocity", "x"])
def test_its_loss_is_that_of_logit_normal_times_shifted_towards_noise(time_shift, s, prediction):
    spec = LatentSpec(256, 64, (16, 16))  # of 4 * 4096 numbers
    model = make(spec=spec, time_shift=time_shift, prediction=prediction, label_dropout=0.0)
    z, noise = torch.randn(4, 256, 64).double(), Noise(3)
    tau = 1 - logit_normal(noise.uniform(z[:, 0, 0], "t"))
    tau = (s * tau / (1 + (s - 1) * tau))[:, None, None]
    start = noise.normal(z, "noise")
    x = tau * start + (1 - tau) * z
    v = model.network(x, 1 - tau[:, 0, 0], LABELS, 0)[0]
    if prediction == "x":
        v = (v - x) / tau.clamp(min=0.05)
        target = (z - x) / tau.clamp(min=0.05)
        torch.testing.assert_close(model.velocity(x, 1 - tau[:, 0, 0], LABELS), v)
    else:
        target = z - start
    losses = model.loss(z, LABELS, noise)
    assert set(losses) == {"velocity"}
    torch.testing.assert_close(losses["velocity"], (v - target).square().mean())


def test_time_is_shifted_by_the_dimension_unless_the_latent_is_small():
    assert make(spec=LatentSpec(256, 64, (16, 16))).time_factor == 0.5
    assert make().time_factor == 1.0


@torch.no_grad()
def test_samples_are_euler_s_on_the_shifted_grid_up_to_data():
    spec = LatentSpec(256, 64, (16, 16))
    model, labels = make(spec=spec).float(), torch.tensor([2])
    x = Noise(0).normal(torch.empty(1, 256, 64), "noise")
    times = shift_time(torch.linspace(0, 1, 4), 0.5)
    drawn = euler(lambda x, t: model.velocity(x, t, labels), x, times)
    torch.testing.assert_close(model.sample(labels, 1.0, Noise(0), steps=3), drawn)
    interval = model.sample(labels, 2.0, Noise(0), steps=3, guidance_start=0.0, guidance_end=1.0)
    assert torch.equal(interval, model.sample(labels, 2.0, Noise(0), steps=3))
    assert not torch.allclose(interval, drawn)


def test_it_learns_as_well_as_lightningdit():
    """Class means of points; after 150 updates both have left the loss of no knowledge far behind."""
    from latentbench.generators.lightningdit import LightningDiT

    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(3, 4, 3, generator=generator)
    ends = []
    for cls, options in ((DDT, {}), (LightningDiT, {"cosine": False})):
        torch.manual_seed(0)
        model = cls(SPEC, 3, width=32, depth=2, heads=4, label_dropout=0.0, **options)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        losses = []
        for step in range(150):
            labels = torch.arange(48) % 3
            loss = model.loss(means[labels], labels, Noise(0).fork(step))["velocity"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        ends.append(sum(losses[-20:]) / 20 / losses[0])
    assert ends[0] < 0.2 and ends[0] < 1.5 * ends[1]


def test_widths_that_heads_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"width = 60 is not divisible by 4 x heads = 16"):
        make(width=60, heads=4)
    with pytest.raises(ValueError, match=r"width = 28 is not divisible by 4 x heads = 8"):
        make(head_width=28)
