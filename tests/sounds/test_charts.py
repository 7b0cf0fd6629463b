import itertools
import math
import re

import pytest

from diffwave_sde.sounds.charts import BOTTOM, HEIGHT, LEFT, POINTS, RIGHT, TOP, WIDTH, Line, chart


def polylines(html):
    found = re.findall(r'<polyline class="(c\d)" points="([^"]+)">', html)
    return [(name, [tuple(map(float, p.split(","))) for p in points.split()]) for name, points in found]


def test_a_power_law_is_a_straight_line_on_logarithmic_axes():
    x = [10.0**k for k in range(5)]
    html = chart("law", [Line("y = x^2", x, [v**2 for v in x])], "x", log_x=True, log_y=True)
    ((_, points),) = polylines(html)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    assert slopes == pytest.approx([slopes[0]] * 4, abs=5e-3)
    assert slopes[0] < 0  # up is where y of SVG falls
    assert points[0][0] == pytest.approx(LEFT)
    assert points[-1][0] == pytest.approx(WIDTH - RIGHT)
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in points)


def test_what_is_not_finite_is_a_gap_and_what_is_alone_a_dot():
    html = chart("gap", [Line("a", range(5), [1.0, 2.0, math.nan, 3.0, math.inf])], "step")
    assert [len(points) for _, points in polylines(html)] == [2]
    assert html.count("<circle") == 1
    assert "a <b>3</b>" in html  # the last that is finite


def test_a_long_line_is_averaged_and_keeps_its_mean():
    y = [float(k % 2) for k in range(10 * POINTS)]
    ((_, points),) = polylines(chart("long", [Line("a", range(len(y)), y)], "step"))
    assert len(points) == POINTS
    assert len({p[1] for p in points}) == 1  # every stretch has the mean 0.5


def test_marks_lie_where_the_axis_says_and_nothing_at_all_draws_nothing():
    html = chart("marks", [Line("a", [0, 100], [1.0, 2.0])], "step", marks=[50, 500], marked="spikes")
    (at,) = re.findall(r'class="mark" x1="([\d.]+)"', html)
    assert float(at) == pytest.approx((LEFT + WIDTH - RIGHT) / 2)
    assert "spikes <b>1</b>" in html
    assert chart("none", [Line("a", [1], [math.nan])], "step") == ""
    assert chart("none", [Line("a", [1], [-1.0])], "step", log_y=True) == ""


def test_names_are_text_not_markup():
    assert "<b>x" not in chart("<b>x", [Line("<b>x", [0, 1], [0.0, 1.0])], "<b>x")
