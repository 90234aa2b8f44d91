"""What looks at weights and gradients of a language model's run, against derivatives by torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import dlnflow as dln
from dlnflow import lm
from dlnflow.dynamics import torch_operators
from dlnflow.lm.exact.derivatives import row_losses
from dlnflow.lm.runs.model import build
from dlnflow.lm.runs.progression import BETAS, CLIP, WEIGHT_DECAY, learning_rate
from dlnflow.lm.runs.train import load_data

STEPS = 4


@pytest.fixture(autouse=True, scope="module")
def written_out():
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.fixture(scope="module")
def run(tiny):
    """Four steps in double precision, and two queries."""
    settings, folder, _ = tiny
    data = load_data(folder).training
    sequences = lm.induction.repeated_sequences(
        data.counts, n_sequences=2, period=8, disjoint=False
    )
    early = np.broadcast_to(np.arange(15) < 7, (2, 15))
    queries = {
        "induction": lm.queries.repeated_loss(sequences),
        "first half": lm.queries.class_loss(sequences, early),
    }
    settings = replace(settings, precision="fp32", rows=2, context=16)
    return lm.TrainingRun(settings, data, queries, n_steps=STEPS, double=True)


class Steps:
    """Weights, row gradients and the optimizer, written out with plain torch."""

    def __init__(self, run):
        self.run, self.model = run, build(run.settings).double()
        self.model.set_attn_implementation("sdpa")
        self.shape = parameters_to_vector(self.model.parameters())
        self.points = [parameters_to_vector(w.values()).detach() for w in run.weights(range(5))]
        decayed = [torch.full_like(p, p.ndim > 1) for p in self.model.parameters()]
        self.decay = WEIGHT_DECAY * parameters_to_vector(decayed).detach()
        self.moved = list(self._moved())

    def at(self, step):
        vector_to_parameters(self.points[step], self.model.parameters())
        return self.model

    def gradient(self, value, keep=False):
        parameters = list(self.model.parameters())
        return parameters_to_vector(torch.autograd.grad(value, parameters, create_graph=keep))

    def rows(self, step, chosen=slice(None), keep=False):
        """Gradient of the mean of some rows of a step, as it stands in the objective."""
        ids = torch.from_numpy(self.run.rows(step)).long()
        losses = row_losses(self.at(step), ids)
        return self.gradient(losses[chosen].sum() / len(ids), keep)

    def query(self, step, name):
        position = self.run.queries.index(name)
        return self.gradient(self.run._queries[position](self.at(step)))

    def hessian_product(self, step, vector):
        gradient = self.rows(step, keep=True)
        return self.gradient((gradient * vector).sum())

    def _moved(self):
        """P of every step, from moments that are carried along; checked against the weights."""
        mean, square = (torch.zeros_like(self.points[0]) for _ in range(2))
        for step in range(STEPS):
            g = self.rows(step)
            kept = min(1.0, CLIP / float(g.norm() + 1e-6))
            mean = BETAS[0] * mean + (1 - BETAS[0]) * kept * g
            square = BETAS[1] * square + (1 - BETAS[1]) * (kept * g) ** 2
            rate, count = learning_rate(self.run.settings, step), step + 1
            root = (square / (1 - BETAS[1] ** count)).sqrt() + 1e-8
            per_gradient = rate / (1 - BETAS[0] ** count) / root
            after = (1 - rate * self.decay) * self.points[step] - per_gradient * mean
            real = g.abs() > 1e-12  # biases of keys have no gradient but rounding
            expected = self.points[step + 1][real]
            torch.testing.assert_close(after[real], expected, rtol=1e-7, atol=1e-9)
            yield kept * per_gradient


@pytest.fixture(scope="module")
def steps(run):
    return Steps(run)


def test_tracin_is_the_product_of_a_query_with_the_displacement_by_a_row(run, steps):
    names = ["1:1", "2:0"]
    each = dln.influence.tracin(run, [1, 3, STEPS], train=names)
    late = dln.influence.tracin(run, [STEPS], train=names, query_at="final")
    alone = dln.influence.tracin(run, [2, STEPS], train=names, cumulative=False)
    assert not each.sel(time=1).any() and not alone.sel(time=STEPS).any()
    for name in names:
        step, row = map(int, name.split(":"))
        moved = steps.moved[step] * steps.rows(step, slice(row, row + 1))
        for query in run.queries:
            expected = -float(steps.query(step, query) @ moved)
            found = each.sel(query=query, train=name)
            np.testing.assert_allclose(found[1:], expected, rtol=1e-8)
            expected = -float(steps.query(STEPS, query) @ moved)
            np.testing.assert_allclose(late.sel(query=query, train=name), expected, rtol=1e-8)
    expected = -float(steps.query(2, "induction") @ (steps.moved[2] * steps.rows(2, slice(1))))
    found = alone.sel(time=2, query="induction", train="2:0")
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_source_of_one_step_segments_is_its_recursion(run, steps):
    found = dln.influence.source(run, [1, 2, 3], segments=3, train=["0:1"])
    d = -steps.moved[0] * steps.rows(0, slice(1, 2))
    for step in (1, 2, 3):
        expected = [float(steps.query(step, query) @ d) for query in run.queries]
        np.testing.assert_allclose(found.sel(time=step, train="0:1"), expected, rtol=1e-7)
        d = d - steps.moved[step] * steps.hessian_product(step, d)


def test_dvemb_is_exact_for_the_rows_of_the_last_step(run):
    names = ["2:1", "3:0"]
    found = dln.influence.dvemb(run, [3, STEPS], train=names)
    exact = run.per_step([3, STEPS])
    for time, name in ((3, "2:1"), (STEPS, "3:0")):
        step, row = map(int, name.split(":"))
        expected = exact.sel(time=time, step=step, row=row)
        np.testing.assert_allclose(found.sel(time=time, train=name), expected, rtol=1e-9)
    assert not found.sel(time=3, train="3:0").any()
    behind = exact.sel(time=STEPS, step=2, row=1)
    assert np.abs(found.sel(time=STEPS, train="2:1") - behind).max() > 1e-3 * np.abs(behind).max()


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_gauss_newton_products_are_those_of_the_change_of_the_logits(run, steps):
    """v^T F v is the mean variance, under the model's probabilities, of the change along v."""
    pytest.importorskip("curvlinops")
    vector = torch.from_numpy(np.random.default_rng(0).normal(size=len(steps.points[0])))
    vector, size, model = vector / vector.norm(), 1e-5, steps.at(2)
    ids = torch.from_numpy(np.concatenate([run.rows(k) for k in range(STEPS)])).long()[:, :-1]
    p, moved = logits(model, ids).softmax(-1), []
    for sign in (1, -1):
        vector_to_parameters(steps.points[2] + sign * size * vector, model.parameters())
        moved.append(logits(model, ids))
    change = (moved[0] - moved[1]) / (2 * size)
    expected = float(((p * change**2).sum(-1) - (p * change).sum(-1) ** 2).mean())
    weights = run.problem.weights_at(next(p for p in run._forward(2) if p.step == 2))
    operator = torch_operators.Operator(run.problem, weights, "gauss_newton")
    row = vector.numpy()[None]
    np.testing.assert_allclose((operator.product(row) @ row.T).item(), expected, rtol=1e-6)


