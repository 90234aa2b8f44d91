"""Restricted posteriors: what stays, what moves, and the exact law of what moves."""

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow import sampling
from dlnflow.sampling import Settings, chains
from dlnflow.sampling.kernels import KERNELS
from dlnflow.sampling.noise import Streams
from dlnflow.sampling.posterior import Evaluation, FullBatch, Restricted
from dlnflow.sampling.restriction import masks, matching, positions

HESSIAN = np.array([[4.0, 1.0, 0.5, 0], [1.0, 3.0, 0, -0.7], [0.5, 0, 2.0, 0.3], [0, -0.7, 0.3, 1]])
SHIFT = np.array([0.3, -0.2, 0.5, 0.1])


def quadratic_losses(dtype=torch.float64):
    """Five losses 1/2 (x_k . (theta - shift))^2, whose mean is quadratic."""
    rows = torch.as_tensor(np.random.default_rng(0).standard_normal((5, 4)), dtype=dtype)
    shift = torch.as_tensor(SHIFT, dtype=dtype)

    def evaluate(theta):
        z = (theta - shift) @ rows.T
        return Evaluation(0.5 * z.square().mean(1), z @ rows / 5, 0.5 * z.square())

    return FullBatch(evaluate, 4), rows.double().numpy()


@pytest.mark.parametrize("entries", [[1, 2], [0, 3]])
def test_a_restricted_gradient_is_a_part_of_the_whole(entries):
    evaluator, _ = quadratic_losses()
    center = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    restricted = Restricted(evaluator, center, torch.tensor(entries))
    u = center[:, entries] + 0.1
    moved = center.clone()
    moved[:, entries] = u
    one, whole = restricted(u), evaluator(moved)
    torch.testing.assert_close(one.gradient, whole.gradient[:, entries])
    torch.testing.assert_close(one.loss, whole.loss)
    torch.testing.assert_close(restricted.observe(u), whole.items)
    assert restricted.n_parameters == 2 and restricted.exact


def exact_covariance(rows, entries, n_beta, localization):
    """Covariance of losses 1/2 (a + b . u)^2 of a Gaussian u, and its mean."""
    part = rows[:, entries]
    others = np.setdiff1d(range(4), entries)
    fixed = rows[:, others] @ -SHIFT[others]
    precision = n_beta * part.T @ part / 5 + localization * np.eye(len(entries))
    # around the center 0: gradient of n_beta L there
    force = n_beta * part.T @ (fixed - part @ SHIFT[entries]) / 5
    mean = -np.linalg.solve(precision, force)
    z = fixed + part @ (mean - SHIFT[entries])
    c = part @ np.linalg.solve(precision, part.T)
    return z[:, None] * z * c + 0.5 * c**2, 0.5 * (z**2 + np.diag(c))


@pytest.mark.parametrize("kernel", ["underdamped", "sgld", "mala", "rmsprop_sgld"])
def test_the_restricted_law_is_that_of_the_conditional_gaussian(kernel):
    """Closed form on a Gaussian: within 3 standard errors in at least 95 % of the entries."""
    evaluator, rows = quadratic_losses()
    entries, n_chains, draws = [0, 2, 3], 300, 80
    options = {"rmsprop_sgld": {"freeze_after": 30}}.get(kernel, {})
    # unbiased kernels may take larger steps
    step = {"rmsprop_sgld": 4e-4, "sgld": 0.004}.get(kernel, 0.02)
    settings = Settings(
        20.0, 5.0, step, draws=draws, burn_in=60, thin=5, dtype="float64", kernel_options=options
    )
    center = torch.zeros(n_chains, 4, dtype=torch.float64)
    keys = [(0, 0, c) for c in range(n_chains)]
    losses, _ = chains.sample(evaluator, center, kernel, settings, keys, torch.tensor(entries))
    losses = losses.numpy()
    covariance, mean = exact_covariance(rows, entries, 20.0, 5.0)
    d = losses - mean
    by_chain = np.einsum("cdk,cdl->ckl", d, d) / draws
    error = by_chain.std(0, ddof=1) / np.sqrt(n_chains)
    assert np.mean(np.abs(by_chain.mean(0) - covariance) <= 3 * error) >= 0.95
    error = losses.mean(1).std(0, ddof=1) / np.sqrt(n_chains)
    assert np.all(np.abs(losses.mean((0, 1)) - mean) <= 4 * error)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_all_entries_are_the_unrestricted_chain(kernel):
    evaluator, _ = quadratic_losses()
    center = torch.zeros(3, 4, dtype=torch.float64)
    settings = Settings(20.0, 5.0, 1e-3, draws=5, dtype="float64")
    keys = [(0, 0, c) for c in range(3)]
    whole, _ = chains.sample(evaluator, center, kernel, settings, keys)
    every, _ = chains.sample(evaluator, center, kernel, settings, keys, torch.arange(4))
    torch.testing.assert_close(whole, every)


SHAPES = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (1, 3)}


def test_names_patterns_and_masks():
    head = np.arange(6).reshape(3, 2) < 2
    known = {"head": {"a.weight": head}}
    assert list(masks(SHAPES, "b*")) == ["b.weight"]
    assert positions(masks(SHAPES, ("a.*", "b.weight"))) is None
    found = masks(SHAPES, ("a.bias", "head"), known)
    assert list(found) == ["a.weight", "a.bias"]
    assert positions(found).tolist() == [0, 1, 6, 7, 8]
    assert masks(SHAPES, {"a.weight": head})["a.weight"].tolist() == head.tolist()
    assert masks(SHAPES, {"a.*": True})["a.weight"].all()


