"""Three kinds of model behind one protocol: the gradient is that of the mean of observed losses."""

import numpy as np
import pytest
import torch

from dlnflow.sampling import chains
from dlnflow.sampling.evaluators.linear import LinearEvaluator
from dlnflow.sampling.evaluators.module import (
    ChainLosses,
    EvaluationOptions,
    ModuleEvaluator,
    Parameters,
)
from dlnflow.sampling.posterior import FullBatch
from dlnflow.sampling.settings import Settings
from tests.sampling.targets import quadratic


def linear():
    rng = np.random.default_rng(0)
    y, x = (torch.tensor(rng.standard_normal((n, 5))) for n in (3, 2))
    return LinearEvaluator(x, y, 4)


def module(**options):
    """Two layers with a tanh between them."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    net = net.double().eval()
    where = Parameters.of(net, net.state_dict(), None)
    data = (torch.randn(5, 2).double(), torch.randn(5, 1).double())
    losses = ChainLosses(net, lambda call, b: (call(b[0]) - b[1]).square()[:, 0], where)
    streams = [torch.Generator().manual_seed(k) for k in range(2)]
    return ModuleEvaluator(losses, losses, data, data, EvaluationOptions(**options), streams)


@pytest.mark.parametrize("evaluator", [linear(), module()], ids=["linear", "module"])
def test_gradients_are_those_of_the_mean_observed_loss(evaluator):
    """Central differences of `observe`, chain by chain."""
    theta = torch.tensor(np.random.default_rng(1).standard_normal((2, evaluator.n_parameters)))
    value = evaluator(theta)
    gradient = value.gradient.clone()
    torch.testing.assert_close(value.loss, evaluator.observe(theta).mean(1))
    assert evaluator.exact
    for k in range(evaluator.n_parameters):
        shift = torch.zeros(evaluator.n_parameters, dtype=torch.float64)
        shift[k] = 1e-5
        up, down = (evaluator.observe(theta + sign * shift).mean(1) for sign in (1, -1))
        torch.testing.assert_close(gradient[:, k], (up - down) / 2e-5, rtol=1e-6, atol=1e-7)


def test_minibatches_average_to_the_full_gradient():
    whole, part = module(), module(batch_size=2)
    theta = torch.zeros(2, whole.n_parameters, dtype=torch.float64) + 0.1
    drawn = torch.stack([part(theta).gradient for _ in range(2000)])
    error = drawn.std(0) / 2000**0.5
    assert not part.exact and part(theta).items is None
    assert (((drawn.mean(0) - whole(theta).gradient) / error)[error > 0].abs() < 4.5).all()


class Silent:
    """An evaluator whose gradients bring no losses of items."""

    exact, n_parameters = True, 2

    def __init__(self, whole):
        self.whole, self.observe = whole, whole.observe

    def __call__(self, theta):
        return self.whole(theta)._replace(items=None)


def test_the_driver_observes_where_losses_do_not_come_with_the_gradient():
    """And continues a chain as if it had not been interrupted."""
    known = quadratic(np.diag([2.0, 0.5]), 3, n_beta=4.0, localization=1.0)
    silent = Silent(known.evaluate)
    settings = Settings(4.0, 1.0, 0.1, draws=6, burn_in=3, thin=2, dtype="float64")
    keys = [(0, 0, c) for c in range(3)]
    a, report = chains.sample(known.evaluate, known.center, "sgld", settings, keys)
    b, _ = chains.sample(silent, known.center, "sgld", settings, keys)
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    # step times the largest curvature of U
    np.testing.assert_allclose(report.relative_step, 0.1 * (4.0 * 2.0 + 1.0), rtol=1e-2)

    built, _ = chains.around(known.evaluate, known.center, "sgld", settings)
    noise, lengths = chains.Streams(keys, 2, torch.float64), settings.lengths()
    first, state = chains.run(
        built, known.evaluate, built.init(known.center), noise, lengths=lengths | {"draws": 4}
    )
    rest, _ = chains.run(built, known.evaluate, state, noise, lengths=lengths, done=4)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), a, rtol=0, atol=0)


def test_functions_without_losses_of_items_observe_nothing():
    silent = FullBatch(lambda t: quadratic(np.eye(2), 1).evaluate(t)._replace(items=None), 2)
    with pytest.raises(ValueError, match="nothing can be observed"):
        silent.observe(torch.zeros(1, 2, dtype=torch.float64))
