"""Learning coefficients of deep linear networks, in exact arithmetic."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from dlnflow import checks


class LearningCoefficient(NamedTuple):
    """The pair (lambda, m) in F_n = n L + lambda log n - (m - 1) log log n + O(1).

    Attributes
    ----------
    coefficient : float or Fraction
        lambda, half the effective number of parameters; parameters / 2 for a regular model.
    multiplicity : int
        m >= 1, the order of the pole.
    """

    coefficient: float | Fraction
    multiplicity: int


def learning_coefficient(
    widths: Sequence[int], rank: int, *, exact: bool = False
) -> LearningCoefficient:
    r"""Learning coefficient of W = W_L ... W_1 at a true map of rank r, any depth.

    With excess widths D_k = H_k - r, let S be the l + 1 smallest of them, l >= 1 fixed by
    ``l max(S) <= sum(S) < l min(rest)``, and c = sum(S) - (ceil(sum(S) / l) - 1) l. Then

        lambda = [r (H_0 + H_L) - r^2] / 2
                 + c (l - c) / (4 l) - (l - 1) / (4 l) sum(S)^2 + 1/2 sum_{i<j in S} D_i D_j,
        m      = c (l - c) + 1.

    Parameters
    ----------
    widths : sequence of int, length L + 1
        H_0 (inputs), H_1, ... (hidden layers), H_L (outputs), each >= 1.
    rank : int
        Rank r of the true map, 0 <= r <= min(widths).
    exact : bool
        Give lambda as a `fractions.Fraction` instead of the nearest float.

    Returns
    -------
    LearningCoefficient
        ``(lambda, m)``. It is a property of the global minima: a network that fits a map of
        rank r with all its modes learned. A checkpoint on a plateau is a saddle, where no
        learning coefficient is defined.

    Raises
    ------
    ValueError
        If there are fewer than two widths, a width is not a whole number >= 1, or the rank is
        not a whole number between 0 and the smallest width.

    References
    ----------
    Aoyagi, "Singular learning coefficients and efficiency in learning theory" (2024).
    docs/derivations/learning_coefficient.md.

    Examples
    --------
    >>> learning_coefficient((2, 1, 2), rank=0)
    LearningCoefficient(coefficient=1.0, multiplicity=2)
    >>> learning_coefficient((3, 3, 3, 3), rank=1, exact=True)
    LearningCoefficient(coefficient=Fraction(4, 1), multiplicity=3)
    """
    widths, rank = _checked(widths, rank)
    selected = _smallest_excess([width - rank for width in widths])
    l, total = len(selected) - 1, sum(selected)
    c = total - (-(-total // l) - 1) * l
    pairs = (total**2 - sum(d * d for d in selected)) // 2  # sum over i < j of D_i D_j
    regular = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    singular = Fraction(c * (l - c) - (l - 1) * total**2, 4 * l) + Fraction(pairs, 2)
    return _result(regular + singular, c * (l - c) + 1, exact=exact)


def reduced_rank_regression(
    widths: Sequence[int], rank: int, *, exact: bool = False
) -> LearningCoefficient:
    """Learning coefficient with one hidden layer, by the formula of Aoyagi and Watanabe.

    With M inputs, H hidden units and N outputs:

        M + H < N + r:  (H M - H r + N r) / 2,   m = 1
        N + H < M + r:  (H N - H r + M r) / 2,   m = 1
        M + N < H + r:  M N / 2,                 m = 1
        otherwise       [2 (H + r)(M + N) + 2 M N - (H + r)^2 - M^2 - N^2] / 8,   m = 1,
                        plus 1/8 and m = 2 if M + H + N + r is odd.

    It shares no step with `learning_coefficient`, which tests compare with it.

    Parameters
    ----------
    widths : sequence of three int
        M (inputs), H (hidden), N (outputs), each >= 1.
    rank : int
        Rank r of the true map, 0 <= r <= min(widths).
    exact : bool
        Give lambda as a `fractions.Fraction` instead of the nearest float.

    Returns
    -------
    LearningCoefficient
        ``(lambda, m)``.

    Raises
    ------
    ValueError
        If there are not three widths, and as `learning_coefficient`.

    References
    ----------
    Aoyagi and Watanabe, "Stochastic complexities of reduced rank regression in Bayesian
    estimation", Neural Networks 18 (2005).

    Examples
    --------
    >>> reduced_rank_regression((8, 50, 15), rank=4)
    LearningCoefficient(coefficient=60.0, multiplicity=1)
    """
    (*layers,), r = _checked(widths, rank)
    if len(layers) != 3:
        raise ValueError(
            f"`widths` must be (inputs, hidden, outputs), got {len(layers)} widths. "
            "Use learning_coefficient for other depths."
        )
    m, h, n = layers
    if m + h < n + r:
        return _result(Fraction(h * m - h * r + n * r, 2), 1, exact=exact)
    if n + h < m + r:
        return _result(Fraction(h * n - h * r + m * r, 2), 1, exact=exact)
    if m + n < h + r:
        return _result(Fraction(m * n, 2), 1, exact=exact)
    odd = (m + h + n + r) % 2
    eight = 2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2
    return _result(Fraction(eight + odd, 8), 1 + odd, exact=exact)


def _smallest_excess(excess: list[int]) -> list[int]:
    # The only l + 1 smallest values with l max(in) <= sum(in) < l min(out): taking in the next
    # value while it is at most sum / l keeps the first inequality and stops at the second.
    ordered = sorted(excess)
    size = 2
    while size < len(ordered) and (size - 1) * ordered[size] <= sum(ordered[:size]):
        size += 1
    return ordered[:size]


def _checked(widths: Sequence[int], rank: int) -> tuple[list[int], int]:
    if not hasattr(widths, "__iter__"):
        raise ValueError(
            f"`widths` must be a sequence (inputs, hidden..., outputs), got {widths!r}."
        )
    widths = [checks.positive_integer(f"widths[{i}]", width) for i, width in enumerate(widths)]
    if len(widths) < 2:
        raise ValueError(
            f"`widths` needs at least the number of inputs and of outputs, got {widths}."
        )
    rank = checks.whole_number("rank", rank)
    if rank > min(widths):
        raise ValueError(
            f"`rank` must be at most the smallest width: widths {tuple(widths)} cannot express "
            f"a map of rank {rank} > {min(widths)}."
        )
    return widths, rank


def _result(coefficient: Fraction, multiplicity: int, *, exact: bool) -> LearningCoefficient:
    return LearningCoefficient(coefficient if exact else float(coefficient), multiplicity)
