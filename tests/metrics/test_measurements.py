"""Each measurement is held against a sound whose value is known, and all of them against what drums are like."""

import math

import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import MEASUREMENTS, difference, measure
from diffwave_sde.metrics.measurements import OCTAVES

ALWAYS = {"peak", "dc", "clipping", "floor_tail"}  # have a meaning in silence too
BANDS = [name for name in MEASUREMENTS if name.startswith("octave_")]


def of(name, sound):
    return float(MEASUREMENTS[name].of(sound[None]))


def seconds(length=audio.LENGTH):
    return torch.arange(length, dtype=torch.float64) / audio.RATE


def sine(hertz, length=audio.LENGTH):
    return (2 * math.pi * hertz * seconds(length)).sin()


def noise(length, rms=1.0, seed=0):
    """Noise of no mean, whose rms is exactly this."""
    x = torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean()
    return rms * x / x.square().mean().sqrt()


def after(silence, sound):
    return torch.nn.functional.pad(sound, (silence, 0))


# ------------------------------------------------------------------------------------------------- levels


def test_levels_are_in_decibels_of_full_scale():
    x = 0.5 * sine(440, 4410)
    assert of("peak", x) == pytest.approx(-6.02, abs=0.01)
    assert of("floor_tail", x) == pytest.approx(-9.03, abs=0.1)


@pytest.mark.parametrize("dc", [0.01, -0.1, 1e-5])
def test_dc_is_the_mean_whatever_the_sound(dc):
    assert of("dc", 0.3 * sine(440, 4410) + dc) == pytest.approx(20 * math.log10(abs(dc)), abs=1e-3)
    assert of("dc", noise(5000, 0.1) + dc) == pytest.approx(20 * math.log10(abs(dc)), abs=1e-3)


def test_clipped_runs_are_counted_and_lone_peaks_are_not():
    x = 0.5 * sine(440, 1000)
    assert of("clipping", x) == 0
    x[100] = 1.0  # alone
    x[200:202] = 0.9985  # below
    assert of("clipping", x) == 0
    x[300:302], x[400:405], x[998:] = 1.0, -0.9995, 1.2
    assert of("clipping", x) == 2 + 5 + 2
    x[0] = x[500] = x[502] = -1.0
    assert of("clipping", x) == 9


@pytest.mark.parametrize("rms", [1e-2, 1e-4])
def test_the_floor_of_the_tail_is_that_of_its_last_20_ms(rms):
    x = torch.cat((0.9 * sine(200, 5000), noise(882, rms)))
    assert of("floor_tail", x) == pytest.approx(20 * math.log10(rms), abs=1e-3)
    assert of("floor_tail", noise(300, rms)) == pytest.approx(20 * math.log10(rms), abs=1e-3)


@pytest.mark.parametrize("rms", [1e-3, 1e-5])
def test_the_floor_before_the_onset_leaves_the_foot_of_the_attack_out(rms):
    foot = torch.full((11,), 0.05)
    x = torch.cat((noise(389, rms), foot, 0.8 * torch.ones(100), 0.8 * sine(200, 9000)))
    assert of("floor_before", x) == pytest.approx(20 * math.log10(rms), abs=1e-3)


def test_the_floor_before_needs_eight_samples():
    hit = 0.8 * (-seconds(4000) / 0.02).exp()
    assert math.isnan(of("floor_before", after(18, hit)))
    assert of("floor_before", after(19, hit)) == -120
    assert math.isnan(of("floor_before", hit))


# ---------------------------------------------------------------------------------------------- the bands


@pytest.mark.parametrize("k", range(9))
def test_energy_is_found_in_its_octave(k):
    length = 36_000  # of small factors, so that whole periods are seen as such and nothing leaks
    here, there = (round(OCTAVES[i] * length / audio.RATE) * audio.RATE / length for i in (k, k - 1))
    x = 0.6 * sine(here, length) + 0.3 * sine(there, length)  # a quarter of the energy in another octave
    levels = {name: of(name, x) for name in BANDS}
    assert levels.pop(BANDS[k]) == pytest.approx(10 * math.log10(0.8), abs=0.02)
    assert levels.pop(BANDS[k - 1]) == pytest.approx(10 * math.log10(0.2), abs=0.02)
    assert max(levels.values()) < -60


