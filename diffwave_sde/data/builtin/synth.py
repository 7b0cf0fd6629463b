"""Pitched synthesizer notes, in equal temperament with A4 = MIDI note 69 = 440 Hz.

- bass, lead, pad: saw and pulse through a resonant low-pass that an envelope moves; unison voices
- organ: nine drawbars, key click, percussion
- pluck: a string's partials with the place of the plucking and the losses of Karplus and Strong's loop
- bell, keys: frequency modulation with a falling index

Sources (facts and numbers): Karplus and Strong 1983; Jaffe and Smith 1983 for the loop's losses; Chowning
1973 for FM; the Hammond drawbars' harmonics 1/2, 3/2, 1, 2, 3, 4, 5, 6, 8 of the key.
"""

import math

import numpy as np

from diffwave_sde.data.builtin.recipe import Recipe, vary
from diffwave_sde.data.builtin.waves import T60, Clock, adsr, attack, cycle_scan, decay, gain, modes, shape, unit

DRAWBARS = np.array([1, 3, 2, 4, 6, 8, 10, 12, 16])  # harmonics of the 16-foot pipe, an octave below the key


def pitch(midi_note: float) -> float:
    """Hz."""
    return 440.0 * 2 ** ((midi_note - 69) / 12)


def vibrato(p: dict[str, float], clock: Clock) -> np.ndarray:
    """Seconds of phase to add to time: the integral of a sine of `vibrato_cents`."""
    w = 2 * math.pi * p["vibrato_hz"]
    return (2 ** (p["vibrato_cents"] / 1200) - 1) * np.sin(w * clock.t) / w


