"""Rhythm and seams, measured on the built-in loops themselves and on what is none."""

import numpy as np
import pytest

from diffwave_sde.data import loops
from diffwave_sde.metrics.rhythm import grid, rhythm, seam

RATE, LENGTH = 11_025, 22_050


@pytest.fixture(scope="module")
def data():
    made = [loops.render(i, 3, RATE, LENGTH) for i in range(24)]
    return [x for x, _ in made], [told["beats"] for _, told in made]


def test_loops_lie_on_the_grid_of_their_own_tempo_and_on_no_other(data):
    own, other = rhythm(*(data[0], RATE, data[1]))
    assert own > 0.7
    assert other < 0.45
    assert grid(np.zeros(LENGTH), RATE, 4) != grid(np.zeros(LENGTH), RATE, 4)  # NaN: there is nothing to measure


def test_it_does_not_matter_where_a_loop_is_cut_open(data):
    x, beats = data[0][1], data[1][1]
    assert grid(np.roll(x, 7_777), RATE, beats) == pytest.approx(grid(x, RATE, beats), abs=0.15)


def test_a_seam_is_seen(data):
    whole = np.median([seam(x) for x in data[0]])
    torn = np.median([seam(x[: round(0.73 * LENGTH)]) for x in data[0]])
    assert whole < 1
    assert torn > 2 * whole
