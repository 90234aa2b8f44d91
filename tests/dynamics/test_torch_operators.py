"""Curvature without a matrix: products, solves and EK-FAC against dense matrices by torch."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import dlnflow as dln
from dlnflow.dynamics import torch_matrices, torch_operators

pytest.importorskip("curvlinops")
GENERATOR = np.random.default_rng(4)
X, Y = GENERATOR.normal(size=(7, 3)), GENERATOR.normal(size=(7, 2))
LABELS = np.array([0, 1, 1, 0, 1, 0, 0])
END = 6


class Attention(nn.Module):
    """One head over two positions, a layer norm and one output per item; two layers are tied."""

    def __init__(self):
        super().__init__()
        self.key, self.value, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.key.weight = self.value.weight
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        x = self.norm(torch.stack([x, x**2], 1))
        found = nn.functional.scaled_dot_product_attention(self.key(x), x, self.value(x))
        return self.out(found.mean(1))


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)
    )


def perceptron():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def deep_linear():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 2))


CASES = {
    "perceptron": (perceptron, "mse"),
    "classes": (perceptron, "cross_entropy"),
    "convolution": (convolution, "cross_entropy"),
    "attention": (Attention, "mse"),
}


def run_of(model, loss="mse", **changes):
    torch.manual_seed(0)
    options = {"learning_rate": 0.2, "n_steps": END} | changes
    return dln.TorchRun(
        model().double(), (X, LABELS if loss == "cross_entropy" else Y), loss=loss, **options
    )


def dense(run, matrix):
    """The matrix by reverse-mode derivatives of the whole objective, and the weights."""
    weights = list(run.weights([END])[0].values())
    names, (x, y) = list(run.weights([END])[0]), run.data

    def outputs(*parts):
        return functional_call(run.model, dict(zip(names, parts, strict=True)), (x,))

    def objective(out):
        if y.ndim == 1:
            return nn.functional.cross_entropy(out, y)
        return 0.5 * (out - y).square().sum() / len(y)

    def blocks(parts, left):
        sizes = [w.numel() for w in weights]
        each = zip(parts, left, strict=True)
        rows = [[b.reshape(n, m) for b, m in zip(row, sizes, strict=True)] for row, n in each]
        return torch.cat([torch.cat(row, 1) for row in rows]).numpy()

    every = tuple(range(len(weights)))
    if matrix == "hessian":
        first = jacrev(lambda *p: objective(outputs(*p)), every)
        return blocks(jacrev(first, every)(*weights), [w.numel() for w in weights]), weights
    out = outputs(*weights)
    curved = jacrev(jacrev(objective))(out).reshape(out.numel(), -1).numpy()
    j = blocks([jacrev(outputs, every)(*weights)], [out.numel()])
    return j.T @ curved @ j, weights


def dense_influence(run, matrix, damping):
    """-(1/N) of products of gradients with the inverse, all of it dense."""
    weights = run.weights([END])[0]
    gradients = torch_matrices.flat(run.problem.item_gradients(list(weights.values()), run.data))
    inverse = np.linalg.inv(matrix + damping * np.eye(len(matrix)))
    return -gradients @ inverse @ gradients.T / len(gradients)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [*((name, "gauss_newton") for name in CASES), ("classes", "hessian"), ("attention", "hessian")],
)
def test_products_solves_and_eigenvalues_are_those_of_the_dense_matrix(name, matrix):
    run = run_of(*CASES[name])
    expected, weights = dense(run, matrix)
    operator = torch_operators.Operator(run.problem, weights, matrix)
    rows = GENERATOR.normal(size=(3, len(expected)))
    limit = 1e-10 * np.abs(expected).max()
    np.testing.assert_allclose(operator.product(rows), rows @ expected, rtol=0, atol=limit)
    values = np.linalg.eigvalsh(expected)
    limit = 1e-5 * values[-1]
    np.testing.assert_allclose(operator.extremes(), values[[0, -1]], rtol=0, atol=limit)
    damping = 0.1 * values[-1] - min(values[0], 0)
    solved = np.linalg.solve(expected + damping * np.eye(len(expected)), rows.T).T
    np.testing.assert_allclose(operator.solve(damping, rows), solved, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["damped_hessian", "damped_gauss_newton"])
def test_a_model_too_large_for_a_matrix_gets_the_same_influence(name, monkeypatch):
    run, damping = run_of(*CASES["perceptron"]), [1.5, 4.0]
    expected = dln.ESTIMATORS[name](run, [END], damping=damping)
    monkeypatch.setattr(torch_matrices, "MAX_PARAMETERS", 10)
    few = {"query": ["item1", "item4"]} if name == "damped_hessian" else {"train": ["item3"]}
    found = dln.ESTIMATORS[name](run, [END], damping=damping, **few)
    np.testing.assert_allclose(found, expected.sel(few), rtol=1e-6, atol=1e-9)
    for part in ("added_to_diagonal", "smallest_eigenvalue"):
        np.testing.assert_allclose(found[part], expected[part], rtol=0, atol=1e-5)


def test_products_take_turns_with_the_same_numbers(monkeypatch):
    run = run_of(*CASES["classes"])
    expected, weights = dense(run, "gauss_newton")
    monkeypatch.setattr("dlnflow.dynamics.torch_memory.MAX_NUMBERS", 1)
    operator = torch_operators.Operator(run.problem, weights, "gauss_newton")
    rows = np.eye(len(expected))[:3]
    np.testing.assert_allclose(operator.product(rows), expected[:3], rtol=0, atol=1e-12)


def ekfac(run, damping):
    return dln.influence.damped_gauss_newton(
        run, [END], damping=damping, damping_is="absolute", approximation="ekfac"
    ).values[0]


def test_ekfac_of_a_deep_linear_network_is_the_exact_block_diagonal():
    run = run_of(deep_linear)
    exact, weights = dense(run, "gauss_newton")
    layer = np.repeat([0, 1, 1, 2, 2], [w.numel() for w in weights])
    blocks = np.where(layer == layer[:, None], exact, 0.0)
    for damping in (1e-2, 1.0):
        found = ekfac(run, damping)
        np.testing.assert_allclose(found, dense_influence(run, blocks, damping), rtol=1e-9)
        assert np.abs(found - dense_influence(run, exact, damping)).max() > 1e-3
    alone = run_of(lambda: nn.Linear(3, 2))
    exact = dense(alone, "gauss_newton")[0]
    np.testing.assert_allclose(ekfac(alone, 0.1), dense_influence(alone, exact, 0.1), rtol=1e-9)


@pytest.mark.parametrize("name", ["perceptron", "classes"])
def test_ekfac_has_the_exact_diagonal_in_its_basis_and_the_limit_of_large_damping(name):
    run = run_of(*CASES[name])
    exact, weights = dense(run, "gauss_newton")
    operator = torch_operators.Ekfac(run.problem, weights)
    inverse = operator.solve(1.0, np.eye(len(exact)))
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12)
    found = np.linalg.inv(inverse) - np.eye(len(exact))
    assert np.trace(found) == pytest.approx(np.trace(exact), rel=1e-9)
    layer = np.repeat([0, 0, 1, 1], [w.numel() for w in weights])
    assert np.abs(np.where(layer == layer[:, None], 0.0, found)).max() < 1e-12
    errors = []
    for damping in (1e2, 1e3):
        whole = dense_influence(run, exact, damping)
        errors.append(np.abs(ekfac(run, damping) - whole).max() / np.abs(whole).max())
    assert errors[1] < 2e-3 and errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


def test_ekfac_of_a_two_dimensional_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    images = GENERATOR.normal(size=(7, 1, 3, 3))
    run = dln.TorchRun(model.double(), (images, Y), learning_rate=0.1, n_steps=END)
    whole = dln.influence.damped_gauss_newton(run, [END], damping=1e4)
    found = dln.influence.damped_gauss_newton(run, [END], damping=1e4, approximation="ekfac")
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-3 * np.abs(whole).max())


def own_loss(output, target):
    return (output - target).abs().sum(1)


def positions():
    return nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 2))


def all_positions(output, target):
    return output.square().sum((1, 2))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (run_of(Attention), "LayerNorm"),
        (run_of(convolution), "Conv1d"),
        (run_of(perceptron, own_loss), "own_loss"),
        (run_of(positions, all_positions), "all_positions"),
    ],
)
def test_what_has_no_ekfac_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        ekfac(run, 1.0)


def test_ekfac_of_a_linear_run_and_unknown_approximations_are_refused():
    run = dln.Run(dln.semantic_hierarchy(3), n_steps=20)
    with pytest.raises(ValueError, match="torch models"):
        dln.influence.damped_gauss_newton(run, [5], approximation="ekfac")
    with pytest.raises(ValueError, match="Did you mean 'ekfac'"):
        dln.influence.damped_gauss_newton(run, [5], approximation="kfac")


def test_an_indefinite_hessian_without_a_factor_is_refused(monkeypatch):
    run = run_of(*CASES["perceptron"])
    monkeypatch.setattr(torch_matrices, "MAX_PARAMETERS", 10)
    with pytest.raises(ValueError, match=r"not positive definite.*damped_gauss_newton"):
        dln.influence.damped_hessian(run, [1], damping=1e-3)


def test_solves_that_do_not_converge_are_an_error(monkeypatch):
    run = run_of(*CASES["attention"])
    _, weights = dense(run, "gauss_newton")
    operator = torch_operators.Operator(run.problem, weights, "gauss_newton")
    monkeypatch.setattr(torch_operators, "MAX_ITERATIONS", 20)
    with pytest.raises(ValueError, match="larger `damping`"):
        operator.solve(1e-12, np.ones((1, run.problem.n_parameters)))


def test_a_missing_library_is_named_before_training(monkeypatch):
    run = run_of(*CASES["perceptron"])
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    monkeypatch.setattr(torch_matrices, "MAX_PARAMETERS", 10)
    monkeypatch.setattr("dlnflow.dynamics.torch_steps.trained", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dlnflow\[curvature\]'"):
        dln.influence.damped_gauss_newton(run, [END])
