import hashlib
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from diffwave_sde.data.builtin import RECIPES, VOICES, Sound, render
from diffwave_sde.data.builtin.waves import Clock, modes

RATE = 44_100
EDGES = np.array([20, 60, 120, 250, 500, 1000, 2000, 4000, 8000, 16000, 22050])


@cache
def sounds(collection: str, count: int, seed: int = 0) -> list[Sound]:
    return [render(collection, index, seed) for index in range(count)]


def both() -> list[Sound]:
    return sounds("drums", 300) + sounds("synth", 210)


def db(ratio):
    return 20 * np.log10(np.maximum(ratio, 1e-12))


def frames(wave: np.ndarray, seconds: float = 0.005) -> np.ndarray:
    """RMS of consecutive frames."""
    size = round(seconds * RATE)
    return np.sqrt((wave[: len(wave) // size * size].reshape(-1, size).astype(float) ** 2).mean(1))


def length_s(wave: np.ndarray, floor_db: float = -40.0) -> float:
    """Seconds until the sound stays below its loudest frame by `floor_db`."""
    level = frames(wave)
    return 0.005 * (1 + np.flatnonzero(level > level.max() * 10 ** (floor_db / 20))[-1])


def features(sound: Sound) -> np.ndarray:
    """Log band energies and log decay."""
    power = np.abs(np.fft.rfft(sound.samples.astype(float), RATE)) ** 2
    bands = np.add.reduceat(power, EDGES[:-1])
    return np.append(np.log(bands / bands.sum() + 1e-9), math.log(length_s(sound.samples)))


def note_hz(sound: Sound) -> float:
    return 440.0 * 2 ** ((sound.parameters["midi_note"] - 69) / 12)


# ---- a pure function


@pytest.mark.parametrize("collection", VOICES)
def test_a_sound_is_the_same_bytes_in_another_process_and_in_another_order(collection):
    indices = range(21)
    here = hashlib.sha256(b"".join(render(collection, i, 7).samples.tobytes() for i in indices)).hexdigest()
    program = (
        "import hashlib; from diffwave_sde.data.builtin import render\n"
        f"made = {{i: render({collection!r}, i, 7).samples.tobytes() for i in reversed({indices!r})}}\n"
        f"print(hashlib.sha256(b''.join(made[i] for i in {indices!r})).hexdigest())"
    )
    # other threads and other str hashes must not matter either
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "123"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == here, run.stderr


@pytest.mark.parametrize("collection", VOICES)
def test_parameters_are_the_same_at_every_rate_and_length(collection):
    for index in range(21):
        one, other = render(collection, index), render(collection, index, rate=48_000, seconds=0.2)
        assert one.parameters == other.parameters
        assert one.label == other.label
        assert other.samples.shape == (9600,)


def test_another_index_seed_or_collection_is_another_sound():
    base = render("drums", 0, 0)
    assert not np.array_equal(base.samples, render("drums", 3, 0).samples)
    assert not np.array_equal(base.samples, render("drums", 0, 1).samples)
    assert not np.array_equal(base.samples, render("synth", 0, 0).samples)


def test_indices_beyond_three_hundred_thousand_render():
    assert np.isfinite(render("drums", 300_001).samples).all()
    assert render("synth", 10**12).label in VOICES["synth"]


def test_a_longer_render_is_the_same_stroke_heard_for_longer():
    window = slice(0, round(0.2 * RATE))
    for index in range(30):
        short, long = (render("drums", index, seconds=s).samples[window] for s in (0.476, 1.0))
        assert np.corrcoef(short, long)[0, 1] > 0.99


@pytest.mark.parametrize("collection", VOICES)
def test_labels_have_equal_shares_in_every_run_of_indices(collection):
    labels, n = [sound.label for sound in sounds(collection, 210)], len(VOICES[collection])
    for start in range(210 - n):
        assert sorted(labels[start : start + n]) == sorted(VOICES[collection])


def test_drums_are_kicks_snares_and_cymbals():
    assert VOICES["drums"] == ("kick", "snare", "cymbal")


def test_an_unknown_collection_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'banjo'.*drums, synth"):
        render("banjo", 0)


@pytest.mark.parametrize("wrong", [{"index": -1}, {"seed": -1}, {"rate": 0}, {"seconds": 0.001}, {"seconds": math.nan}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"negative|need"):
        render("drums", **({"index": 0} | wrong))


# ---- laws of the wave


def test_samples_are_float32_of_the_asked_length_and_finite():
    for sound in both():
        assert sound.samples.dtype == np.float32
        assert sound.samples.shape == (22_050,)
        assert np.isfinite(sound.samples).all()


@pytest.mark.parametrize("rate", [8_000, 96_000])
@pytest.mark.parametrize("collection", VOICES)
def test_every_voice_speaks_at_other_rates(collection, rate):
    for index in range(42):
        sound = render(collection, index, rate=rate, seconds=0.1)
        assert len(sound.samples) == rate // 10
        assert db(np.abs(sound.samples).max()) == pytest.approx(sound.parameters["level_dbfs"], abs=1e-3)


def test_the_peak_is_the_drawn_level():
    for sound in both():
        assert db(np.abs(sound.samples).max()) == pytest.approx(sound.parameters["level_dbfs"], abs=1e-3)
        assert np.abs(sound.samples).max() < 0.96


def test_no_peak_is_flat():
    for sound in both():
        peak = np.abs(sound.samples).max()
        assert (np.abs(sound.samples) > 0.9999 * peak).sum() < 20


def test_there_is_no_dc_offset():
    for sound in both():
        assert abs(sound.samples.mean(dtype=float)) < 1e-3


def test_drums_begin_within_a_millisecond():
    for sound in sounds("drums", 300):
        assert np.argmax(np.abs(sound.samples) > 0.01 * np.abs(sound.samples).max()) <= 44


def test_notes_begin_within_a_millisecond():
    # at -60 dB: a pad rises slowly, but it begins at once
    for sound in sounds("synth", 210):
        assert np.argmax(np.abs(sound.samples) > 0.001 * np.abs(sound.samples).max()) <= 44


def test_nothing_begins_or_ends_with_a_click():
    for sound in both():
        assert abs(sound.samples[0]) < 0.03
        assert np.abs(sound.samples[-5:]).max() < 1e-3  # -60 dBFS
        assert sound.samples[-1] == 0


def test_the_last_frame_of_a_drum_that_has_died_is_below_80_dbfs():
    quiet = [s for s in sounds("drums", 300) if length_s(s.samples, -60.0) < 0.35]
    assert len(quiet) > 100
    for sound in quiet:
        assert db(np.abs(sound.samples[-441:]).max()) < -80


def test_drums_have_a_realistic_spread_of_lengths():
    lengths = {
        label: np.array([length_s(s.samples) for s in sounds("drums", 300) if s.label == label])
        for label in VOICES["drums"]
    }
    # many kicks and snares end well inside the window
    assert (lengths["kick"] < 0.4).mean() > 0.5
    assert (lengths["snare"] < 0.4).mean() > 0.8
    # cymbals go from a hat of 40 ms to a crash that outlasts it
    assert lengths["cymbal"].min() < 0.05
    assert (lengths["cymbal"] > 0.47).mean() > 0.25
    for values in lengths.values():
        low, high = np.percentile(values, [5, 95])
        assert high > 2.5 * low


def test_longer_decays_are_longer_sounds():
    for label in VOICES["drums"]:
        made = [s for s in sounds("drums", 300) if s.label == label]
        name = "shell_decay_s" if label == "snare" else "decay_s"
        drawn = [math.log(s.parameters[name]) for s in made]
        heard = [math.log(length_s(s.samples)) for s in made]
        assert np.corrcoef(drawn, heard)[0, 1] > 0.6


# ---- classes, variety, parameters


def test_labels_are_separable_by_bands_and_decay():
    train, held_out = sounds("drums", 300), sounds("drums", 150, seed=1)
    inputs = np.array([features(s) for s in train])
    labels = np.array([VOICES["drums"].index(s.label) for s in train])
    centre, scale = inputs.mean(0), inputs.std(0)
    # linear discriminants by least squares on one-hot targets
    design = np.column_stack([(inputs - centre) / scale, np.ones(len(inputs))])
    weights = np.linalg.lstsq(design, np.eye(3)[labels], rcond=None)[0]
    tests = np.array([features(s) for s in held_out])
    guess = (np.column_stack([(tests - centre) / scale, np.ones(len(tests))]) @ weights).argmax(1)
    truth = [VOICES["drums"].index(s.label) for s in held_out]
    assert (guess == truth).mean() >= 0.95


@pytest.mark.parametrize("collection", VOICES)
def test_no_two_sounds_are_nearly_the_same(collection):
    # band energies every 10 ms: blind to phase and to level, so a shifted copy would be caught
    pictures = []
    for sound in sounds(collection, 300):
        blocks = sound.samples[: 50 * 441].reshape(50, 441) * np.hanning(441)
        power = np.abs(np.fft.rfft(blocks / np.abs(sound.samples).max(), 882)) ** 2
        bands = np.add.reduceat(power, [1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300], axis=1)
        pictures.append(10 * np.log10(bands + 1e-7).ravel())
    pictures = np.array(pictures)
    square = (pictures**2).sum(1)
    distance = square[:, None] + square - 2 * pictures @ pictures.T
    np.fill_diagonal(distance, np.inf)
    assert np.sqrt(distance.min() / pictures.shape[1]) > 1.0  # dB, root mean square


def test_no_two_waves_are_nearly_the_same():
    waves = np.array([s.samples for s in sounds("drums", 300)], dtype=float)
    spectra = np.fft.rfft(waves / np.linalg.norm(waves, axis=1, keepdims=True), 45_000)
    worst = 0.0
    for i in range(0, 300, 3):  # each against the 40 next of its own label, at every lag
        near = spectra[i + 3 : i + 123 : 3]
        if len(near):
            worst = max(worst, np.abs(np.fft.irfft(near * spectra[i].conj(), 45_000)).max())
    assert worst < 0.995


@pytest.mark.parametrize(
    ("collection", "label"), [(collection, label) for collection in VOICES for label in VOICES[collection]]
)
def test_parameters_span_their_documented_ranges(collection, label):
    step, first = len(VOICES[collection]), VOICES[collection].index(label)
    drawn: dict[tuple[int, str], list[float]] = {}
    for k in range(60 * len(RECIPES[collection][label])):
        sound = render(collection, first + step * k, seconds=0.02)
        family = int(sound.parameters["family_index"])
        assert sound.parameters.keys() == {"family_index", *RECIPES[collection][label][family].ranges}
        for name, value in sound.parameters.items():
            if name != "family_index":
                drawn.setdefault((family, name), []).append(value)
    assert {family for family, _ in drawn} == set(range(len(RECIPES[collection][label])))
    for (family, name), values in drawn.items():
        law = RECIPES[collection][label][family].ranges[name]
        low, high, values = law.low, law.high, np.array(values)
        assert low <= values.min() <= values.max() <= high, name
        if low == high:
            continue
        if law.law == "log":
            low, high, values = math.log(low), math.log(high), np.log(values)
        share = (values - low) / (high - low)
        assert share.min() < 0.2, name
        assert share.max() > 0.8, name
        assert 0.3 < share.mean() < 0.7, name
        assert law.law != "integer" or (values == np.rint(values)).all(), name


def test_every_parameter_stands_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "sounds.md").read_text()
    for recipes in RECIPES.values():
        for label, families in recipes.items():
            for recipe in families:
                for name, law in recipe.ranges.items():
                    low, high = f"{law.low:g}", f"{law.high:g}"
                    row = f"| {label} | {recipe.family} | `{name}` | {low} to {high} | {law.law} | {law.meaning} |"
                    assert row in page, row


# ---- pitch and aliasing


def heard_cents(sound: Sound) -> float:
    """Where, within a semitone of the note, the comb of its harmonics catches most amplitude."""
    size = 1 << 19
    spectrum = np.abs(np.fft.rfft(sound.samples.astype(float) * np.hanning(len(sound.samples)), size))
    cents = np.arange(-60, 60.5, 0.5)
    hz = note_hz(sound) * 2 ** (cents / 1200)
    harmonics = np.arange(1, 2 if sound.label in ("bell", "pluck") else max(2, int(4000 / hz[0])))
    return float(cents[spectrum[np.rint(hz * harmonics[:, None] * size / RATE).astype(int)].sum(0).argmax()])


@pytest.mark.parametrize("label", VOICES["synth"])
def test_a_note_has_the_pitch_of_its_midi_note(label):
    errors = np.abs([heard_cents(s) for s in sounds("synth", 300) if s.label == label])
    assert np.median(errors) <= 1  # cents
    assert np.percentile(errors, 90) <= 8  # a vibrato of 15 cents, three cycles of it in the window


def test_a_kick_rests_on_its_pitch():
    for sound in sounds("drums", 300):
        if sound.label == "kick":
            tail = sound.samples[round((0.02 + 4 * sound.parameters["sweep_s"]) * RATE) :].astype(float)
            heard = np.abs(np.fft.rfft(tail * np.hanning(len(tail)), 1 << 18)).argmax() * RATE / (1 << 18)
            assert heard == pytest.approx(sound.parameters["pitch_hz"], rel=0.03)


@pytest.mark.parametrize("note", [79, 85, 91])
@pytest.mark.parametrize("pulse_share", [0.0, 1.0])
def test_a_high_bright_lead_has_nothing_above_90_db_down_between_its_harmonics(note, pulse_share):
    recipe = RECIPES["synth"]["lead"][0]
    held = {
        "midi_note": note, "pulse_share": pulse_share, "unison_share": 0.0, "vibrato_cents": 0.0,
        "cutoff_hz": 16_000.0, "sustain_share": 1.0, "gate_s": 9.0,
    }  # fmt: skip
    parameters = {name: law.at(0.5) for name, law in recipe.ranges.items()} | held
    wave = recipe.voice(parameters, Clock(RATE, RATE), np.random.default_rng(0))[8000 : 8000 + (1 << 15)]
    spectrum = np.abs(np.fft.rfft(wave * np.kaiser(len(wave), 20)))
    order = np.fft.rfftfreq(len(wave), 1 / RATE) / (440 * 2 ** ((note - 69) / 12))
    between = np.abs(order - np.rint(order)) > 0.05
    assert db(spectrum[between].max() / spectrum.max()) < -90


def test_modes_are_the_sum_of_damped_cosines():
    rng, clock = np.random.default_rng(0), Clock(RATE, 5000)
    hz, size = rng.uniform(50, 21_000, 30), rng.uniform(0, 1, 30)
    seconds, phase = rng.uniform(0.05, 1, 30), rng.uniform(0, 6, 30)
    each = size * np.exp(-math.log(1000) * clock.t[:, None] / seconds)
    exact = (each * np.cos(2 * math.pi * clock.t[:, None] * hz + phase))[:, hz < 0.45 * RATE].sum(1)
    np.testing.assert_allclose(modes(hz, size, seconds, phase, clock), exact, atol=1e-9)
