"""Heat maps, time axes and names on one axis."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from dlnflow.plots import panels


@pytest.mark.parametrize("log", [False, True])
def test_heat_maps_show_the_nearest_sample(log):
    time = np.array([0.0, 0.1, 0.3, 1.0, 10.0])
    values = np.arange(15.0).reshape(3, 5)
    figure = Figure()
    axis = figure.subplots()
    image = panels.draw_heat(axis, time, values, log=log)
    shown, (left, right) = np.asarray(image.get_array()), axis.get_xlim()
    assert (left, right) == (0.1 if log else 0.0, 10.0) and axis.get_ylim() == (3, 0)
    for place in (0.004, 0.3, 0.77, 0.996):  # of the axis, by matplotlib's own transform
        x, y = axis.transAxes.transform((place, 0.5))
        at = axis.transData.inverted().transform((x, y))[0]
        column = shown[:, int(place * shown.shape[1])]
        np.testing.assert_array_equal(column, values[:, np.abs(time - at).argmin()])
    bottom, top = image.get_extent()[2:]
    assert image.origin == "upper" and top > bottom  # the first row is on top
    assert image.get_clim() == (-14, 14)


def test_heat_maps_thin_what_has_no_pixel_of_its_own():
    axis = Figure().subplots()
    values = np.arange(5 * panels.MAX_ROWS + 7.0)[:, None] * np.ones(4)
    image = panels.draw_heat(axis, np.arange(4.0), values)
    np.testing.assert_array_equal(np.asarray(image.get_array())[:, 0], values[::6, 0])
    assert axis.get_ylim() == (len(values), 0)
    assert image.get_clim() == (-values.max(), values.max())


def test_log_axes_say_so_and_write_plain_numbers():
    axis = Figure().subplots()
    panels.scale_time(axis, np.array([0.0, 0.05, 20.0]), log=True)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert {"0.1", "0.3", "1", "3", "10"} <= set(labels)
    assert axis.get_xlim() == (0.05, 20.0)
    assert "log" in panels.time_label("flow_time", True)
    assert panels.time_label("time", False) == panels.TIME_LABELS["time"]


def test_names_are_shown_letter_by_letter_and_cut_in_the_middle():
    assert panels.plain("a\nb\t c") == "a b c"
    assert panels.plain("$x^2$") == r"\$x^2\$"
    assert panels.plain("item_of_class_7", 15) == "item_of_class_7"
    cut = panels.plain("item_of_class_7_number_812", 15)
    assert len(cut) == 15 and cut.startswith("item_of") and cut.endswith("ber_812")
