import pytest
import torch
from torch import nn

from latentbench.bench import inference
from latentbench.bench.inference import Inference


@pytest.mark.skipif(not inference.AVAILABLE, reason="this torch has no oneDNN")
@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_at_rest_is_the_exact_product_up_to_rounding(biased):
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 256, bias=biased), torch.randn(8, 16, 128)
    with torch.no_grad(), Inference():
        assert inference.suits(x, layer.weight)
        found = layer(x)
        exact = layer.double()(x.double())
    assert found.shape == exact.shape and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=0)


def test_layers_that_learn_or_are_small_or_of_another_precision_stay_as_they_are():
    torch.manual_seed(0)
    layer, x = nn.Linear(128, 256), torch.randn(128, 128)
    with torch.no_grad():
        assert not inference.suits(x[:2], layer.weight)
        assert not inference.suits(x.double(), layer.weight.double())
        assert not inference.suits(x.T, layer.weight)  # not row by row
        with torch.autocast("cpu", torch.bfloat16):
            assert not inference.suits(x, layer.weight)
    with Inference():
        found = layer(x)
        assert not inference.suits(x, layer.weight)
        found.sum().backward()
    assert torch.equal(found, layer(x)) and layer.weight.grad is not None