@pytest.mark.parametrize(
    ("restrict", "words"),
    [
        ("c.weight", "'c.weight' is none of"),
        ({"a.weight": np.ones((2, 2), bool)}, r"shape \(3, 2\), got bool \(2, 2\)"),
        ({"a.weight": np.ones((3, 2))}, "array of bool"),
        ({"a.weight": np.zeros((3, 2), bool)}, "nothing that moves"),
        ((), "nothing that moves"),
    ],
)
def test_bad_restrictions_are_named(restrict, words):
    with pytest.raises(ValueError, match=words):
        masks(SHAPES, restrict)


def test_a_layer_of_a_linear_run_moves_alone_and_exactly_as_in_torch():
    run = dln.Run(dln.semantic_hierarchy(2), hidden=3, init_std=0.05)
    options = {"n_beta": 100.0, "localization": 50.0, "step_size": 1e-3, "draws": 6, "burn_in": 0}
    options |= {"kernel": "sgld", "dtype": "float64", "chains": 2}
    found = sampling.trace_run(run, [0], restrict="layer1", **options)
    h, n_in = run.initial_weights()[0].shape
    assert found.attrs["n_parameters"] == h * n_in and found.attrs["restrict"] == "layer1"
    w1, w2 = (torch.as_tensor(np.array(w)) for w in run.initial_weights())
    x, y = torch.eye(n_in, dtype=torch.float64), torch.as_tensor(np.array(run.task.y))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(w1.mT.contiguous())  # theta holds the transpose
            self.second = nn.Parameter(w2)

        def forward(self, rows):
            return rows @ self.first @ self.second.mT

    def losses(model, batch):
        return 0.5 * (model(batch[0]) - batch[1]).square().sum(1)

    settings = Settings(100.0, 50.0, 1e-3, chains=2, draws=6, dtype="float64")
    other = sampling.sample(
        Both().eval(), losses, (x, y.mT), settings=settings, kernel="sgld", restrict="first"
    )
    np.testing.assert_allclose(found.values, other.values, rtol=1e-10)
    mask = {"layer1": np.ones((h, n_in), bool), "layer2": np.zeros(w2.shape, bool)}
    same = sampling.trace_run(run, [0], restrict=mask, **options)
    np.testing.assert_array_equal(found.values, same.values)


def test_masks_of_a_torch_module_hold_still_what_they_exclude():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).eval()
    data = torch.randn(6, 3), torch.randn(6, 1)
    seen = []

    def loss(call, batch):
        out = call(batch[0])
        return (out - batch[1]).square()[:, 0]

    def observed(call, batch):
        # layer by layer, so that what moved can be seen: f(0) = b2 + w2 tanh(b1)
        seen.append(call(torch.zeros(1, 3)).detach())
        return loss(call, batch)

    mask = {"0.weight": torch.arange(12).view(4, 3) < 3}
    settings = Settings(50.0, 10.0, 1e-3, chains=2, draws=5)
    options = {"settings": settings, "vectorise": False, "observed_loss": observed}
    found = sampling.sample(model, loss, data, restrict=mask, **options)
    assert found.attrs["n_parameters"] == 3
    assert found.attrs["restrict"] == "3 entries of 0.weight"
    assert np.ptp(found.values, axis=2).min() > 0
    # weights of the first layer do not matter at input 0, so all else stood still
    torch.testing.assert_close(torch.cat(seen), seen[0].expand(len(seen), 1), rtol=0, atol=0)
    with pytest.raises(ValueError, match="give one"):
        sampling.sample(model, loss, data, restrict="0.*", parameters=["2.*"], settings=settings)


def test_noise_is_drawn_for_what_moves_alone(monkeypatch):
    sizes = []
    real = Streams.__init__
    monkeypatch.setattr(
        Streams,
        "__init__",
        lambda self, keys, size, dtype: sizes.append(size) or real(self, keys, size, dtype),
    )
    run = dln.Run(dln.semantic_hierarchy(2), hidden=3)
    sampling.trace_run(run, [0], restrict="layer2", draws=4, burn_in=0, chains=1)
    assert sizes == [run.initial_weights()[1].size]


SMALL = {"a.weight": (2, 3), "a.bias": (3,)}
NO_NAMES = [None, 3, True, [1], {"a.bias"}, iter(["a.bias"]), [["a.bias"]], b"a.bias"]
"""Sets have no order, and what is read once is read for nothing the second time."""


@pytest.mark.parametrize("wrong", [*NO_NAMES, {0: True}])
def test_what_is_no_restriction_is_refused_before_work(wrong):
    with pytest.raises(ValueError, match=r"^`restrict` must be a name or a list of names"):
        masks(SMALL, wrong)
    if wrong is not None:
        run = dln.Run(dln.semantic_hierarchy(2), hidden=3)
        with pytest.raises(ValueError, match=r"^`restrict` must be"):
            sampling.trace_run(run, [0], restrict=wrong)


@pytest.mark.parametrize("mask", [[1, 0, 1], [0, 2], None, [np.nan] * 3, [[True], [True, False]]])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"^`restrict` of 'a.bias' (must be True or|has rows)"):
        masks(SMALL, {"a.bias": mask})


def test_names_in_an_array_are_names():
    assert list(masks(SMALL, np.array(["a.bias"]))) == ["a.bias"]
    assert matching(SMALL, []) == matching(SMALL, None) == list(SMALL)
    for wrong in NO_NAMES[1:]:
        with pytest.raises(ValueError, match=r"^`parameters` must be a name or a list of names"):
            matching(SMALL, wrong)
