import numpy as np
import pytest
import torch
from signals import hit, noise

from diffwave_sde import audio


@pytest.mark.parametrize("start", [0, 1, 43, 44, 1_000, 30_000])
def test_the_onset_is_found_to_the_sample_in_silence(start):
    x = torch.cat([torch.zeros(start), hit()])
    assert audio.onset(x) == start


@pytest.mark.parametrize("level", [-80, -60, -45, -35])
def test_the_onset_is_found_above_a_noise_floor(level):
    x = torch.cat([torch.zeros(20_000), hit()])
    x = x + noise(len(x), 10 ** (level / 20))
    assert abs(audio.onset(x) - 20_000) <= 22


@pytest.mark.parametrize("gap", [0, 300, 3_000])
def test_a_pre_echo_is_not_the_onset(gap):
    before = torch.cat([noise(1_200, 0.004), torch.zeros(gap)])
    assert abs(audio.onset(torch.cat([torch.zeros(500), before, hit()])) - (1_700 + gap)) <= 22


def test_a_swell_begins_where_it_leaves_the_floor_not_where_it_is_loud():
    swell = noise(30_000, 0.3) * torch.linspace(0, 1, 30_000)
    found = audio.onset(torch.cat([torch.zeros(4_000), swell]))
    assert 4_000 <= found <= 4_000 + 600


def test_a_soft_first_hit_is_the_onset_though_a_louder_one_follows():
    x = torch.cat([torch.zeros(1_000), 0.2 * hit(6_000), hit()])
    assert audio.onset(x) == 1_000


def test_dc_moves_neither_the_onset_nor_the_window():
    x = torch.cat([torch.zeros(2_000), hit()])
    assert abs(audio.offset(x + 0.1) - 0.1) < 1e-4
    assert (audio.window(x + 0.1) - audio.window(x)).abs().max() < 1e-3


def test_an_asymmetric_sound_is_not_mistaken_for_dc():
    push = torch.exp(-torch.arange(20_000) / 1_500.0)
    assert float(push.mean()) > 0.05
    assert abs(audio.offset(push)) < 1e-3


@pytest.mark.parametrize("length", [500, 4_096, 21_000, 44_100])
@pytest.mark.parametrize("samples", [300, 15_000, 200_000])
def test_a_window_has_its_length_its_peak_and_its_onset_whatever_comes_in(length, samples):
    x = torch.cat([torch.zeros(777), hit(samples, decay=2.0)])
    y = audio.window(x, length)
    assert y.shape == (length,)
    assert y.dtype == torch.float32
    assert float(y.abs().max()) == pytest.approx(audio.PEAK, rel=1e-6)
    assert torch.equal(y[: audio.PRE_ROLL], torch.zeros(audio.PRE_ROLL))
    assert float(y[audio.PRE_ROLL].abs()) > 0.5
    assert y[-1] == 0


def test_a_long_sound_ends_in_a_fade_without_a_step():
    y = audio.window(hit(100_000, decay=5.0), 21_000)
    assert y[-1] == 0
    assert y[-200:].abs().max() < 0.03
    assert y[10_000:18_000].abs().max() > 0.5


def test_padding_is_exact_silence():
    y = audio.window(hit(5_000), 21_000)
    assert torch.equal(y[5_100:], torch.zeros(21_000 - 5_100))


@pytest.mark.parametrize(
    "x", [torch.zeros(1_000), torch.zeros(0), torch.ones(1), 1e-4 * hit(), torch.full((9_000,), 0.2)]
)
def test_silence_is_an_error(x):
    with pytest.raises(ValueError, match="silent"):
        audio.window(x)


@pytest.mark.parametrize("length", [-5, 0, audio.PRE_ROLL])
def test_a_window_without_room_is_an_error(length):
    with pytest.raises(ValueError, match="length"):
        audio.window(hit(), length)


def test_samples_of_16_bits_are_waveforms_of_full_scale_one():
    samples = np.array([[-32768, 0], [1, 32767]], np.int16)
    x = audio.from_int16(samples)
    assert x.dtype == torch.float32
    assert (x * 32768).tolist() == samples.tolist()
