"""Exact training trajectories of two-layer linear networks.

Time t is in the units of dW1/dt = W2^T (S_yx - W S_xx), dW2/dt = (S_yx - W S_xx) W1^T with
W = W2 W1 (tau = 1), in which a balanced mode obeys da/dt = 2 a (s - a). Derivations and measured
accuracy: docs/derivations/flow.md.

| start | inputs | function |
|---|---|---|
| balanced: W2^T W2 - W1 W1^T = lambda I | white, S_xx = I | `balanced`, `balanced_gram` |
| one mode, any strengths | white | `unbalanced_mode` |
| any | any | `gram`, `gram_tangent` |
"""

from dlnflow.theory.flow.balanced import balanced, balanced_gram, imbalance
from dlnflow.theory.flow.gram import Gram, gram, gram_tangent
from dlnflow.theory.flow.unbalanced import unbalanced_mode

__all__ = [
    "Gram",
    "balanced",
    "balanced_gram",
    "gram",
    "gram_tangent",
    "imbalance",
    "unbalanced_mode",
]