def test_a_large_damping_leaves_the_product_of_gradients(run, steps):
    pytest.importorskip("curvlinops")
    damping, n_items = 1e5, len(run.items)
    found = dln.influence.damped_gauss_newton(
        run, [2], damping=damping, damping_is="absolute", train=["3:1"]
    )
    ids = torch.from_numpy(run.rows(3)[1:2]).long()
    row = steps.gradient(row_losses(steps.at(2), ids).sum())
    expected = [-float(steps.query(2, query) @ row) / n_items / damping for query in run.queries]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-3)
    with pytest.raises(ValueError, match="Embedding"):
        dln.influence.damped_gauss_newton(run, [2], approximation="ekfac")


SAMPLING = {"n_beta": 50.0, "localization": 5e4, "step_size": 3e-6, "seed": 1}


def test_traces_record_rows_and_queries(run, steps):
    found = run.traces([2], train=np.array([0, 7]), draws=4, burn_in=1, chains=2, **SAMPLING)
    assert found["item"].values.tolist() == ["0:0", "3:1", "induction", "first half"]
    ids = np.stack([run.rows(0)[0], run.rows(3)[1]])
    losses = row_losses(steps.at(2), torch.from_numpy(ids).long()).tolist()
    queries = [query(steps.at(2)).item() for query in run._queries]
    np.testing.assert_allclose(found.checkpoint_loss[0], losses + queries, rtol=1e-9)
    assert float(found.std("draw").min()) > 0
    with pytest.raises(ValueError, match="n_beta"):
        dln.influence.bif(run, [2])


@pytest.mark.slow
def test_bayesian_influence_close_to_a_checkpoint_is_the_product_of_gradients(run, steps):
    """With a strong localization the posterior is N(theta, 1 / localization)."""
    names = ["3:1", "0:0"]
    options = {
        **SAMPLING,
        "step_size": 2e-5,
        "draws": 1000,
        "burn_in": 10,
        "chains": 4,
        "batch_size": 1,
    }
    sharp = {"kernel": "underdamped", "kernel_options": {"persistence": 0.0}}
    found = dln.influence.bif(run, [2], train=names, **options, **sharp)
    for name in names:
        step, row = map(int, name.split(":"))
        ids = torch.from_numpy(run.rows(step)[row : row + 1]).long()
        gradient = steps.gradient(row_losses(steps.at(2), ids).sum())
        for query in run.queries:
            product = float(steps.query(2, query) @ gradient)
            expected = -SAMPLING["n_beta"] / len(run.items) * product / SAMPLING["localization"]
            one = found.sel(time=2, query=query, train=name)
            assert abs(float(one) - expected) < 4 * float(one.standard_error) < 0.5 * abs(expected)