def subtractive(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """Oscillators, filter, amplifier."""
    t, hz = clock.t, pitch(p["midi_note"])
    n = np.arange(1, max(2, min(400, int(clock.top / (hz * 1.02)))))
    saw, pulse = 1 / (1j * n), 2 * np.sin(math.pi * n * p["pulse_width"]) / n
    source = (1 - p["pulse_share"]) * saw + p["pulse_share"] * pulse

    octaves = p["filter_octaves"] * attack(t, p["attack_s"]) * decay(t, p["filter_decay_s"])
    settings = 16
    cutoffs = p["cutoff_hz"] * 2 ** np.linspace(0, p["filter_octaves"], settings)[:, None]
    s = 1j * n * hz / cutoffs
    # Four poles, as in a Moog or a Roland filter: a resonant pair and a flat one. Magnitudes only: the phase of
    # a filter that closes would pull the pitch of a bass note by some 20 cents.
    spectra = source / np.abs((1 + s / p["resonance_q"] + s**2) * (1 + s / 0.7 + s**2))
    position = octaves * ((settings - 1) / max(p["filter_octaves"], 1e-9))

    # the middle voice is in tune and the loudest; the pair around it is louder the wider the unison
    time = t + vibrato(p, clock)
    voices = [(1.0, hz * time + noise.uniform())]
    if p["unison_share"] > 0.05:
        detuned = hz * 2 ** (np.array([-1, 1]) * p["detune_cents"] / 1200)
        voices += [(0.6 * p["unison_share"], one * time + noise.uniform()) for one in detuned]
    wave = cycle_scan(voices, spectra, position)
    envelope = adsr(t, p["attack_s"], p["decay_s"], p["sustain_share"], p["gate_s"], p["release_s"])
    drive = gain(p["drive_db"])
    # saturation follows the level slowly, so it bends the envelope and makes no harmonics that could fold
    return unit(wave) * np.tanh(drive * envelope) / math.tanh(drive)


def organ(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """Drawbars; the key's own pitch is always among the loudest."""
    t, hz = clock.t, pitch(p["midi_note"])
    levels = gain(-3.0 * np.arange(8))  # a drawbar's eight positions are 3 dB apart
    bars = levels[noise.integers(8, size=9)] * p["fullness_share"]
    bars[2], bars[0] = 1.0, 0.7 * bars[0]
    spectrum = np.zeros((2, DRAWBARS.max()), complex)
    spectrum[:, DRAWBARS - 1] = bars * np.exp(2j * math.pi * noise.uniform(size=9))
    percussion = 6 if p["percussion_twelfth"] else 4
    spectrum[1, percussion - 1] += gain(p["percussion_db"])
    spectrum[:, int(clock.top / (0.51 * hz)) :] = 0
    wave = unit(cycle_scan([(1.0, 0.5 * hz * (t + vibrato(p, clock)))], spectrum, decay(t, p["percussion_s"])))
    click = shape(noise.standard_normal(clock.length), clock, ("band", 2500.0, 0.7)) * decay(t, 0.012)
    wave = wave * attack(t, p["attack_s"]) + gain(p["click_db"]) * unit(click) * attack(t, 0.0005)
    return wave * decay(np.maximum(t - p["gate_s"], 0), p["release_s"])


def pluck(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """A string's modes: noise once round the loop, then a loss each time round that grows with frequency."""
    hz = pitch(p["midi_note"])
    n = np.arange(1, 161)
    stretch = 10 ** p["stiffness_log10"]
    partials = hz * n * np.sqrt((1 + stretch * n**2) / (1 + stretch))
    size = np.abs(np.sin(math.pi * n * p["pluck_place_share"])) / n * noise.uniform(0.6, 1.4, n.size)
    size /= np.sqrt(1 + (partials / p["brightness_hz"]) ** 4)
    size[0] = max(size[0], 0.3)
    # loop filter (1-s) + s z^-1, Jaffe and Smith 1983: a loss of |H| each period
    turn = 2 * math.pi * np.minimum(partials, clock.top) / clock.rate
    s = p["loop_share"]
    loss = -0.5 * np.log1p(-2 * s * (1 - s) * (1 - np.cos(turn))) * hz
    seconds = T60 / (T60 / p["decay_s"] + loss)
    wave = modes(partials, size, seconds, noise.uniform(0, 2 * math.pi, n.size), clock)
    pick = shape(noise.standard_normal(clock.length), clock, ("band", 3000.0, 0.7)) * decay(clock.t, 0.01)
    wave = unit(wave) + gain(p["pick_db"]) * unit(pick)
    damped = decay(np.maximum(clock.t - p["gate_s"], 0), 0.08)
    return wave * attack(clock.t, 0.0008) * damped


def fm(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """Two pairs of operators on one carrier frequency: a body and a strike."""
    t, hz = clock.t, pitch(p["midi_note"])
    wave = np.zeros(clock.length)
    for part, db in (("body", 0.0), ("strike", p["strike_db"])):
        modulator = hz * p[f"{part}_ratio"]
        # Carson: index + 1 sidebands hold 98 % of the power; with index + 3, less than -80 dB of it folds
        room = max(0.0, (clock.top - hz) / modulator - 3)
        index = min(p[f"{part}_index"], room) * decay(t, p[f"{part}_index_s"])
        phase = 2 * math.pi * hz * t + index * np.sin(2 * math.pi * modulator * t + noise.uniform(0, 2 * math.pi))
        wave += gain(db) * np.sin(phase) * decay(t, p["decay_s"] if part == "body" else 2 * p["strike_index_s"])
    tremble = 1 - 0.5 * p["tremolo_share"] * (1 - np.cos(2 * math.pi * p["tremolo_hz"] * t))
    return wave * tremble * attack(t, p["attack_s"]) * decay(np.maximum(t - p["gate_s"], 0), p["release_s"])


ANALOG = {
    "midi_note": ("integer", "pitch, in equal temperament"),
    "pulse_share": ("uniform", "0: saw, 1: pulse"),
    "pulse_width": ("uniform", "share of its period that the pulse is high"),
    "unison_share": ("uniform", "level of the two voices beside the middle one; none below 0.05"),
    "detune_cents": ("uniform", "how far they are from it"),
    "vibrato_hz": ("uniform", "rate of the vibrato"),
    "vibrato_cents": ("uniform", "depth of the vibrato"),
    "cutoff_hz": ("log", "low-pass at rest"),
    "filter_octaves": ("uniform", "how far the envelope opens it"),
    "filter_decay_s": ("log", "time in which that falls by 60 dB"),
    "resonance_q": ("log", "quality of the resonant pole pair"),
    "attack_s": ("log", "rise of level and filter"),
    "decay_s": ("log", "time in which the level falls by 60 dB towards its sustain"),
    "sustain_share": ("uniform", "level that is held"),
    "gate_s": ("uniform", "when the key is let go"),
    "release_s": ("log", "time to fall by 60 dB after that"),
    "drive_db": ("uniform", "gain into the amplifier's soft limit"),
}

OPERATORS = {
    "midi_note": ("integer", "pitch of the carriers, in equal temperament"),
    "body_ratio": ("uniform", "body's modulator over carrier: whole numbers are harmonic"),
    "body_index": ("uniform", "depth of modulation at the stroke, radians; less where sidebands would pass the top"),
    "body_index_s": ("log", "time in which it falls by 60 dB"),
    "strike_ratio": ("uniform", "strike's modulator over carrier"),
    "strike_index": ("uniform", "depth of modulation of the strike, radians; less where sidebands would pass the top"),
    "strike_index_s": ("log", "time in which it falls by 60 dB"),
    "strike_db": ("uniform", "level of the strike"),
    "attack_s": ("log", "rise"),
    "decay_s": ("log", "time in which the body falls by 60 dB"),
    "tremolo_hz": ("uniform", "rate of the tremolo"),
    "tremolo_share": ("uniform", "depth of the tremolo"),
    "gate_s": ("uniform", "when the key is let go"),
    "release_s": ("log", "time to fall by 60 dB after that"),
}

ORGAN = {
    "midi_note": ("integer", "pitch of the 8-foot drawbar, in equal temperament"),
    "fullness_share": ("uniform", "level of the other drawbars, whose positions are drawn from eight"),
    "percussion_twelfth": ("integer", "percussion an octave (0) or a twelfth (1) above the key"),
    "percussion_db": ("uniform", "level of the percussion"),
    "percussion_s": ("log", "time in which it falls by 60 dB"),
    "click_db": ("uniform", "level of the key click"),
    "vibrato_hz": ("uniform", "rate of the scanner"),
    "vibrato_cents": ("uniform", "depth of the scanner"),
    "attack_s": ("log", "rise"),
    "gate_s": ("uniform", "when the key is let go"),
    "release_s": ("log", "time to fall by 60 dB after that"),
}

STRING = {
    "midi_note": ("integer", "pitch, in equal temperament"),
    "pluck_place_share": ("uniform", "where the string is plucked, as a share of its length"),
    "brightness_hz": ("log", "low-pass of the pluck: fingertip to plectrum"),
    "decay_s": ("log", "time in which the lowest partial falls by 60 dB"),
    "loop_share": ("log", "weight of the older sample in the loop's average: damping of high partials"),
    "stiffness_log10": ("uniform", "logarithm of the inharmonicity: partials are sharp by its n²/2"),
    "pick_db": ("uniform", "level of the plectrum's noise"),
    "gate_s": ("uniform", "when the string is damped (60 dB in 80 ms)"),
}

# fmt: off
RECIPES = {
    "bass": (Recipe("analog", subtractive, vary(
        ANALOG, midi_note=(28, 50), pulse_share=(0, 1), pulse_width=(0.15, 0.5), unison_share=(0, 0.3),
        detune_cents=(2, 6), vibrato_hz=(4, 6), vibrato_cents=(0, 2), cutoff_hz=(80, 500),
        filter_octaves=(0.5, 5), filter_decay_s=(0.1, 1), resonance_q=(0.7, 5), attack_s=(0.001, 0.006),
        decay_s=(0.25, 2), sustain_share=(0, 0.8), gate_s=(0.1, 0.45), release_s=(0.04, 0.2),
        drive_db=(-6, 9),
    )),),
    "pluck": (Recipe("string", pluck, vary(
        STRING, midi_note=(40, 84), pluck_place_share=(0.08, 0.48), brightness_hz=(800, 8000),
        decay_s=(0.3, 4), loop_share=(0.02, 0.5), stiffness_log10=(-6, -3.8), pick_db=(-50, -16),
        gate_s=(0.15, 1),
    )),),
    "lead": (Recipe("analog", subtractive, vary(
        ANALOG, midi_note=(55, 91), pulse_share=(0, 1), pulse_width=(0.1, 0.5), unison_share=(0, 0.7),
        detune_cents=(3, 14), vibrato_hz=(4.5, 7), vibrato_cents=(0, 15), cutoff_hz=(900, 8000),
        filter_octaves=(0, 3), filter_decay_s=(0.15, 1.5), resonance_q=(0.7, 6), attack_s=(0.001, 0.02),
        decay_s=(0.3, 3), sustain_share=(0.3, 1), gate_s=(0.12, 0.48), release_s=(0.04, 0.25),
        drive_db=(-6, 9),
    )),),
    "bell": (Recipe("FM", fm, vary(
        OPERATORS, midi_note=(60, 96), body_ratio=(1.3, 4.2), body_index=(0.5, 5), body_index_s=(0.2, 2),
        strike_ratio=(3, 8), strike_index=(1, 6), strike_index_s=(0.02, 0.12), strike_db=(-30, -8),
        attack_s=(0.0008, 0.003), decay_s=(0.5, 4), tremolo_hz=(3, 7), tremolo_share=(0, 0.2),
        gate_s=(0.3, 2), release_s=(0.15, 0.6),
    )),),
    "keys": (Recipe("FM", fm, vary(
        OPERATORS, midi_note=(40, 84), body_ratio=(1, 1), body_index=(0.2, 2.5), body_index_s=(0.2, 1.5),
        strike_ratio=(14, 14), strike_index=(0.3, 1.5), strike_index_s=(0.05, 0.3), strike_db=(-30, -8),
        attack_s=(0.001, 0.005), decay_s=(0.6, 4), tremolo_hz=(4, 7), tremolo_share=(0, 0.5),
        gate_s=(0.15, 0.6), release_s=(0.05, 0.3),
    )),),
    "organ": (Recipe("drawbars", organ, vary(
        ORGAN, midi_note=(48, 84), fullness_share=(0.2, 1), percussion_twelfth=(0, 1), percussion_db=(-30, 0),
        percussion_s=(0.2, 1.2), click_db=(-45, -18), vibrato_hz=(6, 7.5), vibrato_cents=(0, 12),
        attack_s=(0.003, 0.012), gate_s=(0.15, 0.48), release_s=(0.02, 0.1),
    )),),
    "pad": (Recipe("analog", subtractive, vary(
        ANALOG, midi_note=(45, 79), pulse_share=(0, 1), pulse_width=(0.25, 0.5), unison_share=(0.4, 1),
        detune_cents=(4, 14), vibrato_hz=(4, 6), vibrato_cents=(0, 8), cutoff_hz=(400, 2500),
        filter_octaves=(0, 2), filter_decay_s=(1, 6), resonance_q=(0.7, 2), attack_s=(0.03, 0.15),
        decay_s=(1, 5), sustain_share=(0.5, 1), gate_s=(0.25, 0.48), release_s=(0.15, 0.6), drive_db=(-6, 6),
    )),),
}
# fmt: on
