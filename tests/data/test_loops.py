"""The built-in loops: whole beats, the same each time, and nothing is cut off where a window ends."""

import numpy as np
import pytest

from diffwave_sde.data import loops
from diffwave_sde.data.module import AudioDataModule

RATE, LENGTH = 8_000, 16_000


def test_a_window_holds_a_whole_number_of_beats_whose_tempo_is_its_class():
    assert loops.beats(2.0) == (3, 4, 5)
    assert [loops.label(i, 2.0) for i in range(4)] == ["90 bpm", "120 bpm", "150 bpm", "90 bpm"]
    assert loops.beats(4.0) == (6, 7, 8, 9, 10)
    with pytest.raises(ValueError, match=r"a loop of 0\.2 s holds no whole number of beats"):
        loops.beats(0.2)


def test_a_loop_is_a_pure_function_that_goes_on_at_its_beginning():
    (a, told), (b, _), (c, _) = (loops.render(i, 1, RATE, LENGTH) for i in (5, 5, 6))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert (told["beats"], told["bpm"], np.abs(a).max()) == (5, 150, pytest.approx(0.9))
    # The end meets the beginning as any two neighbours meet, over many loops.
    every = np.stack([loops.render(i, 1, RATE, LENGTH)[0] for i in range(30)])
    step = np.abs(np.diff(every, axis=1, append=every[:, :1]))
    assert np.median(step[:, -1]) < 3 * np.median(step)
    # Strokes lie on sixteenths, the first of which begins the window.
    power = np.square(a).reshape(20, -1)
    quarter = power.shape[1] // 4
    assert power[:, :quarter].sum() > 1.3 * power[:, -quarter:].sum()


def test_they_are_a_data_set_with_a_rate_of_its_own(tmp_path):
    options = {"root": str(tmp_path), "count": 12, "workers": 0, "mu": 0}
    data = AudioDataModule("loops", length=LENGTH, rate=RATE, **options)
    data.prepare_data()
    assert (data.rate, data.labels, len(data.store)) == (RATE, ("120 bpm", "150 bpm", "90 bpm"), 12)
    assert not data.store.paired
    with pytest.raises(ValueError, match=r"loops alone have a rate of their own; drums-12 has 44100 Hz"):
        AudioDataModule("drums", length=LENGTH, rate=RATE, **options).prepare_data()
    with pytest.raises(ValueError, match="at least 8000"):
        AudioDataModule("loops", length=LENGTH, rate=4_000, **options).prepare_data()
