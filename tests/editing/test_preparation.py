"""A file as the model sees it, and the way back: what was not changed comes back bit for bit."""

import math

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.editing.preparation import envelope, parse_regions, prepare

LENGTH = 21_000


def knock(seconds: float, rate: int, onset: float = 0.05, level: float = 0.3, dc: float = 0.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    body = np.where(t >= onset, np.sin(2 * np.pi * 180 * (t - onset)) * np.exp(-12 * np.maximum(t - onset, 0)), 0)
    return (level * body + dc).astype(np.float32)


FILES = {
    "plain": (knock(0.4, 44_100), 44_100),
    "48 kHz": (knock(0.4, 48_000), 48_000),
    "11 kHz": (knock(0.4, 11_025), 11_025),
    "stereo": (np.stack((knock(0.4, 44_100), 0.5 * knock(0.4, 44_100)), 1), 44_100),
    "offset": (knock(0.6, 44_100, dc=0.02), 44_100),
    "long": (knock(1.5, 44_100, onset=0.4), 44_100),
    "silence": (np.zeros(9000, np.float32), 44_100),
    "one sample": (np.full(1, 0.5, np.float32), 44_100),
}


@pytest.fixture(params=FILES)
def sound(request, tmp_path):
    samples, rate = FILES[request.param]
    file = tmp_path / "a.wav"
    soundfile.write(file, samples, rate, subtype="FLOAT")
    return prepare(file, LENGTH)


def test_what_was_not_changed_comes_back_bit_for_bit(sound):
    assert sound.cut.window.shape == (LENGTH,)
    assert torch.equal(sound.give_back(sound.cut.window.clone()), sound.original)


def test_only_the_regions_change_and_the_rest_is_the_file_bit_for_bit(sound):
    if sound.seconds < 0.2:
        return
    regions = [(0.1, 0.15)] if sound.cut.start < 10_000 else [(0.5, 0.55)]
    window = sound.cut.window + 0.1
    back = sound.give_back(window, regions)
    begin, end = (math.ceil(s * sound.rate) for s in regions[0])
    assert torch.equal(back[:begin], sound.original[:begin])
    assert torch.equal(back[end:], sound.original[end:])
    middle = slice(begin + round(0.01 * sound.rate), end - round(0.01 * sound.rate))
    torch.testing.assert_close(
        back[middle] - sound.original[middle],
        torch.full((middle.stop - middle.start,), 0.1 / sound.cut.gain),
        rtol=0.02,
        atol=0,
    )


@pytest.mark.parametrize("name", ["plain", "48 kHz", "offset", "long"])
def test_a_change_of_the_window_is_heard_at_its_own_place_and_level_in_the_file(name, tmp_path):
    samples, rate = FILES[name]
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    sound = prepare(tmp_path / "a.wav", LENGTH)
    at = torch.arange(LENGTH, dtype=torch.float64)
    pulse = 0.4 * torch.exp(-(((at - 5000) / 40) ** 2)).float()
    change = sound.give_back(sound.cut.window + pulse) - sound.original
    # Its centre of mass, to a twentieth of a sample.
    t = torch.arange(len(change)) / sound.rate
    centre = float((t * change).sum() / change.sum())
    assert centre == pytest.approx((sound.cut.start + 5000) / 44_100, abs=0.05 / 44_100)
    assert float(change.max()) == pytest.approx(0.4 / sound.cut.gain, rel=1e-3)


def test_a_change_ends_where_the_file_does():
    sound = FILES["plain"][0]
    from diffwave_sde.editing.preparation import prepared

    made = prepared(torch.from_numpy(sound), 44_100, LENGTH)
    back = made.give_back(made.cut.window + 0.2)
    assert len(back) == len(sound)
    change = (back - made.original).abs()
    assert float(change[-1]) < 1e-3
    assert float(change[-2 * audio.DECLICK]) > 0.01


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("0.10-0.25", [(0.1, 0.25)]),
        ("0.1 - 0.2, 0.3-end", [(0.1, 0.2), (0.3, 0.4)]),
        ("0-end", [(0.0, 0.4)]),
    ],
)
def test_parts_are_typed_in_seconds(text, regions):
    assert parse_regions(text, 0.4) == regions


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing: give seconds, BEGIN-END"),
        ("0.1", "0.1: give seconds"),
        ("a-b", "a-b: give seconds"),
        ("0.1-nan", "0.1-nan: give seconds"),
        ("0.2-0.1", "0.2-0.1: ends before it begins"),
        ("0.1-0.1", "0.1-0.1: ends before it begins"),
        ("0.1-0.5", "0.1-0.5: lies beyond the file, which ends at 0.400 s"),
        ("0.5-end", "0.5-end: ends before it begins; the file ends at 0.400 s"),
    ],
)
def test_parts_that_are_none_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_regions(text, 0.4)


def test_a_change_comes_in_and_goes_out_within_its_region():
    e = envelope([(0.1, 0.2), (0.3, 0.4)], 17_640, 44_100)
    assert float(e[:4410].abs().max()) == 0
    assert float(e[8820:13_230].abs().max()) < 1e-6
    assert float(e.diff().abs().max()) < 0.03
    assert float(e[6000]) == 1
    assert float(e[-1]) == 1  # nothing is faded where the file ends
