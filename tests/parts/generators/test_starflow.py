"""STARFlow's blocks against autograd and a plain loop."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.nn.causal_blocks import Guidance, starflow_guide
from latentbench.generators.tarflow import TARFlow

SPEC = LatentSpec(4, 3, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1])


def make(randomise=True, spec=SPEC, classes=3, **options):
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "blocks": 3, "layers": 1, "deep": 2, **options}
    model = TARFlow(spec, classes, conditioning="prefix", **options).double()
    if randomise:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("spec", [SPEC, LatentSpec(5, 2)])
@pytest.mark.parametrize("classes", [3, 0])
def test_its_log_determinant_is_the_jacobian_s(spec, classes):
    model, z = make(spec=spec, classes=classes), torch.randn(1, spec.tokens, spec.channels).double()
    label = torch.tensor([1])
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x, label)[0].flatten(), z)
    expected = torch.linalg.slogdet(jacobian.reshape(z.numel(), z.numel())).logabsdet
    assert model(z, label)[1].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("spec", [SPEC, LatentSpec(5, 2)])
@pytest.mark.parametrize("classes", [3, 0])
@torch.no_grad()
def test_the_inverse_with_caches_undoes_the_parallel_pass(spec, classes):
    model, z = make(spec=spec, classes=classes), torch.randn(4, spec.tokens, spec.channels).double()
    noise, _ = model(z, LABELS)
    torch.testing.assert_close(model.inverse(noise, LABELS), z)
    assert not torch.isclose(noise, z).all(-1).any()  # the first token is transformed too


def test_an_untrained_flow_is_the_identity():
    z = torch.randn(4, 4, 3).double()
    noise, logdet = make(randomise=False)(z, LABELS)
    torch.testing.assert_close(noise, z)
    torch.testing.assert_close(logdet, torch.zeros(4).double())


def test_only_the_last_block_knows_the_class_and_it_reads_forward():
    model, z = make(blocks=4), torch.randn(4, 4, 3).double()
    assert [block.classes for block in model.blocks] == [0, 0, 0, 3]
    assert model.backward == [True, False, True, False]
    one, other = (model(z, torch.full((4,), label))[0] for label in (0, 1))
    assert not torch.isclose(one, other).all(-1).any()
    torch.testing.assert_close(model(z, None)[0], model(z, torch.full((4,), -1))[0])


@torch.no_grad()
def test_a_guided_block_is_the_guided_gaussian_token_by_token():
    block = make(blocks=1).blocks[0]
    z = torch.randn(4, 4, 3).double()
    pairs = torch.cat([LABELS, torch.full((4,), -1)])
    found = block.inverse(z, pairs, Guidance(2.5, "starflow", True, 1.0))
    x = torch.zeros_like(z)
    for i in range(4):  # the parallel pass on 0 and on 1 says b and a of every token
        values = []
        for labels in (LABELS, None):
            at_zero, slope = x.clone(), x.clone()
            at_zero[:, i], slope[:, i] = 0, 1
            start, stop = (block(value, labels)[0][:, i] for value in (at_zero, slope))
            values.append(torch.cat([-(stop - start).log(), -start / (stop - start)], dim=-1))
        a, b = starflow_guide(*values, 2.5).chunk(2, dim=-1)
        x[:, i] = z[:, i] * a.exp() + b
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("rule", ["linear", "starflow"])
@torch.no_grad()
def test_guidance_and_temperature_change_samples_with_a_class_alone(rule):
    model = make().float()
    drawn = [
        model.sample(LABELS, w, Noise(0), guidance_rule=rule, temperature=t, denoise=False)
        for w, t in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5))
    ]
    assert torch.isfinite(torch.stack(drawn)).all()
    assert not torch.isclose(drawn[0][:3], drawn[1][:3]).all()
    assert not torch.isclose(drawn[1][:3], drawn[2][:3]).all()
