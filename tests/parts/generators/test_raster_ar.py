"""Raster autoregression: causality, cached sampling against full recomputation, and what it learns."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.flow import with_unconditional
from latentbench.bench.nn.token_heads import DiffusionHead, FlowHead
from latentbench.generators.raster_ar import RasterAR

SPEC = LatentSpec(6, 3, (2, 3))
LABELS = torch.tensor([0, 1, 2, -1])
HEADS = ["flow", "diffusion"]


def make(head="flow", classes=3, spec=SPEC, **options):
    torch.manual_seed(0)
    small = {"width": 16, "depth": 2, "heads": 2, "head_width": 16, "head_depth": 1}
    model = RasterAR(spec, classes, head=head, **small | options)
    for name, parameter in model.named_parameters():  # few steps of a diffusion amplify a head's outputs
        torch.nn.init.normal_(parameter, std=0.05 if name.startswith("head.net.output") else 0.4)
    return model.eval()


@torch.no_grad()
def test_a_token_changes_the_conditions_of_later_tokens_alone():
    model = make().double()
    z = torch.randn(4, 6, 3, dtype=torch.float64)
    before = model.condition(z[:, :-1], LABELS)
    assert before.shape == (4, 6, 16)
    for j in range(5):
        changed = z.clone()
        changed[:, j] += 1
        after = model.condition(changed[:, :-1], LABELS)
        assert torch.equal(after[:, : j + 1], before[:, : j + 1])
        assert not torch.isclose(after[:, j + 1 :], before[:, j + 1 :]).all(-1).any()


def test_so_says_autograd():
    model = make().double()
    z = torch.randn(1, 5, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: model.condition(z, None).sum((0, 2)), z)
    depends = jacobian[:, 0].abs().sum(-1) > 0  # (place, token)
    assert torch.equal(depends, torch.ones(6, 5).tril(-1).bool())


@torch.no_grad()
def recomputed(model, labels, guidance, noise, steps):
    """Samples as the definition has them: the whole sequence anew for every token, each branch by itself."""
    z, tokens = torch.empty(len(labels), 0, model.spec.channels, dtype=model.start.dtype), model.spec.tokens
    for i in range(tokens):
        branches = [model.condition(z, each)[:, -1:] for each in (labels, torch.full_like(labels, -1))]
        w = 1 + (guidance - 1) * i / tokens
        z = torch.cat([z, model.head.sample(torch.cat(branches), w, noise.fork(i), steps, 1.0)], dim=1)
    return z


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("head", HEADS)
def test_cached_sampling_is_full_recomputation(head, guidance):
    model = make(head).double()
    found = model.sample(LABELS, guidance, Noise(0), steps=3)
    expected = recomputed(model, LABELS, guidance, Noise(0), 3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_cached_conditions_are_those_of_the_whole_sequence():
    model, z = make().double(), torch.randn(4, 5, 3, dtype=torch.float64)
    caches = z.new_empty(2, 2, 8, 2, 6, 8)
    both, labels = z.repeat(2, 1, 1), with_unconditional(LABELS)
    found = torch.cat([model.condition(both[:, :i], labels, caches) for i in range(6)], dim=1)
    torch.testing.assert_close(found, model.condition(both, labels))


@torch.no_grad()
def test_without_guidance_one_branch_runs(monkeypatch):
    model, rows = make(), []
    condition = model.condition
    monkeypatch.setattr(model, "condition", lambda z, *given: rows.append(len(z)) or condition(z, *given))
    model.sample(LABELS, 1.0, Noise(0), steps=1)
    assert rows == [4] * 6
    model.sample(LABELS, 2.0, Noise(0), steps=1)
    assert rows == [4] * 6 + [8] * 6


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_guidance_rises_with_the_place_or_is_constant(head):
    model = make(head)

    def drawn(w, schedule="linear"):
        return model.sample(LABELS, w, Noise(0), steps=3, schedule=schedule)

    plain, linear, constant = drawn(1.0), drawn(2.0), drawn(2.0, "constant")
    torch.testing.assert_close(linear[:, 0], plain[:, 0], rtol=1e-4, atol=1e-4)  # w = 1 at the first place
    assert not torch.allclose(linear[:3, 1], plain[:3, 1]) and not torch.allclose(
        constant[:3, 0], plain[:3, 0]
    )
    torch.testing.assert_close(linear[3], plain[3], rtol=1e-4, atol=1e-4)  # nothing to be guided by
    torch.testing.assert_close(drawn(1 + 1e-6), plain, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("head", "kind"), [("flow", FlowHead), ("diffusion", DiffusionHead)])
def test_a_single_token_is_the_head_s(head, kind):
    model = make(head, spec=LatentSpec(1, 3))
    assert type(model.head) is kind
    z, condition = torch.randn(4, 1, 3), model.condition(torch.empty(4, 0, 3), LABELS)
    found = model.sample(LABELS, 1.0, Noise(0), steps=4)
    assert torch.equal(found, model.head.sample(condition, None, Noise(0).fork(0), 4, 1.0))
    model.head_draws, model.label_dropout = 1, 0.0
    assert model.loss(z, LABELS, Noise(0)) == model.head.loss(z, condition, Noise(0))


@torch.no_grad()
def test_label_minus_one_is_no_label_and_without_classes_there_is_none():
    model, z = make(), torch.randn(4, 5, 3)
    none = model.condition(z, None)
    torch.testing.assert_close(model.condition(z, torch.full((4,), -1)), none, rtol=1e-6, atol=1e-6)
    assert not torch.isclose(model.condition(z, LABELS)[:3], none[:3]).all(-1).any()
    bare = make(classes=0)
    drawn = bare.sample(LABELS, 1.0, Noise(0), steps=2)
    assert torch.equal(drawn, bare.sample(torch.full((4,), -1), 4.0, Noise(0), steps=2))


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_samples_run_on_meta_tensors(head):
    with torch.device("meta"):
        model = RasterAR(LatentSpec(2, 3), 3, head=head, depth=1)
        z, labels = torch.empty(2, 2, 3), torch.zeros(2, dtype=torch.long)
    assert all(value.is_meta for value in model.loss(z, labels, Noise(0)).values())
    assert model.sample(labels, 2.0, Noise(0), steps=1).shape == z.shape


def chain(count, noise):
    """Tokens (count, 3, 1), all N(0, 1), with correlation 0.95 between neighbours."""
    tokens = noise.normal(torch.empty(count, 3, 1))
    for i in range(1, 3):
        tokens[:, i] = 0.95 * tokens[:, i - 1] + (1 - 0.95**2) ** 0.5 * tokens[:, i]
    return tokens


def test_it_learns_that_neighbours_depend_on_each_other():
    torch.manual_seed(0)
    model = RasterAR(LatentSpec(3, 1), 0, width=16, depth=1, heads=2, head_width=32, head_depth=2)
    optimizer, noise = torch.optim.Adam(model.parameters(), lr=5e-3), Noise(0)
    for step in range(200):
        loss = model.loss(chain(64, noise.fork(step).fork("data")), None, noise.fork(step))["velocity"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        z = model.eval().sample(torch.full((500,), -1), 1.0, noise.fork("samples"), steps=10)[..., 0]
    # Independent tokens have correlation 0, which 500 draws show with an error of 0.04.
    assert (torch.corrcoef(z.T) > 0.8).all()
    assert z.std().item() == pytest.approx(1, abs=0.25)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width = 10 is not divisible by heads = 4"):
        RasterAR(SPEC, 3, width=10, heads=4)
