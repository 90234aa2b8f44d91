"""What estimators may need of a run: each need in words, with its refusal and the way out."""

from dlnflow.dynamics.optimizers import OPTIMIZERS
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import Need

MAX_ENTRIES = 10**8
"""Largest average of products of weights that SOURCE holds (800 MB)."""


def verb(name: str) -> Need:
    """A run that has a verb of the protocol."""

    def refusal(estimator: str, run: Dynamics) -> str:
        if hasattr(run, name):
            return ""
        return f"`{estimator}` needs `run.{name}`, which {run.kind} does not have."

    return Need("", refusal)  # every kind of run says which verbs it has


def _linear(estimator: str, run: Dynamics) -> str:
    if run.linear:
        return ""
    return (
        f"`{estimator}` is a closed form of deep linear networks (dlnflow.Run); the run is "
        f"{run.kind}. `tangent` and `leave_one_out` take any run."
    )


LINEAR = Need("a deep linear network", _linear)


def _two_layers(estimator: str, run: Dynamics) -> str:
    if not run.linear or run.depth == 2:
        return ""
    return (
        f"`{estimator}` uses the structure of two layers; the run has depth {run.depth}. "
        "`tangent` and `leave_one_out` take any depth."
    )


TWO_LAYERS = Need("two layers, if linear", _two_layers)


def _whitened(estimator: str, run: Dynamics) -> str:
    if run.task.whitening is not None:
        return ""
    return (
        f"`{estimator}` needs whitened inputs, X X^T = c I (one-hot inputs are). Whiten them, or "
        "use `tangent` or `leave_one_out`, which work for any inputs."
    )


WHITENED = Need("whitened inputs", _whitened)


def _flow_time(estimator: str, run: Dynamics) -> str:
    if run.traits.flow_time is not None:
        return ""
    return (
        f"`{estimator}` needs a flow time, which optimizer={run.optimizer!r} does not have; use "
        "`tangent` or `leave_one_out`, which follow any optimizer."
    )


FLOW_TIME = Need("an optimizer that follows the flow", _flow_time)


def _follows_flow(estimator: str, run: Dynamics) -> str:
    if run.traits.flow_time is not None:
        return ""
    names = [f'"{n}"' for n, rule in OPTIMIZERS.items() if rule.traits.flow_time is not None]
    return (
        f"`{estimator}` predicts gradient flow; it takes `optimizer` {', '.join(names[:-1])} or "
        f'{names[-1]}, got "{run.optimizer}". Use `leave_one_out`, which retrains.'
    )


FOLLOWS_FLOW = Need("an optimizer that follows the flow", _follows_flow)


def _rank(estimator: str, run: Dynamics) -> str:
    rank = run.task.modes.rank
    if run.hidden >= rank:
        return ""
    return (
        f"`{estimator}` describes a network that learns all {rank} modes of the task, but "
        f"`hidden` is {run.hidden}. Use hidden >= {rank}, or `tangent`."
    )


RANK = Need("hidden >= rank of the task", _rank)


def _full_batch(estimator: str, run: Dynamics) -> str:
    if run.batch is None:
        return ""
    return (
        f"`{estimator}` describes training on all items at every step; the run has minibatches of "
        f"{run.batch}. Leave `batch` out, or use `tangent` or `leave_one_out`, which follow them."
    )


FULL_BATCH = Need("full batch", _full_batch)


def _steps(estimator: str, run: Dynamics) -> str:
    if not run.traits.continuous:
        return ""
    return (
        f"`{estimator}` follows the steps of an optimizer and gradient flow has none; use "
        'optimizer="gd" with a small `learning_rate`, whose error is of first order in it.'
    )


STEPS = Need("discrete steps", _steps)


def _differentiable(estimator: str, run: Dynamics) -> str:
    if run.traits.differentiable:
        return ""
    return (
        f"`{estimator}` differentiates the steps of the optimizer, and optimizer="
        f"{run.optimizer!r} declares no derivative. `leave_one_out` and `windowed` need none."
    )


DIFFERENTIABLE = Need("a differentiable optimizer", _differentiable)


def _descent(estimator: str, run: Dynamics) -> str:
    if run.traits.plain:
        return ""
    return (
        f'`{estimator}` unrolls gradient descent, `optimizer` "gd"; the run has '
        f"{run.optimizer!r}. `tangent` and `tracin` take the others."
    )


DESCENT = Need("gradient descent", _descent)


def _narrow(estimator: str, run: Dynamics) -> str:
    if not run.linear:
        return ""
    (hidden, n_in), (n_out, _) = (w.shape for w in run.problem.weights)
    entries = n_out * hidden * hidden * n_in
    if run.batch is not None:
        entries = max(entries, (hidden * n_in) ** 2)
    if entries <= MAX_ENTRIES:
        return ""
    return (
        f"`{estimator}` averages {entries:.2g} products of weights for this network, above "
        f"{MAX_ENTRIES:.0e}; use a narrower network or fewer features, or `tangent`."
    )


NARROW = Need("at most 1e8 products of weights", _narrow)
