import numpy as np
import pytest

from dlnflow.lm.intervene import Window, intervene, pattern_rows, windows
from dlnflow.lm.runs.train import load_data

ROWS = np.array([[2, 3, 4, 5, 6, 7], [2, 3, 2, 3, 2, 3], [2, 3, 9, 2, 3, 8], [0, 1, 0, 1, 0, 1]])


def test_rows_with_most_patterns_are_chosen():
    assert pattern_rows(ROWS, (0, 1)).tolist() == [1]  # special ids make no pattern
    assert pattern_rows(ROWS[[0, 2]], (0, 1)).tolist() == [1]


def test_weights_only_in_the_window():
    window = Window(5, 7, factor=3.0, special=(0, 1))
    assert window(4, ROWS).tolist() == window(7, ROWS).tolist() == [1, 1, 1, 1]
    assert window(5, ROWS).tolist() == window(6, ROWS).tolist() == [1, 3, 1, 1]


def test_windows_from_a_curve():
    steps = [0, 100, 200, 300]
    found = windows(steps, [0.0, 0.0, -1.0, -0.5], factor=2.0)
    assert found["during"] == Window(110, 150, 2.0)
    assert found["before"] == Window(70, 110, 2.0)
    assert found["after"] == Window(150, 190, 2.0)
    with pytest.raises(ValueError, match="nowhere negative"):
        windows(steps, [0.0, 0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="add earlier"):
        windows(steps, [-1.0, -1.0, -1.0, -1.0])


def test_bad_windows():
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Window(5, 5)
    with pytest.raises(ValueError, match="`factor`"):
        Window(5, 6, factor=0.0)


def test_runs_differ_after_their_window_opens(tiny, tmp_path):
    settings, folder, ladder = tiny
    choices = {"early": Window(1, 3), "late": Window(8, 12)}
    found = intervene(settings, tmp_path, choices, seeds=[0, 1], data=load_data(folder))
    assert found.score.dims == ("window", "seed", "time")
    assert found.time.values.tolist() == ladder.steps.tolist()
    never, late, early = (found.score.sel(window=w).values for w in ("never", "late", "early"))
    assert (late[:, :5] == never[:, :5]).all()  # steps 0 to 8
    assert (late[:, 5] != never[:, 5]).all()
    assert (early[:, :2] == never[:, :2]).all()
    assert (early[:, 2:] != never[:, 2:]).all()
    assert not (never[0] == never[1]).any()
    again = intervene(settings, tmp_path, choices, seeds=[0, 1], data=load_data(folder))
    assert again.identical(found)
    with pytest.raises(ValueError, match="another window"):
        intervene(settings, tmp_path, {"late": Window(7, 12)}, seeds=[0], data=load_data(folder))


def test_shift_is_the_change_of_the_crossing(tiny, tmp_path):
    settings, folder, _ = tiny
    found = intervene(
        settings, tmp_path, {"all": Window(0, 12)}, seeds=[0], threshold=0.0, data=load_data(folder)
    )
    assert (found.crossing == 0).all()
    assert (found["shift"] == 0).all()
