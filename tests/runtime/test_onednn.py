import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from latentbench.bench.runtime import onednn
from latentbench.bench.runtime.onednn import by_onednn
from latentbench.bench.runtime.recompute import computed_again

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="this torch has no oneDNN")


@pytest.fixture
def taken(monkeypatch):
    """How many products oneDNN was given."""
    counted, product = [], onednn.product

    def counting(*arguments):
        counted.append(arguments[0].shape)
        return product(*arguments)

    monkeypatch.setattr(onednn, "product", counting)
    monkeypatch.setattr(onednn, "MIN_MULTIPLICATIONS", 2**21)
    return counted


@pytest.mark.parametrize(
    ("vendor", "family", "least"),
    [("AuthenticAMD", 26, 2**21), ("AuthenticAMD", 25, 2**25), ("GenuineIntel", 26, 2**25)],
)
def test_smaller_layers_are_taken_where_mkl_is_half_as_fast(vendor, family, least):
    cpu = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: fpu avx512f\n"
    assert onednn.least_multiplications(f"{cpu}\n{cpu}") == least
    assert onednn.least_multiplications("") == 2**25


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("keeps", [False, True], ids=["plain", "checkpointed"])
def test_a_layer_and_its_gradients_are_the_exact_ones_up_to_rounding(biased, keeps, taken):
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 256, bias=biased), torch.randn(8, 16, 128, requires_grad=True)
    weights = torch.randn(8, 16, 256)
    with by_onednn():
        found = computed_again(layer)(x) if keeps else layer(x)
        (found * weights).sum().backward()
    assert len(taken) == 2 + keeps  # forward, and the input's gradient
    got = [found, x.grad, *(p.grad for p in layer.parameters())]
    exact, z = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    exact.zero_grad()
    true = exact(z)
    (true * weights.double()).sum().backward()
    for one, other in zip(got, [true, z.grad, *(p.grad for p in exact.parameters())], strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)


def test_a_layer_at_rest_takes_one_product_and_a_frozen_one_no_gradient_of_its_own(taken):
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 256).requires_grad_(False), torch.randn(128, 128)
    with torch.no_grad(), by_onednn():
        layer(x)
    assert len(taken) == 1
    with by_onednn():
        layer(x.requires_grad_()).sum().backward()
    assert len(taken) == 3 and layer.weight.grad is None and x.grad is not None


def test_outputs_may_be_changed_in_place_and_a_vector_has_gradients(taken):
    torch.manual_seed(0)
    layer, x = nn.Linear(2048, 2048), torch.randn(2, 3, 2048, requires_grad=True)
    model = nn.Sequential(layer, nn.ReLU(inplace=True))
    with by_onednn():
        model(x).sum().backward()
        layer(torch.randn(2048, requires_grad=True)).sum().backward()
    assert len(taken) == 4
    layer.zero_grad()
    found, x.grad = x.grad, None
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, found, atol=1e-5, rtol=1e-5)


def test_gradients_have_gradients(taken):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(512, 64, requires_grad=True)

    def penalty(layer, x):
        (slope,) = torch.autograd.grad(layer(x).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), layer.weight)[0]

    with by_onednn():
        found = penalty(layer, x)
    assert taken
    torch.testing.assert_close(found, penalty(layer, x), atol=1e-3, rtol=1e-4)


def test_layers_that_are_small_or_of_another_precision_or_mapped_stay_as_they_are(taken):
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 256), torch.randn(128, 128)
    with by_onednn():
        layer(x[:2])
        layer(x.T)  # not row by row
        torch.func.vmap(layer)(torch.randn(3, 128, 128))
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        with forward_ad.dual_level(), torch.no_grad():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            assert forward_ad.unpack_dual(layer(dual)).tangent is not None
        nn.functional.linear(x, layer.weight, torch.randn(1))
        layer.double()(x.double())
    assert not taken


def test_the_outermost_block_exchanges_the_function_and_puts_it_back(taken):
    plain = nn.functional.linear
    with pytest.raises(ZeroDivisionError), by_onednn():
        with by_onednn():
            pass
        nn.Linear(128, 256)(torch.randn(128, 128))
        raise ZeroDivisionError
    assert len(taken) == 1 and nn.functional.linear is plain


def test_attention_of_torch_is_reached(taken):
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(128, 4, batch_first=True), torch.randn(8, 16, 128)
    plain = attention(x, x, x, need_weights=False)[0]
    with by_onednn():
        found = attention(x, x, x, need_weights=False)[0]
    assert taken
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
