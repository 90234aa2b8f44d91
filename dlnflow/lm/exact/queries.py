"""What influence is measured on: functions of a model that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from dlnflow.lm.runs.losses import token_losses

if TYPE_CHECKING:
    from dlnflow.lm.exact.derivatives import Query, StepDerivatives
    from dlnflow.lm.exact.points import Point


def repeated_loss(sequences: NDArray[np.int64]) -> Callable[[torch.nn.Module], torch.Tensor]:
    """Return the induction loss: mean loss of the second halves of sequences u u, in nats.

    Parameters
    ----------
    sequences : (n, 2 p) int array
        From `lm.induction.repeated_sequences`; the first target that counts is the second of the
        repeat, the first that can be known.

    Returns
    -------
    function of a model
    """
    length = sequences.shape[1]
    member = np.zeros((len(sequences), length - 1), bool)
    member[:, length // 2 :] = True
    return class_loss(sequences, member)


def class_loss(
    rows: NDArray[np.integer], member: NDArray[np.bool_]
) -> Callable[[torch.nn.Module], torch.Tensor]:
    """Return the mean loss of the targets of a class, in nats.

    Parameters
    ----------
    rows : (n, T) int array
        Token ids.
    member : (n, T - 1) bool array
        Which targets ``rows[:, 1:]`` belong to the class.

    Returns
    -------
    function of a model

    Raises
    ------
    ValueError
        If shapes do not fit or no target belongs to the class.
    """
    rows, member = np.asarray(rows), np.asarray(member, bool)
    if rows.ndim != 2 or member.shape != (len(rows), rows.shape[1] - 1):
        raise ValueError(
            f"`member` must say of every target whether it counts, shape (n, T - 1) for `rows` "
            f"(n, T); got {member.shape} and {rows.shape}."
        )
    if not member.any():
        raise ValueError("`member` is False everywhere: there is no loss to measure.")
    ids, mask = torch.tensor(rows.astype(np.int64)), torch.tensor(member)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        device = next(model.parameters()).device
        return token_losses(model, ids.to(device))[mask.to(device)].mean()

    return loss


def checked(
    queries: Mapping[str, Query], derivatives: StepDerivatives, point: Point
) -> tuple[list[str], list[Query], list[float]]:
    """Try queries at a point.

    Returns
    -------
    names, functions, values

    Raises
    ------
    ValueError
        If there are none, or one gives no single finite number with a derivative.
    """
    if not isinstance(queries, Mapping) or not queries:
        raise ValueError(
            "`queries` must be a dict of functions of the model, at least one, for example "
            "{'induction': lm.queries.repeated_loss(sequences)}."
        )
    values = []
    for name, query in queries.items():
        try:
            value, gradient = derivatives.query(query, point.weights)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"`queries` {name!r} must return one number, a tensor without axes that can be "
                f"differentiated by the model's weights: {str(error).splitlines()[0]}"
            ) from error
        if not np.isfinite(value) or not bool(torch.isfinite(gradient).all()):
            raise ValueError(f"`queries` {name!r} is {value} at the first step, or its gradient.")
        values.append(value)
    return list(map(str, queries)), list(queries.values()), values
