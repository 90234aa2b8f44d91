"""Influence of a token on the same token elsewhere, by what stands before the two.

With z the losses of two tokens in the draws, centred in every chain,

    influence = - corr(z_i, z_j),        a mean over pairs of different rows of text.

Its error combines the spread of chains with a jackknife over rows.

    python examples/equal_tokens.py RUN STORE
"""

import sys

import numpy as np
import pandas as pd
import xarray as xr

KINDS = {
    "same token, same one before": (True, True),
    "same token, others before": (True, False),
    "other token, same one before": (False, True),
    "other token, others before": (False, False),
}
"""Whether a pair has the same token, and the same token before it."""


def by_context(traces: xr.DataArray) -> pd.DataFrame:
    """Return mean influence, its standard error and the number of pairs, by step and kind."""
    token, row, position = (traces[name].values for name in ("token", "row", "position"))
    before = np.full(len(token), -1)
    follows = (row[1:] == row[:-1]) & (position[1:] == position[:-1] + 1)
    before[1:][follows] = token[:-1][follows]
    known = (before >= 0)[:, None] & (before >= 0) & (row[:, None] != row)
    same, alike = token[:, None] == token, before[:, None] == before
    pairs = {kind: known & (same == a) & (alike == b) for kind, (a, b) in KINDS.items()}
    rows = (row[:, None] == np.unique(row)).astype(float)
    found = []
    for one in traces.transpose("time", "chain", "draw", "item"):
        z = one.values.astype(float)
        z -= z.mean(axis=1, keepdims=True)
        z /= np.sqrt((z**2).sum(axis=(0, 1)))
        shares = np.array([chain.T @ chain for chain in z])  # they add up to the correlation
        for kind, chosen in pairs.items():
            value, error = mean_and_error(-shares, chosen, rows)
            found.append((int(one.time), kind, value, error, int(chosen.sum()) // 2))
    return pd.DataFrame(found, columns=["step", "kind", "influence", "standard error", "pairs"])


def mean_and_error(shares: np.ndarray, chosen: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Return the mean over pairs of sums over chains (C, K, K), and its standard error."""
    count, chains = chosen.sum(), len(shares)
    per_chain = np.array([share[chosen].sum() for share in shares]) / count
    of_chains = chains / (chains - 1) * np.sum((per_chain - per_chain.mean()) ** 2)
    sums, counts = (rows.T @ m @ rows for m in (shares.sum(0) * chosen, chosen.astype(float)))
    without = [m.sum() - m.sum(0) - m.sum(1) + np.diag(m) for m in (sums, counts)]
    left = without[0] / without[1]
    of_rows = (len(left) - 1) * np.var(left)
    return float(per_chain.sum()), float(np.sqrt(of_chains + of_rows))


if __name__ == "__main__":
    from dlnflow import lm

    table = by_context(lm.experiment.read(*sys.argv[1:])[0])
    print(table.groupby("kind", sort=False).pairs.first().to_string(), "\n")
    for name in ("influence", "standard error"):
        print(
            name,
            table.pivot(index="step", columns="kind", values=name)[list(KINDS)]
            .round(4)
            .to_string(),
            sep="\n",
        )