@pytest.mark.parametrize("edge", [88.4, 1414.2, 11313.7])
def test_octaves_meet_at_their_edges(edge):
    k = round(math.log2(edge / 62.5 / 2**0.5))
    x = torch.hann_window(audio.LENGTH, dtype=torch.float64)
    below, above = (x * sine(edge + side) for side in (-8, 8))
    assert of(BANDS[k], below) > -0.05 > -20 > of(BANDS[k], above)
    assert of(BANDS[k + 1], above) > -0.05 > -20 > of(BANDS[k + 1], below)


@pytest.mark.parametrize("length", [audio.LENGTH, 20_011, 500])
def test_white_noise_fills_octaves_by_their_width(length):
    x = torch.stack([noise(length, 0.1, seed) for seed in range(20)])
    for name, centre in list(zip(BANDS, OCTAVES, strict=True))[4:]:
        width = min(centre * 2**0.5, audio.RATE / 2) - centre / 2**0.5
        power = (10 ** (MEASUREMENTS[name].of(x) / 10)).mean()
        assert 10 * math.log10(power) == pytest.approx(10 * math.log10(2 * width / audio.RATE), abs=0.7)


def test_the_whole_holds_what_lies_below_the_octaves():
    x = 0.5 * sine(round(250 * 36_000 / audio.RATE) * audio.RATE / 36_000, 36_000)
    assert of("octave_250", x + 0.5) == pytest.approx(10 * math.log10(1 / 3), abs=0.01)


def test_silence_after_a_sound_leaves_its_octaves():
    short = noise(500, 0.1) * torch.hann_window(500)
    long = torch.cat((short, torch.zeros(audio.LENGTH - 500)))
    for name in BANDS:
        assert of(name, short) == pytest.approx(of(name, long), abs=0.7)


def test_a_level_does_not_move_what_is_relative():
    x = after(44, sine(150) * (-seconds() / 0.05).exp()) + noise(audio.LENGTH + 44, 1e-4)
    loud, quiet = measure(x[None]), measure(0.01 * x[None])
    for name in MEASUREMENTS.keys() - {"peak", "dc", "floor_tail", "floor_before"}:
        torch.testing.assert_close(loud[name], quiet[name], rtol=1e-4, atol=1e-4)
    for name in ("peak", "floor_tail"):
        assert float(loud[name] - quiet[name]) == pytest.approx(40, abs=0.01)


# ---------------------------------------------------------------------------------------- time and pitch


@pytest.mark.parametrize("hertz", [30, 55, 180, 440.0])
@pytest.mark.parametrize("constant", [0.03, 0.1])
@pytest.mark.parametrize("start", [0, 44, 3000])
def test_a_decaying_sine_has_its_pitch_decay_and_octave(hertz, constant, start):
    x = after(start, 0.9 * sine(hertz) * (-seconds() / constant).exp())
    assert of("pitch", x) == pytest.approx(hertz, rel=0.001)
    # 30 dB are ln(10^1.5) constants; a low sine's own swing shows through 5 ms, by at most a period in all
    truth = 1e3 * constant * math.log(10**1.5)
    assert of("decay", x) == pytest.approx(truth, abs=3 + 500 / hertz)
    levels = [of(name, x) for name in BANDS]
    if hertz > 44:
        assert abs(math.log2(hertz / OCTAVES[levels.index(max(levels))])) <= 0.5


@pytest.mark.parametrize("constant", [0.01, 0.04, 0.12])
def test_decay_is_exact_where_nothing_swings(constant):
    sign = torch.ones(audio.LENGTH, dtype=torch.float64)
    sign[1::2] = -1
    x = after(44, sign * (-seconds() / constant).exp())
    assert of("decay", x) == pytest.approx(1e3 * constant * math.log(10**1.5), abs=0.1)


def test_decay_ends_where_the_sound_is_cut():
    for length in (2000, 8000):
        x = noise(length, 0.2)
        gated = torch.cat((x, torch.zeros(4000)))
        start = 1e3 * length / audio.RATE
        assert of("decay", x * torch.linspace(1, 0.9, length)) <= start
        assert of("decay", gated * torch.linspace(1, 0.5, len(gated))) == pytest.approx(start, abs=12)


def test_decay_waits_for_the_last_echo():
    x = torch.zeros(10_000)
    x[100], x[4510] = 1.0, 0.04  # 28 dB below, 100 ms later
    assert of("decay", x) == pytest.approx(100, abs=5.1)
    x[4510] = 0.025  # 32 dB below
    assert of("decay", x) < 5.1


