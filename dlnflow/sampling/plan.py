"""How a torch model is evaluated while it is sampled: one frozen record, checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dlnflow import checks
from dlnflow.sampling.functional import ItemLosses


@dataclass(frozen=True)
class Plan:
    """How a model is evaluated.

    Parameters
    ----------
    batch_size : int, optional
        Items per gradient, drawn without replacement anew for each step and chain; default all.
    parameters : sequence of str, optional
        Sample only parameters whose names match (`*` matches anything); the others stay, and so
        do those with requires_grad=False.
    items : sequence of str, optional
        Names of the observed losses; default their positions in `data` (in `observed` where it
        holds tensors), "position.k" where an item has several losses.
    observed_loss : callable, optional
        (model, batch) -> (n,) or (n, k): what is recorded, e.g. one loss per token; default the
        training loss.
    observe_at_once : int
        Items per forward pass when observing.
    vectorise : bool, optional
        All chains in one vmap. Default: try, and go one by one where the model refuses.

    Raises
    ------
    ValueError
        If a number is out of range or a list is empty.
    """

    batch_size: int | None = None
    parameters: Sequence[str] | None = None
    items: Sequence[str] | None = None
    observed_loss: ItemLosses | None = None
    observe_at_once: int = 512
    vectorise: bool | None = None

    def __post_init__(self) -> None:
        checks.positive_integer("observe_at_once", self.observe_at_once)
        if self.batch_size is not None:
            checks.positive_integer("batch_size", self.batch_size)
        if self.parameters is not None and len(self.parameters) == 0:
            raise ValueError("`parameters` is empty: nothing would move. Leave it out for all.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Plan":
        """Return the plan of keyword arguments.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            If a keyword is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(
                    f"`{name}` is not an option of `sample`; there are {', '.join(known)}."
                    + checks.did_you_mean(name, known)
                )
        return cls(**options)
