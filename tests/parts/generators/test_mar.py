"""MAR's schedules and conditions against closed forms and scipy."""

import pytest
import torch
from scipy.stats import truncnorm

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.runtime import parts_of_batches
from latentbench.bench.runtime.recompute import prepare
from latentbench.generators.mar import MAR, mask_ratio, tokens_per_step

SPEC = LatentSpec(6, 3, (2, 3))
LABELS = torch.tensor([0, 1, 2, -1])
HEADS = ["flow", "diffusion"]


def make(head="flow", classes=3, **options):
    torch.manual_seed(0)
    model = MAR(SPEC, classes, width=16, depth=1, heads=2, head=head, head_width=16, head_depth=1, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 49, 64, 256])
def test_every_token_is_predicted_once(tokens):
    for iterations in range(1, tokens + 3):
        counts = tokens_per_step(tokens, iterations)
        assert sum(counts) == tokens and min(counts) >= 1 and len(counts) == min(tokens, iterations)


def test_as_many_iterations_as_tokens_predict_one_each():
    assert tokens_per_step(256, 256) == [1] * 256


def test_fewer_iterations_follow_the_cosine():
    assert tokens_per_step(16, 4) == [16 - 14, 14 - 11, 11 - 6, 6]
    assert tokens_per_step(16, 1) == [16]


def test_mask_ratios_are_a_truncated_normal():
    u = torch.linspace(0.01, 0.99, 50)
    expected = truncnorm(-0.3 / 0.25, 0, loc=1, scale=0.25).ppf(u)
    assert [mask_ratio(float(x), 0.7) for x in u] == pytest.approx(expected.tolist(), abs=1e-6)
    assert mask_ratio(0.0, 0.7) == pytest.approx(0.7) and mask_ratio(0.3, 1.0) == 1.0


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_runs_on_meta_tensors(head):
    with torch.device("meta"):
        model = MAR(SPEC, 3, head=head)
        z, labels = torch.empty(2, 6, 3), torch.zeros(2, dtype=torch.long)
    assert all(value.is_meta for value in model.loss(z, labels, Noise(0)).values())


def test_the_condition_depends_on_known_tokens_not_on_their_order():
    model = make()
    order = torch.tensor([[4, 1, 0, 2, 3, 5]])
    swapped = order[:, [1, 0, 2, 3, 5, 4]]
    z = torch.randn(1, 2, 3)
    condition = model.condition(z, order, None, 4)
    assert condition.shape == (1, 4, 16)
    torch.testing.assert_close(model.condition(z[:, [1, 0]], swapped, None, 4), condition[:, [0, 1, 3, 2]])
    torch.testing.assert_close(model.condition(z, order, None, 1), condition[:, :1])
    assert not torch.isclose(model.condition(z + 1, order, None, 4), condition).all(-1).any()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_sampled_condition_is_that_of_training_where_all_tokens_pass_the_last_block(qk_norm):
    model, order, z = make(qk_norm=qk_norm), torch.arange(6).expand(4, -1), torch.randn(4, 2, 3)
    asked = model.condition(z, order, LABELS, 2)
    torch.testing.assert_close(asked, model.train().condition(z, order, LABELS, 2))


@torch.no_grad()
def test_samples_are_the_same_where_a_batch_is_computed_in_parts(monkeypatch):
    model, one = make(), {"iterations": 3, "steps": 3}
    whole = model.sample(LABELS, 2.0, Noise(0), **one)
    monkeypatch.setattr(parts_of_batches, "TOKENS", 20)  # of rows with ten tokens each
    torch.testing.assert_close(model.sample(LABELS, 2.0, Noise(0), **one), whole, rtol=1e-4, atol=1e-4)


def test_label_minus_one_is_no_label():
    model, order, z = make(), torch.arange(6).expand(4, -1), torch.randn(4, 2, 3)
    none = model.condition(z, order, None, 4)
    assert torch.equal(model.condition(z, order, torch.full((4,), -1), 4), none)
    assert not torch.isclose(model.condition(z, order, LABELS, 4)[:3], none[:3]).all(-1).any()


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_guidance_of_one_is_conditional_and_other_guidance_is_not(head):
    model = make(head)
    plain, one, more = (model.sample(LABELS, w, Noise(0), steps=3) for w in (1.0, 1.0 + 1e-6, 2.0))
    assert plain.shape == (4, 6, 3) and plain.isfinite().all()
    torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(more[:3], plain[:3], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(more[3], plain[3], rtol=1e-4, atol=1e-4)  # nothing to be guided by


@torch.no_grad()
def test_linear_guidance_equals_constant_guidance_when_all_tokens_come_at_once():
    model = make()
    one = {"iterations": 1, "steps": 3}
    linear = model.sample(LABELS, 2.0, Noise(0), schedule="linear", **one)
    assert torch.equal(linear, model.sample(LABELS, 2.0, Noise(0), schedule="constant", **one))
    more = {"iterations": 3, "steps": 3}
    linear = model.sample(LABELS, 2.0, Noise(0), schedule="linear", **more)
    assert not torch.equal(linear, model.sample(LABELS, 2.0, Noise(0), schedule="constant", **more))


@torch.no_grad()
def test_a_model_without_classes_ignores_labels_and_guidance():
    model = make(classes=0)
    drawn = model.sample(LABELS, 1.0, Noise(0), steps=2)
    assert torch.equal(drawn, model.sample(torch.full((4,), -1), 4.0, Noise(0), steps=2))


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width = 10 is not divisible by heads = 4"):
        MAR(SPEC, 3, width=10, heads=4)


@pytest.mark.parametrize("head", HEADS)
def test_training_computes_the_last_block_for_masked_tokens_alone_unless_it_is_checkpointed(head):
    def trained(model):
        loss = sum(model.loss(z, LABELS, Noise(0)).values())
        return [loss, *torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)]

    z, rows = torch.randn(4, SPEC.tokens, SPEC.channels), []
    plain, checkpointed = make(head).train(), make(head).train()
    prepare({"checkpointing": True}, checkpointed)
    for model in (plain, checkpointed):
        model.decoder[0].mlp.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    torch.testing.assert_close(trained(plain), trained(checkpointed), atol=1e-5, rtol=1e-4)
    masked, *all_tokens = rows
    assert masked <= SPEC.tokens < min(all_tokens)