@pytest.mark.parametrize(("below", "truth"), [(29.85, 10_500), (30.15, 10_000)])
def test_decay_is_exact_after_a_long_loud_sound(below, truth):
    x = torch.cat((torch.linspace(0.52, 0.5, 441_000), torch.full((22_050,), 0.52 * 10 ** (-below / 20))))
    assert of("decay", x) == pytest.approx(truth, abs=6)


@pytest.mark.parametrize("rise", [5, 20, 60])
@pytest.mark.parametrize("start", [0, 44, 2000])
def test_the_attack_of_a_ramp_is_where_it_comes_within_3_db(rise, start):
    ramp = (seconds() * 1e3 / rise).clamp_max(1) * sine(3000)
    assert of("attack", after(start, 0.9 * ramp)) == pytest.approx(rise / 2**0.5, abs=0.06 * rise + 0.3)


def test_a_step_has_no_attack():
    for start in (0, 44, 2000):
        assert of("attack", after(start, 0.9 * (2 * math.pi * 3000 * seconds()).cos())) < 0.1
        assert of("attack", after(start, noise(9000, 0.1) * (-seconds(9000) / 0.05).exp())) < 2


def test_the_attack_ends_at_a_burst_of_a_millisecond():
    x = torch.full((4000,), 0.5)
    x[:44] = 0
    x[485:538] = 1.0  # 10 ms after the onset
    x[1::2] *= -1
    assert of("attack", x) == pytest.approx(10, abs=0.5)


def test_dc_moves_neither_the_onset_nor_the_pitch():
    x = after(2000, 0.5 * sine(80) * (-seconds() / 0.05).exp())
    for name in ("attack", "pitch"):
        assert of(name, x + 0.1) == pytest.approx(of(name, x), rel=0.02, abs=0.3)
    assert of("floor_before", x + 0.1) == pytest.approx(-20, abs=0.1)


@pytest.mark.parametrize("hertz", [50, 120, 240])
def test_overtones_leave_the_pitch_where_it_is(hertz):
    x = sum(sine(hertz * k) / k for k in range(1, 30)) * (-seconds() / 0.06).exp()
    assert of("pitch", 0.4 * x) == pytest.approx(hertz, rel=0.01)


def test_an_octave_of_twice_the_energy_is_not_the_pitch():
    x = sine(90) + 2**0.5 * sine(180)
    assert of("pitch", 0.3 * x) == pytest.approx(90, rel=0.01)


def test_a_pitch_needs_two_periods_of_the_body():
    def gated(milliseconds):
        x = sine(40)
        x[round(audio.RATE * milliseconds / 1e3) :] = 0
        return after(44, x)

    assert of("pitch", gated(100)) == pytest.approx(40, rel=0.01)
    assert math.isnan(of("pitch", gated(55)))  # its body is 40 ms long


@pytest.mark.parametrize("hertz", [60, 200, 400])
def test_a_pitch_is_heard_through_noise_down_to_half_of_the_energy(hertz):
    tone = 2**0.5 * sine(hertz)  # rms 1
    for seed in range(5):
        hiss = noise(audio.LENGTH, 1.0, seed)
        assert of("pitch", 0.2 * (0.7**0.5 * tone + 0.3**0.5 * hiss)) == pytest.approx(hertz, rel=0.02)
        assert math.isnan(of("pitch", 0.2 * (0.3**0.5 * tone + 0.7**0.5 * hiss)))


@pytest.mark.parametrize("hertz", [10, 22, 520, 1000, 7000])
def test_what_lies_outside_the_range_has_no_pitch(hertz):
    assert math.isnan(of("pitch", 0.5 * sine(hertz)))


def test_the_pitch_is_the_body_s_not_the_click_s():
    body = sine(80) * (-seconds() / 0.08).exp()
    click = sine(400) * (-seconds() / 0.002).exp()
    assert of("pitch", after(44, 0.3 * body + 0.6 * click)) == pytest.approx(80, rel=0.01)


# ------------------------------------------------------------------------------------------ what is odd


@pytest.mark.parametrize("length", [1, 50, 3000, audio.LENGTH])
def test_silence_has_levels_and_nothing_else(length):
    found = measure(torch.zeros(2, length))
    for name, value in found.items():
        assert value.isnan().all() == (name not in ALWAYS), name
    assert found["clipping"].tolist() == [0, 0]
    assert all(found[name].tolist() == [-120, -120] for name in ALWAYS - {"clipping"})


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 20, 45, 100, 661, 663, 850, 1100, 2500])
def test_a_sound_of_any_length_is_measured(length):
    sounds = torch.stack([noise(length, 0.1) if length > 1 else torch.ones(1).double(), torch.full((length,), 0.5)])
    found = measure(sounds)
    assert set(found) == set(MEASUREMENTS)
    for name, value in found.items():
        assert value.shape == (2,)
        assert value.dtype == torch.float32
        assert value.isfinite().all() or name in ("floor_before", "pitch")


