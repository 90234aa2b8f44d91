"""What can be recorded beside the losses while a language model is sampled.

    response of phi to token i = -(n_beta / N) Cov(phi, l_i)

for any function phi of the model, by `dlnflow.traces.susceptibility(traces, observable=name)`. An
observable is a frozen dataclass with a `name`, called with the model, that returns one number. Its
class and fields identify it in a store. One of your own:

    @dataclass(frozen=True)
    class WeightNorm:
        name: str = "weight norm"

        def __call__(self, model):
            return sum(p.square().sum() for p in model.parameters()).sqrt()
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow import checks
from dlnflow.lm.data.batches import check_fits, token_ids
from dlnflow.lm.induction import repeating, scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class InductionScore:
    """Mean attention of a head from a token to what followed its earlier copy, in [0, 1].

    Attributes
    ----------
    sequences : (n, 2 p) int array
        Sequences u u, from `dlnflow.lm.induction.repeated_sequences`.
    layer, head : int
        Layer and number of the head.
    name : str
        Name of the coordinate of the traces.
    """

    sequences: NDArray[np.int64] = field(repr=False)
    layer: int = 0
    head: int = 0
    name: str = "induction_score"

    def __post_init__(self) -> None:
        for name in ("layer", "head"):
            checks.whole_number(name, getattr(self, name))
        object.__setattr__(self, "sequences", repeating(self.sequences))

    def __call__(self, model: PreTrainedModel) -> float:
        """Return the score."""
        found = scores(model, self.sequences).induction
        for name in ("layer", "head"):
            if getattr(self, name) >= found.sizes[name]:
                raise ValueError(
                    f"`{name}` must be less than {found.sizes[name]}, what the model has; got "
                    f"{getattr(self, name)}."
                )
        return float(found.isel(layer=self.layer, head=self.head))


@dataclass(frozen=True)
class LogitDifference:
    """Logit of one id minus that of another after given ids, in nats, mean over the rows.

    Attributes
    ----------
    ids : (n, T) int array
        What the model has read.
    right, wrong : int
        The two ids.
    name : str
        Name of the coordinate of the traces.
    """

    ids: NDArray[np.int64] = field(repr=False)
    right: int = 0
    wrong: int = 1
    name: str = "logit_difference"

    def __post_init__(self) -> None:
        for name in ("right", "wrong"):
            checks.whole_number(name, getattr(self, name))
        if self.right == self.wrong:
            raise ValueError(
                f"`right` and `wrong` must differ, or the difference is always 0; both are "
                f"{self.right}."
            )
        wanted = "`ids` must be rows of token ids, (n, T)"
        ids = np.atleast_2d(token_ids(self.ids, wanted))
        if ids.ndim != 2:
            raise ValueError(f"{wanted}, got shape {ids.shape}.")
        object.__setattr__(self, "ids", ids.astype(np.int64))

    def __call__(self, model: PreTrainedModel) -> float:
        """Return the difference."""
        import torch

        check_fits("ids", self.ids, self.ids.shape[1], model.config)
        for name in ("right", "wrong"):
            check_fits(name, np.array(getattr(self, name)), 1, model.config)
        with torch.inference_mode():
            ids = torch.as_tensor(self.ids, device=model.device)
            last = model(ids, use_cache=False).logits[:, -1].float()
        return float((last[:, self.right] - last[:, self.wrong]).mean())
