"""The public names of `dlnflow.traces`: they are said, and need no torch."""

import subprocess
import sys

import numpy as np
import pytest

from dlnflow import traces
from tests.traces import samples


def test_every_public_name_is_in_the_overview():
    for name in traces.__all__:
        assert callable(getattr(traces, name))
        assert f" {name}" in traces.__doc__


def test_reading_traces_needs_no_torch():
    code = (
        "import sys, dlnflow.influence.bif, dlnflow.traces.diagnostics; "
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("name", traces.__all__)
def test_what_is_no_loss_traces_is_refused(name):
    """By every reader alike, whatever else it is given."""
    if name == "labelled":
        return
    reader = getattr(traces, name)
    more = {"top_k": (1,)} | dict.fromkeys(("groups", "neighbours", "class_sums"), (np.eye(3),))
    whole = samples.traces(samples.correlated(2, 10, 0.0)[0][None])
    for wrong, error in ((whole.values, TypeError), (whole.isel(time=0), ValueError)):
        with pytest.raises(error):
            reader(wrong, *more.get(name, ()))
