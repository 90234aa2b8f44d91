"""Which entries of a model's parameters move while it is sampled; all others stay where they are.

    p(u) ~ exp(-n_beta L(u, v_0) - (localization / 2) |u - u_0|^2),   theta = (u, v)

is the posterior restricted to a component with weights u: a layer, an attention head as a slice of
a fused tensor, or any mask of entries (weight refinement of Wang et al. 2024, "Differentiation and
specialization of attention heads via the refined local learning coefficient").
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks

Mask = NDArray[np.bool_]
"""Which entries of one parameter move; of its shape."""
Restrict = str | Sequence[str] | Mapping[str, ArrayLike]
"""Names of components or parameters (`*` matches anything), or parameter -> mask."""


def matching(known: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Return the names that match a pattern, in their own order.

    Parameters
    ----------
    known : iterable of str
        Names of all parameters that may move.
    patterns : str or sequence of str, optional
        Whole names, in which `*` matches anything; None or empty: all.

    Returns
    -------
    list of str
        The chosen names.

    Raises
    ------
    ValueError
        If a pattern matches no name, or they are no names.
    """
    known = list(known)
    patterns = listed("parameters", "*" if patterns is None else patterns) or ("*",)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            more = ", ..." if len(known) > 8 else ""
            hint = f" Write '*{pattern}*' for all names that contain it."
            raise ValueError(
                f"`parameters` pattern {pattern!r} matches none of {', '.join(known[:8])}{more} "
                "(those that require a gradient)."
                + (hint if any(pattern in name for name in known) else "")
            )
    return [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def as_given(restrict: Restrict) -> tuple[str, ...] | dict[str, NDArray]:
    """Return a restriction as it is kept: names as a tuple, masks as arrays.

    Parameters
    ----------
    restrict : str, sequence of str, or mapping
        As in `masks`; shapes and names are not known here.

    Returns
    -------
    tuple of str, or dict of str to bool array

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(restrict, Mapping):
        return listed("restrict", restrict)
    listed("restrict", list(restrict))
    found = {}
    for name, mask in restrict.items():
        try:
            found[name] = np.asarray(mask)
        except ValueError as error:
            raise ValueError(f"`restrict` of {name!r} has rows of several lengths.") from error
        if found[name].dtype != bool:
            raise ValueError(
                f"`restrict` of {name!r} must be True or an array of bool, got "
                f"{found[name].dtype} {found[name].shape}."
            )
    return found


def listed(argument: str, given: object) -> tuple[str, ...]:
    """Return one name or several as a tuple.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If they are no names, or have no order.
    """
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence | np.ndarray) or not all(
        isinstance(one, str) for one in names
    ):
        more = ", or a mapping of names to masks" if argument == "restrict" else ""
        raise ValueError(
            f"`{argument}` must be a name or a list of names{more}; got {type(given).__name__} "
            f"{given!r:.60}."
        )
    return tuple(names)


def masks(
    shapes: Mapping[str, tuple[int, ...]],
    restrict: Restrict,
    components: Mapping[str, Mapping[str, Mask]] | None = None,
) -> dict[str, Mask]:
    """Return which entries of which parameters move.

    Parameters
    ----------
    shapes : mapping of str to tuple
        Parameters that may move, in their order in theta.
    restrict : str, sequence of str, or mapping
        Names of components, or of parameters (`*` matches anything): their union. Or a mapping of
        parameter names to masks of their shapes; True for the whole parameter.
    components : mapping of str to mapping, optional
        Component -> parameter -> mask.

    Returns
    -------
    dict of str to bool array
        Only parameters of which some entry moves, in the order of `shapes`.

    Raises
    ------
    ValueError
        If a name matches nothing, a mask has another shape or is no mask, or nothing would move.
    """
    restrict = as_given(restrict)
    known: dict[str, Mapping[str, Any]] = {name: {name: True} for name in shapes}
    if isinstance(restrict, Mapping):
        chosen = [
            {name: mask for name in _matching(known, pattern)} for pattern, mask in restrict.items()
        ]
    else:
        known = {**(components or {}), **known}
        chosen = [known[name] for pattern in restrict for name in _matching(known, pattern)]
    found = {name: np.zeros(shape, bool) for name, shape in shapes.items()}
    for part in chosen:
        for name, mask in part.items():
            found[name] |= _checked(name, mask, shapes[name])
    found = {name: mask for name, mask in found.items() if mask.any()}
    if not found:
        raise ValueError("`restrict` leaves nothing that moves. Leave it out for all parameters.")
    return found


def positions(found: Mapping[str, Mask]) -> NDArray[np.int64] | None:
    """Return where the moving entries lie in the flattened parameters; None for all of them."""
    flat = np.concatenate([mask.ravel() for mask in found.values()])
    return None if flat.all() else np.flatnonzero(flat)


def described(restrict: Restrict, count: int) -> str:
    """Return what a restriction is called in the attributes of traces."""
    if isinstance(restrict, str):
        return restrict
    if isinstance(restrict, Mapping):
        return f"{count} entries of {', '.join(map(str, restrict))}"
    return ", ".join(restrict)


def _matching(known: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match a pattern.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there are none.
    """
    names = list(known)
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        more = ", ..." if len(names) > 12 else ""
        raise ValueError(
            f"`restrict` {pattern!r} is none of {', '.join(names[:12])}{more}."
            + checks.did_you_mean(pattern, names)
        )
    return found


def _checked(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> Mask:
    """Return a mask of the shape of its parameter.

    Returns
    -------
    bool array

    Raises
    ------
    ValueError
        If it is no mask, or of another shape.
    """
    array = np.asarray(mask)
    if array.dtype != bool or array.shape not in ((), tuple(shape)):
        raise ValueError(
            f"`restrict` of {name!r} must be True or an array of bool of shape {tuple(shape)}, got "
            f"{array.dtype} {array.shape}."
        )
    return np.broadcast_to(array, shape)
