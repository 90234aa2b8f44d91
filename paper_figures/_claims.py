"""Numbers that a figure claims: read off curves, written to JSON, compared with expectations."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dlnflow._support.files import write_json

EXPECTED = Path(__file__).parent / "expected"
"""One file per figure: {claim: {"value": v, "within": tolerance} or {"at_least": v}}."""


def largest(rows: pd.DataFrame, estimator: str, kind: str) -> tuple[float, float]:
    """Return (flow time, value) of the highest peak or the deepest trough, NaN if there is none."""
    side = 1 if kind == "peak" else -1
    chosen = rows[
        (rows["estimator"] == estimator) & (rows["kind"] == kind) & (side * rows["value"] > 0)
    ]
    if chosen.empty:
        return np.nan, np.nan
    row = chosen.loc[(side * chosen["value"]).idxmax()]
    return float(row["flow_time"]), float(row["value"])


def of_curve(rows: pd.DataFrame, estimator: str) -> dict[str, float]:
    """Summarise the events of one curve."""
    flips = rows.loc[rows["kind"] == "sign_flip", "flow_time"]
    return {
        "trough": largest(rows, estimator, "trough")[0],
        "peak": largest(rows, estimator, "peak")[0],
        "sign_flips": float(len(flips)),
        "first_flip": float(flips.iloc[0]) if len(flips) else np.nan,
    }


def write(path: Path, claims: Mapping[str, float], scale: str) -> Path:
    """Write claims as JSON, rounded to six digits, atomically."""
    rounded = {key: float(f"{value:.6g}") for key, value in claims.items()}
    write_json(path, {"scale": scale, "claims": rounded})
    return path


def failures(figure: str, claims: Mapping[str, float]) -> list[str]:
    """Compare claims with ``expected/FIGURE.json``; one sentence per claim that does not hold."""
    expected = json.loads((EXPECTED / f"{figure}.json").read_text())
    problems = []
    for name, bound in expected.items():
        got = claims.get(name, np.nan)
        if "at_least" in bound:
            holds, wanted = got >= bound["at_least"], f"at least {bound['at_least']}"
        else:
            holds = abs(got - bound["value"]) <= bound["within"]
            wanted = f"{bound['value']} within {bound['within']}"
        if not holds:
            problems.append(f"{figure}: {name} is {got:.6g}, expected {wanted}")
    return problems
