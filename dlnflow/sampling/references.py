"""What a sweep is scored against: named influences, on the steps and items of the run."""

from collections.abc import Mapping, Sequence

import xarray as xr

from dlnflow import checks, result
from dlnflow._support.typing import IntArray
from dlnflow.dynamics.linear import Run
from dlnflow.influence import ESTIMATORS

Reference = str | xr.DataArray
"""Name of an estimator, or an influence array."""


def aligned(
    run: Run, steps: IntArray, references: Sequence[Reference] | Mapping[str, Reference]
) -> dict[str, xr.DataArray]:
    """Return references by name, in the order of `steps` and of the items of the run.

    Parameters
    ----------
    run : Run
        What estimators are computed for.
    steps : array of int
        Checkpoints of the sweep.
    references : sequence, or mapping of name to reference
        A sequence names each by its estimator.

    Returns
    -------
    dict of str to DataArray, dims (time, query, train)

    Raises
    ------
    ValueError
        If an estimator is unknown, a name occurs twice, or an array lacks steps or items or has
        dims of a sweep.
    """
    references = [references] if isinstance(references, str | xr.DataArray) else references
    named = references if isinstance(references, Mapping) else dict.fromkeys(range(len(references)))
    found: dict[str, xr.DataArray] = {}
    for key in named:
        reference = references[key]
        if isinstance(reference, str):
            estimator = ESTIMATORS[checks.one_of("references", reference, list(ESTIMATORS))]
            reference = estimator(run, steps)
        name = key if isinstance(key, str) else str(reference.attrs.get("estimator"))
        if name in found:
            raise ValueError(
                f"two `references` are named {name!r}; give a mapping of your own names to them."
            )
        found[name] = _on(result.check(reference), name, steps, list(run.task.items))
    return found


def _on(array: xr.DataArray, name: str, steps: IntArray, items: list[str]) -> xr.DataArray:
    """Return an influence at these steps and items."""
    extra = array.dims[:-3]
    if extra:
        raise ValueError(
            f"reference {name!r} has the dims {', '.join(map(str, extra))}; select one entry, e.g. "
            f".isel({extra[0]}=0)."
        )
    for dim, wanted in (("time", steps.tolist()), ("query", items), ("train", items)):
        have = set(array[dim].values.tolist())
        missing = [label for label in wanted if label not in have]
        if missing:
            raise ValueError(
                f"reference {name!r} lacks {len(missing)} of {len(wanted)} labels of the sweep on "
                f"`{dim}`, the first is {missing[0]!r}. Compute it at the steps and for all items "
                "of the sweep."
            )
    return array.sel(time=steps, query=items, train=items)
