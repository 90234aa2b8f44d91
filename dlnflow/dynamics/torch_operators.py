"""Curvature of a torch run without its matrix: products, solves and EK-FAC, by curvlinops.

The matrices are those of L = (1/N) sum_i l_i: the Hessian, the Gauss-Newton matrix, and EK-FAC, in
which layers do not interact and the block of a layer with inputs a and output gradients g is

    (Q_g x Q_a) S (Q_g x Q_a)^T,    Q_a, Q_g the eigenvectors of E[a a^T] and E[g g^T],

with S the diagonal of the Gauss-Newton block in that basis.
"""

import copy
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from dlnflow._support import FloatArray
from dlnflow.dynamics import torch_losses
from dlnflow.dynamics.torch_kernels import differentiable
from dlnflow.dynamics.torch_steps import Tensors, TorchProblem, numbers

RESIDUAL = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Of a solve, relative to its right-hand side, by precision."""
MAX_ITERATIONS = 2000
LANCZOS_TOL = 1e-4
"""Residual of extreme eigenvalues, relative to the largest; errors go with its square, at best."""
COPIES = 8
"""How often what an item leaves behind is held in a product."""
LAYERS = (nn.Linear, nn.Conv2d)
"""What EK-FAC takes."""


def library() -> ModuleType:
    """Return curvlinops.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed, with the command that installs it.
    """
    try:
        return import_module("curvlinops")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the curvature of a model that is too large for a matrix, and EK-FAC, need "
            f"{error.name}: pip install 'dlnflow[curvature]' (where torchvision does not match "
            "torch: docs/your_model.md). `tangent` and `tracin` need no curvature.",
            name=error.name,
        ) from error


class ObjectiveLoss(nn.Module):
    """(1/N) sum of the losses of some items, N the number of all of them."""

    reduction = "sum"  # of the parts that the items are cut into

    def __init__(self, problem: TorchProblem) -> None:
        super().__init__()
        self._item_loss, self._n_items = problem.item_loss, problem.n_items

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return one number."""
        return self._item_loss(output, target).sum() / self._n_items


