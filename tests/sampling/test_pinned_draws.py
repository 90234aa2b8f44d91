"""Draws of small models, pinned: the same settings must go on to give the same chains.

The weights are written down, so that only the arithmetic of chains is tested. If it was meant to
change, raise REVISION in dlnflow/sampling/settings.py and pin the new draws.
"""

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow.sampling import linear_run, torch_module
from dlnflow.sampling.settings import REVISION, Settings

MESSAGE = (
    "the draws of a chain changed: if that was meant, raise REVISION in "
    "dlnflow/sampling/settings.py and pin the new draws here"
)
W1 = np.sin(np.arange(12.0) ** 1.5).reshape(3, 4)
W2 = np.cos(np.arange(21.0) ** 1.5).reshape(7, 3)
RMSPROP = {"freeze_after": 4, "stability": 0.5}
LINEAR = {
    "sgld": [[1.34896531824, 1.77091153293], [1.24204027743, 1.28541123265]],
    "mala": [[1.34896531824, 1.77091153293], [1.12684999573, 1.38832778159]],
    "underdamped": [[0.774339775987, 0.603081309992], [0.699709159875, 0.442762310846]],
    "rmsprop_sgld": [[1.13594025565, 1.27812872395], [1.02779296158, 0.914890144221]],
}
MODULE = {
    "sgld": [[3.45704824117, 5.14306034327], [1.22350783772, 2.16673692314]],
    "rmsprop_sgld": [[2.76563622136, 4.19564794274], [0.69729861263, 1.65872270695]],
}


def settings(kernel):
    options = RMSPROP if kernel == "rmsprop_sgld" else {}
    return Settings(
        100.0,
        20.0,
        2e-3,
        chains=2,
        draws=5,
        burn_in=5,
        thin=2,
        seed=3,
        dtype="float64",
        kernel_options=options,
    )


def compare(found, expected):
    """The first losses of the second chain, at the first and the last draw."""
    assert REVISION == 4, MESSAGE
    np.testing.assert_allclose(
        found.values[0, 1][[0, -1], :2], expected, rtol=1e-8, err_msg=MESSAGE
    )


def sample_linear(kernel):
    task = dln.semantic_hierarchy(3)
    return linear_run.sample(
        W1[None], W2[None], task, time=[5], kernel=kernel, settings=settings(kernel)
    )


def sample_module(kernel):
    """With minibatches of two of three items."""
    net = torch.nn.Linear(4, 7, bias=False).double().eval()
    net.weight.data = torch.tensor(W2 @ W1)
    data = (torch.eye(4, dtype=torch.float64)[:3], torch.tensor(W2[:, :3].T.copy()))
    return torch_module.sample(
        net,
        lambda call, batch: (call(batch[0]) - batch[1]).square().sum(1),
        data,
        settings=settings(kernel),
        kernel=kernel,
        batch_size=2,
    )


@pytest.mark.parametrize("kernel", LINEAR)
def test_draws_of_the_linear_network_are_those_of_this_revision(kernel):
    compare(sample_linear(kernel), LINEAR[kernel])


@pytest.mark.parametrize("kernel", MODULE)
def test_draws_of_a_module_are_those_of_this_revision(kernel):
    compare(sample_module(kernel), MODULE[kernel])
