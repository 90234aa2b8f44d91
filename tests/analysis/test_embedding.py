from functools import cache

import numpy as np
import pytest
from sklearn.manifold import ClassicalMDS

import dlnflow as dln
from dlnflow.analysis.embedding import branching_times, embedding


@cache
def trained(optimizer="gd", recorded=160):
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3, optimizer=optimizer)
    return run.train(np.unique(np.linspace(0, run.n_steps, recorded).astype(int)))


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_all_components_keep_all_distances():
    trajectory = trained(recorded=12)
    width = trajectory.hidden.shape[1]
    points = np.swapaxes(trajectory.hidden, 1, 2).reshape(-1, width)
    picture = embedding(trajectory, width).values.reshape(-1, width)
    np.testing.assert_allclose(distances(picture), distances(points), atol=1e-7)


@pytest.mark.parametrize("common_drift", [True, False])
def test_is_classical_scaling(common_drift):
    trajectory = trained(recorded=12)
    points = np.swapaxes(trajectory.hidden, 1, 2)
    if not common_drift:
        points = points - points.mean(axis=1, keepdims=True)
    reference = ClassicalMDS(2).fit_transform(points.reshape(-1, points.shape[-1]))
    picture = embedding(trajectory, 2, common_drift=common_drift).values.reshape(-1, 2)
    # Signs and rotations are free; the distances in the picture are not.
    np.testing.assert_allclose(distances(picture), distances(reference), atol=1e-7)


def test_labels_and_order():
    picture = embedding(trained(), 3)
    assert picture.dims == ("time", "item", "component")
    assert picture["item"].values.tolist() == list(dln.semantic_hierarchy().items)
    assert np.all(np.diff(picture["explained"]) <= 0)
    assert picture["flow_time"].dims == ("time",)


@pytest.mark.parametrize("optimizer", ["gd", "flow"])
def test_items_branch_at_the_half_time_of_the_mode_that_separates_them(optimizer):
    """Half-times come from the mode strengths of the same run, found by plain interpolation."""
    trajectory = trained(optimizer)
    task = trajectory.run.task
    flow_time = trajectory.run.flow_time(trajectory.steps)
    strengths, s = trajectory.mode_strengths, task.modes.s
    half = {
        level: np.mean([np.interp(s[k] / 2, strengths[:, k], flow_time) for k in modes])
        for level, modes in [("far", [1]), ("cousin", [2, 3]), ("sibling", [4, 5, 6, 7])]
    }
    table = branching_times(trajectory).set_index(["item", "other"])["flow_time"]
    assert table["dog", "cat"] == pytest.approx(half["sibling"], rel=0.06)
    assert table["dog", "sparrow"] == pytest.approx(half["cousin"], rel=0.06)
    assert table["dog", "pine"] == pytest.approx(half["far"], rel=0.06)
    assert len(table) == 28 and table.notna().all()


def test_branching_time_is_exact_in_aligned_modes():
    """Siblings of an aligned start differ in one mode only: exactly its half-time."""
    trajectory = trained("flow", 400)
    run = trajectory.run
    modes = run.task.modes
    a0 = 1e-5
    t = run.flow_time(trajectory.steps)
    s, v = modes.s, modes.v
    a = s / (1 + (s / a0 - 1) * np.exp(-2 * np.outer(t, s)))

    class Aligned:
        steps = trajectory.steps
        hidden = np.sqrt(a)[:, :, None] * v.T

    Aligned.run = run
    table = branching_times(Aligned).set_index(["item", "other"])["flow_time"]
    half = np.log(s / a0 - 1) / (2 * s)
    assert table["dog", "cat"] == pytest.approx(half[-1], abs=1e-3)
    assert table["dog", "sparrow"] == pytest.approx(half[2], abs=0.01)
    assert table["dog", "pine"] == pytest.approx(half[1], abs=0.02)


def test_onset_is_where_a_tenth_of_the_squared_distance_is_passed():
    """For a sigmoid a = s/10 at ln(9)/(2 s) before the half-time."""
    trajectory = trained("flow", 400)
    table = branching_times(trajectory).set_index(["item", "other"]).loc[("dog", "cat")]
    lead = table["flow_time"] - table["onset_flow_time"]
    assert lead == pytest.approx(np.log(9) / 2, abs=0.06)
    run = trajectory.run
    assert run.flow_time(table["onset_step"]) == pytest.approx(table["onset_flow_time"])


def stress(picture, points):
    return np.sum((distances(picture) - distances(points)) ** 2)


def test_stress_scaling_shows_what_classical_scaling_folds_together():
    trajectory = trained(recorded=25)
    points = np.swapaxes(trajectory.hidden, 1, 2).reshape(-1, trajectory.hidden.shape[1])
    classical, bent = (
        embedding(trajectory, 2, scaling=scaling) for scaling in ("classical", "stress")
    )
    flat = [picture.values.reshape(-1, 2) for picture in (classical, bent)]
    assert stress(flat[1], points) < 0.6 * stress(flat[0], points)
    ends = [distances(picture.values[-1]) for picture in (classical, bent)]
    assert ends[0][0, 1] < 0.1 and ends[1][0, 1] > 0.3  # dog and cat
    np.testing.assert_array_equal(bent, embedding(trajectory, 2, scaling="stress"))


def test_twins_never_branch():
    task = dln.Task([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], items=["a", "twin", "b"])
    run = dln.Run(task, init_std=1e-3, hidden=4, optimizer="flow")
    trajectory = run.train(np.linspace(0, run.n_steps, 60).astype(int))
    trajectory.hidden[:, :, 1] = trajectory.hidden[:, :, 0]  # the start differs by noise only
    table = branching_times(trajectory)
    assert table["flow_time"].isna().tolist() == [True, False, False]


def test_refusals():
    with pytest.raises(ValueError, match="at least 4"):
        branching_times(trained(recorded=3))
    with pytest.raises(ValueError, match="n_components"):
        embedding(trained(recorded=3), 1000)
    with pytest.raises(ValueError, match="scaling"):
        embedding(trained(recorded=3), scaling="torgerson")
    with pytest.raises(ValueError, match="3000 points"):
        embedding(trained(recorded=400), scaling="stress")