class Operator:
    """The Hessian or Gauss-Newton matrix of L at some weights; vectors are rows (K, P).

    Parameters
    ----------
    problem : TorchProblem
    weights : list of Tensor
    matrix : {"hessian", "gauss_newton"}
    """

    def __init__(self, problem: TorchProblem, weights: Tensors, matrix: str) -> None:
        names = {"hessian": "HessianLinearOperator", "gauss_newton": "GGNLinearOperator"}
        model, parameters = _model_at(problem, weights)
        make = getattr(library(), names[matrix])
        loss, parts = ObjectiveLoss(problem), problem.portions(problem.data, COPIES)
        self._operator = make(model, loss, parameters, parts, check_deterministic=False)
        rows = len(parts[0][0])  # held at once for every vector, besides the vector itself
        self._problem, self._like = problem, weights[0]
        self._each = 12 * problem.n_parameters + COPIES * rows * problem.numbers_per_item

    def product(self, rows: FloatArray) -> FloatArray:
        """Return the matrix times every row."""
        return self._applied(self._operator, rows)

    def solve(self, damping: float, rows: FloatArray) -> FloatArray:
        """Return (matrix + damping)^-1 times every row, by conjugate gradients.

        Raises
        ------
        ValueError
            If they do not get to `RESIDUAL`.
        """
        identity = import_module("curvlinops.examples").IdentityLinearOperator
        like, curvlinops = self._like, library()
        shapes = self._operator._in_shape
        shifted = self._operator + damping * identity(shapes, like.device, like.dtype)
        residual = RESIDUAL[like.dtype]
        inverse = curvlinops.CGInverseLinearOperator(
            shifted,
            max_iter=MAX_ITERATIONS,
            tolerance=residual,
            stop_updating_after=residual / 100,
            eps=float(torch.finfo(like.dtype).tiny),  # its default stops at a residual of 1e-5
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="CG terminated")
            try:
                return self._applied(inverse, rows)
            except RuntimeWarning as error:
                raise ValueError(
                    f"conjugate gradients need more than {MAX_ITERATIONS} products for (matrix + "
                    f"{damping:.3g})^-1 to {residual:g}; use a larger `damping`."
                ) from error

    def extremes(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue, by Lanczos."""
        size = self._operator.shape[0]
        start = np.cos(np.arange(1.0, size + 1))  # a fixed vector without symmetry

        def top(shift: float, sign: float) -> float:
            def product(v: FloatArray) -> FloatArray:
                return sign * self.product(v.reshape(1, -1))[0] + shift * v.ravel()

            operator = LinearOperator((size, size), product, dtype=np.float64)
            tol = max(LANCZOS_TOL, RESIDUAL[self._like.dtype])
            return float(eigsh(operator, 1, which="LA", v0=start, ncv=20, tol=tol)[0][0])

        largest = top(0.0, 1.0)
        return abs(largest) - top(abs(largest), -1.0), largest

    def _applied(self, operator: Any, rows: FloatArray) -> FloatArray:
        """Return an operator times every row, so many rows at once as fit."""
        result = np.empty_like(rows)
        with differentiable():
            for chosen in self._problem.turns(len(rows), self._each, least=len(rows)):
                columns = torch.as_tensor(rows[chosen].T).to(self._like)
                result[chosen] = numbers(operator @ columns).T
        return result


class Ekfac:
    """EK-FAC of L at some weights: exact for deep linear networks, up to products of layers.

    The eigenbasis is exact where inputs and output gradients of a layer are independent, as for
    squared errors in a deep linear network. Weight and bias of a layer share a block.

    Parameters
    ----------
    problem : TorchProblem
    weights : list of Tensor

    Raises
    ------
    ValueError
        If a trained parameter is not that of a linear or convolutional layer alone, or the loss is
        none of the named ones.
    """

    def __init__(self, problem: TorchProblem, weights: Tensors) -> None:
        require_layers(problem)
        curvlinops = library()
        model, parameters = _model_at(problem, weights)
        squared = problem.item_loss is torch_losses.half_squared_error
        loss = (nn.MSELoss if squared else nn.CrossEntropyLoss)(reduction="sum")
        self._scale = 1 / problem.n_items / (2 if squared else 1)  # of L, over the loss of torch
        self._like, self._curvlinops = weights[0], curvlinops
        self._operator = curvlinops.EKFACLinearOperator(
            model,
            loss,
            parameters,
            problem.portions(problem.data, COPIES),
            check_deterministic=False,
            fisher_type=curvlinops.FisherType.TYPE2,
            separate_weight_and_bias=False,
        )

    def solve(self, damping: float, rows: FloatArray) -> FloatArray:
        """Return (EK-FAC + damping)^-1 times every row."""
        inverse = self._curvlinops.KFACInverseLinearOperator(
            self._operator, damping=damping / self._scale, use_exact_damping=True
        )
        columns = torch.as_tensor(rows.T / self._scale).to(self._like)
        return numbers(inverse @ columns).T


def require_layers(problem: TorchProblem) -> None:
    """Refuse a problem that EK-FAC does not take.

    Raises
    ------
    ValueError
        Naming the parameters or the loss.
    """
    owners: dict[int, list[str]] = {}
    for path, module in problem.model.named_modules():
        for part, parameter in module.named_parameters(recurse=False):
            kind = "" if isinstance(module, LAYERS) else f" of {type(module).__name__}"
            owners.setdefault(id(parameter), []).append(f"{path}.{part}".lstrip(".") + kind)
    named = dict(problem.model.named_parameters())
    whose = [owners[id(named[name])] for name in problem.weights]
    others = [names[0] for names in whose if len(names) > 1 or " of " in names[0]]
    if others:
        raise ValueError(
            "`approximation='ekfac'` takes parameters of Linear and Conv2d layers that no other "
            f"layer shares; not {', '.join(others[:4])}. Freeze them with requires_grad_(False), "
            "or leave `approximation` out."
        )
    output = problem.outputs(problem.initial, problem.data[0][:1])
    target, known = problem.data[1], torch_losses.LOSSES.values()
    labels = problem.item_loss is torch_losses.half_squared_error or target.ndim == 1
    if problem.item_loss not in known or output.ndim != 2 or not labels:
        raise ValueError(
            "`approximation='ekfac'` takes outputs (N, k) and the loss 'mse', or 'cross_entropy' "
            f"of class labels; got outputs (N, {', '.join(map(str, output.shape[1:]))}) and "
            f"{getattr(problem.item_loss, '__name__', 'a loss of your own')}. Leave "
            "`approximation` out."
        )


def _model_at(problem: TorchProblem, weights: Tensors) -> tuple[nn.Module, list[nn.Parameter]]:
    """Return a copy of the model with some weights, and its trained parameters."""
    model = copy.deepcopy(problem.model)
    named = dict(model.named_parameters())
    parameters = [named[name] for name in problem.weights]
    for parameter, value in zip(parameters, weights, strict=True):
        parameter.data = value.detach().clone()
        parameter.requires_grad_(True)
    return model, parameters
