"""How much influence between classes of tokens depends on the settings of the sampler, as JSON.

    python -m paper_figures.sampler_settings RUN STORES OUT.json

Settings are changed one at a time from those that `dlnflow lm suggest` chooses, and every setting
has random numbers of its own. What STORES lacks is sampled first (about 7 CPU s a chain); it goes
on where it was stopped. Claim D.4 (`paper_figures.claims`) is judged by these files.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dlnflow import lm
from dlnflow._support import FloatArray
from dlnflow._support.files import write_json
from dlnflow._support.progress import Progress
from dlnflow.traces import groups
from dlnflow.traces.free_energy import jackknife
from paper_figures._estimates import Estimate, together
from paper_figures.class_matrix import identity, rounded, sampled
from paper_figures.component_responses import SETTINGS

USUAL = "as chosen"
CHANGES = {
    USUAL: {},
    "n_beta / 4": {"n_beta": 525},
    "localization x 4": {"localization": 36_800},
    "step_size x 2": {"step_size": 4.8e-6},
}
"""Name -> what differs from `SETTINGS`; all mix at least as fast."""
STEPS = (200, 1200, 4500)
"""The first that is sampled for the claims, before the induction circuit, and the end."""
CHAINS, DRAWS = 4, 40


def sample(run: Path, stores: Path) -> dict[str, xr.DataArray]:
    """Sample the settings that STORES lacks, wholly or in part, and return all their traces."""
    plan = lm.experiment.plan(run, observe="delimiters", steps=STEPS)
    found = {}
    with Progress(len(CHANGES) * len(STEPS) * CHAINS, "sampling settings") as bar:
        for number, (name, change) in enumerate(CHANGES.items()):
            lengths = {"chains": CHAINS, "draws": DRAWS, "seed": number}
            done = number * len(STEPS) * CHAINS
            found[name] = lm.experiment.sample(
                plan,
                lm.experiment.sampler(**lengths, **SETTINGS | change),
                stores / f"setting{number}",
                lambda k, _, done=done: bar.advance(done + k - bar.done),
            )
    return found


def measure(traces: Mapping[str, xr.DataArray], classes: xr.DataArray) -> dict[str, Any]:
    """Compare influence between classes at every setting with that at the usual one.

    Parameters
    ----------
    traces : mapping of str to DataArray
        Setting -> losses at the same checkpoints, `USUAL` among them.
    classes : DataArray
        Classes of the observed tokens.

    Returns
    -------
    dict
        JSON. `settings`: name -> what was sampled, and `agreement`: "influence" (of every class on
        every class at every step) or "changes" (the same minus the mean over steps) ->
        [correlation with the usual setting, standard error, degrees of freedom, slope].
    """
    found = {}
    usual = _by_chain(traces[USUAL], classes)
    for name, one in traces.items():
        found[name] = sampled(one, groups(one, classes))
        if name != USUAL:
            found[name]["agreement"] = _agreement(usual, _by_chain(one, classes))
    return {"settings": found}


def _by_chain(traces: xr.DataArray, classes: xr.DataArray) -> FloatArray:
    """Return influence of every class on every class as each chain has it, (C, T, pairs)."""
    upper = np.triu_indices(classes.sizes["token_class"])
    chains = range(traces.sizes["chain"])
    every = [groups(traces.isel(chain=[c]), classes).values for c in chains]
    return np.array(every)[:, :, *upper]


def _agreement(usual: FloatArray, other: FloatArray) -> dict[str, list[float]]:
    kinds = {"influence": (usual, other)}
    kinds["changes"] = tuple(x - x.mean(1, keepdims=True) for x in (usual, other))
    found = {}
    for kind, both in kinds.items():
        a, b = (x.reshape(len(x), -1) for x in both)
        found[kind] = rounded([*correlation(a, b), _shared(a, b) / _own(a)])
    return found


def correlation(a: FloatArray, b: FloatArray) -> Estimate:
    """Correlation of what chains (C, K) and (D, K) have in common, without their noise.

        (mean of a) . (mean of b) / sqrt(mean of a_c . a_d  times  mean of b_c . b_d),  c != d,

    centred over K. Noise of chains lowers a plain correlation of means; here it averages out, so
    that a value may lie above 1. The error is a jackknife over the chains of both.

    Parameters
    ----------
    a, b : array, shapes (C, K) and (D, K)
        The same K numbers, as independent chains have them.

    Returns
    -------
    Estimate
        Correlation, standard error, degrees of freedom.
    """
    parts = [
        jackknife([_correlation(np.delete(a, c, 0), b) for c in range(len(a))]),
        jackknife([_correlation(a, np.delete(b, c, 0)) for c in range(len(b))]),
    ]
    return Estimate(_correlation(a, b), *together(parts, [len(a) - 1, len(b) - 1]))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return _shared(a, b) / float(np.sqrt(_own(a) * _own(b)))


def _shared(a: FloatArray, b: FloatArray) -> float:
    """Return the sum over K of the product of two centred means."""
    return float(_centred(a).mean(0) @ _centred(b).mean(0))


def _own(a: FloatArray) -> float:
    """Return the mean over pairs of different chains of such a sum of products."""
    d = _centred(a)
    return float((d.sum(0) ** 2).sum() - (d**2).sum()) / (len(d) * (len(d) - 1))


def _centred(a: FloatArray) -> FloatArray:
    return a - a.mean(1, keepdims=True)


def main(run: Path, stores: Path, out: Path) -> None:
    """Sample what is missing, and write what the stores say."""
    found = sample(run, stores)
    _, classes = lm.experiment.read(run, stores / "setting0")
    write_json(out, identity(run) | measure(found, classes))


if __name__ == "__main__":
    lm.experiment.one_thread()
    main(*map(Path, sys.argv[1:]))
