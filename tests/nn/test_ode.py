"""Adaptive steps, against scipy row by row and closed forms."""

import pytest
import torch
from scipy.integrate import solve_ivp

from latentbench.bench.api import Diverged
from latentbench.bench.nn.ode import rk45

STIFF = torch.tensor([[1.0, -3.0], [0.2, 30.0], [-8.0, 0.0]], dtype=torch.float64)


class Counting:
    """dx/dt of three rows with paces of their own; counts the evaluations of each."""

    def __init__(self):
        self.counts = torch.zeros(3, dtype=torch.int64)

    def __call__(self, x, t, rows):
        self.counts[rows] += 1
        return STIFF[rows] * x.flip(1).cos() + t[:, None].sin()


@pytest.mark.parametrize("span", [(1e-3, 1.0), (1.0, 1e-3), (0.0, 3.0)])
def test_every_row_takes_scipy_s_steps(span):
    x = torch.tensor([[0.3, -1.0], [2.0, 0.1], [0.5, 0.5]], dtype=torch.float64)
    velocity = Counting()
    found = rk45(velocity, x, *span)
    for row in range(3):
        one = torch.tensor([row])
        exact = solve_ivp(
            lambda t, y, one=one: Counting()(
                torch.tensor(y)[None], torch.tensor([t], dtype=torch.float64), one
            )[0].numpy(),
            span,
            x[row].numpy(),
            rtol=1e-5,
            atol=1e-5,
        )
        torch.testing.assert_close(found[row], torch.tensor(exact.y[:, -1]), atol=1e-12, rtol=1e-12)
        assert velocity.counts[row] == exact.nfev


def test_growth_and_decay_are_exponentials():
    rates = torch.tensor([[1.0], [-2.0], [0.0]])
    found = rk45(lambda x, t, rows: rates[rows] * x, torch.ones(3, 1), 0.0, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rates.exp(), atol=1e-5, rtol=1e-5)


def test_a_flow_that_is_not_finite_is_a_divergence():
    with pytest.raises(Diverged, match="followed beyond t = 0.1"):
        rk45(lambda x, t, rows: torch.full_like(x, torch.nan), torch.ones(2, 3), 0.1, 1.0)