def test_no_sounds_are_no_numbers():
    assert all(value.shape == (0,) for value in measure(torch.zeros(0, 100)).values())


def test_a_broken_sound_is_nan_and_leaves_the_others_alone():
    x = torch.stack([noise(3000, 0.1, seed) for seed in range(4)])
    whole = measure(x)
    x[1, 50], x[2, 100] = math.nan, math.inf
    for name, value in measure(x).items():
        assert value[1:3].isnan().all()
        torch.testing.assert_close(value[[0, 3]], whole[name][[0, 3]], equal_nan=True)


@pytest.mark.parametrize("shape", [(10,), (1, 1, 10), (2, 0)])
def test_what_is_no_set_of_sounds_is_refused(shape):
    with pytest.raises(ValueError, match="T >= 1"):
        measure(torch.zeros(shape))
    with pytest.raises(ValueError, match="T >= 1"):
        MEASUREMENTS["peak"].of(torch.zeros(shape))


@pytest.fixture(scope="module")
def drums():
    """Built-in drums, (60, T), and their classes."""
    clips = [Rendered("drums", i, 5).load(audio.LENGTH) for i in range(60)]
    return torch.stack([torch.from_numpy(c.window).float() / 32768 for c in clips]), [c.label for c in clips]


def test_a_sound_measures_the_same_in_any_batch_and_alone(drums):
    sounds = torch.cat((drums[0][:5, :9000], torch.zeros(62, 9000), drums[0][5:8, :9000]))
    together = measure(sounds)
    for i in (0, 3, 66, 69):
        for name, value in together.items():
            alone = MEASUREMENTS[name].of(sounds[i : i + 1])
            torch.testing.assert_close(value[i : i + 1], alone, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_drums_measure_as_drums_do(drums):
    sounds, labels = drums
    found = measure(sounds)

    def values(name, kind):
        return found[name][[label == kind for label in labels]]

    def median(name, kind):
        return float(values(name, kind).nanmedian())

    assert torch.allclose(found["peak"], torch.tensor(20 * math.log10(audio.PEAK)), atol=0.01)
    assert not found["clipping"].any()
    assert float(found["dc"].max()) < -60
    assert 35 < median("pitch", "kick") < 90 < 140 < median("pitch", "snare") < 300
    silent = {kind: float(values("pitch", kind).isnan().double().mean()) for kind in ("kick", "snare", "cymbal")}
    assert silent["cymbal"] > 0.6 > 0.3 > max(silent["kick"], silent["snare"])
    loudest = {
        kind: max(range(len(BANDS)), key=lambda k: median(BANDS[k], kind)) for kind in ("kick", "snare", "cymbal")
    }
    assert loudest["kick"] == 0 < loudest["snare"] == 2 < loudest["cymbal"]
    assert median("octave_8000", "cymbal") > median("octave_8000", "snare") + 3 > median("octave_8000", "kick") + 20
    assert median("attack", "snare") < 2 < median("attack", "kick") < 8
    assert median("decay", "snare") < median("decay", "cymbal")
    assert difference(values("octave_63", "kick"), values("octave_63", "cymbal")) == 1


# -------------------------------------------------------------------------------------------- difference


def test_the_difference_is_that_of_the_distribution_functions():
    a, b = torch.tensor([4.0, 1.0, math.nan, 2.0, 3.0]), torch.tensor([2.5, math.nan, 3.5])
    # at 2 they are 1/2 and 0, at 2.5 1/2 and 1/2, at 3 3/4 and 1/2, at 3.5 3/4 and 1
    assert difference(a, b) == difference(b, a) == 0.5
    assert difference(a, torch.tensor([2.0, 3.0])) == 0.25
    assert difference(a, a) == 0
    assert difference(a, a + 10) == 1


def test_the_difference_from_nothing_is_nan():
    a, none = torch.tensor([1.0, 2.0]), torch.tensor([math.nan])
    assert math.isnan(difference(a, none))
    assert math.isnan(difference(none, a))
    assert math.isnan(difference(a, a[:0]))
