"""Kicks, snares and cymbals.

Each voice is the physics of its instrument in a few terms, and each family another region of its parameters:

- kick: a sine whose pitch falls to rest, driven; an overtone; a thump of low noise; a beater's click
- snare: the modes of a drum head, bent a little by the stroke; wires, which hiss and rattle; a snap
- cymbal: hundreds of damped inharmonic partials, of six square waves and of a plate; hiss; a stick; a bell

Sources (facts and numbers): Werner, Abel and Smith 2014 for the TR-808's bridged-T kick and its six square
oscillators; Fletcher and Rossing, The Physics of Musical Instruments, for the modes of heads and plates.
"""

import math

import numpy as np

from diffwave_sde.data.builtin.recipe import Recipe, vary
from diffwave_sde.data.builtin.waves import Clock, attack, decay, gain, modes, shape, sweep, unit

SQUARES = np.array([205.3, 304.4, 369.6, 522.7, 540.0, 800.0]) / 205.3  # the TR-808's oscillators
HEAD = np.array([1.0, 1.594, 2.136, 2.296, 2.653, 2.918])  # ideal circular membrane, relative to its lowest


def kick(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """A pitched body with a click; every level is relative to the body's peak."""
    t, hiss = clock.t, noise.standard_normal(clock.length)
    phase = sweep(t, p["pitch_hz"], p["sweep_ratio"], p["sweep_s"])
    body = np.sin(phase) * decay(t, p["decay_s"])
    overtone = np.sin(phase * p["overtone_ratio"]) * decay(t, 0.5 * p["decay_s"])
    body += gain(p["overtone_db"]) * overtone
    drive = gain(p["drive_db"])
    # the bias makes even harmonics too, as a transistor does; the tones are so low that nothing folds
    body = np.tanh(drive * body + 0.15) - math.tanh(0.15)
    thump = shape(hiss, clock, ("low", 5 * p["pitch_hz"], 0.7)) * decay(t, 0.4 * p["decay_s"])
    knock = np.sin(2 * math.pi * p["click_hz"] * t) * decay(t, p["click_s"])
    click = shape(hiss, clock, ("band", p["click_hz"], 0.5)) * decay(t, p["click_s"])
    wave = unit(body) * attack(t, p["attack_s"]) + gain(p["thump_db"]) * unit(thump)
    wave = shape(wave, clock, ("low", p["tone_hz"], 0.7))
    return (wave + gain(p["click_db"]) * unit(unit(click) + unit(knock))) * attack(t, 0.0003)


KICK = {
    "pitch_hz": ("log", "pitch at which the body comes to rest"),
    "sweep_ratio": ("log", "pitch at the stroke over the pitch at rest"),
    "sweep_s": ("log", "time constant of the falling pitch"),
    "decay_s": ("log", "time in which the body falls by 60 dB"),
    "attack_s": ("log", "rise of the body: hard to soft beater"),
    "overtone_ratio": ("uniform", "second mode over the first"),
    "overtone_db": ("uniform", "level of the second mode"),
    "drive_db": ("uniform", "gain into the saturation"),
    "thump_db": ("uniform", "level of the low noise in the body"),
    "tone_hz": ("log", "low-pass on body and thump"),
    "click_hz": ("log", "centre of the beater's click"),
    "click_s": ("log", "time in which the click falls by 60 dB"),
    "click_db": ("uniform", "level of the click"),
}


def snare(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """Head modes and wires; every level is relative to the head's peak."""
    t = clock.t
    ratios = np.concatenate([[1.0, p["second_ratio"]], HEAD[2:]])
    levels = np.concatenate([[1.0, gain(p["second_db"])], gain(p["upper_db"]) * noise.uniform(0.3, 1, 4)])
    decays = p["shell_decay_s"] * ratios**-0.7  # higher modes radiate better and die sooner
    phase = sweep(t, p["pitch_hz"], p["sweep_ratio"], p["sweep_s"])
    shell = sum(
        level * np.sin(phase * ratio) * decay(t, seconds)
        for level, ratio, seconds in zip(levels, ratios, decays, strict=True)
        if level > 0.01
    )
    drive = gain(p["drive_db"])
    shell = unit(np.tanh(drive * unit(shell)))
    hiss = noise.standard_normal(clock.length)
    # the head throws the wires off and they fall back once a period
    rattle = 1 - p["rattle_share"] * np.sin(phase / 2) ** 2 * decay(t, p["shell_decay_s"])
    wires = shape(hiss, clock, ("high", p["wires_low_hz"], 0.7), ("low", p["wires_high_hz"], 0.6))
    wires *= rattle * attack(t, p["wires_attack_s"]) * decay(t, p["wires_decay_s"])
    snap = shape(hiss, clock, ("band", p["snap_hz"], 0.7)) * decay(t, p["snap_s"])
    wave = shell + gain(p["wires_db"]) * unit(wires) + gain(p["snap_db"]) * unit(snap)
    return wave * attack(t, 0.0004)


SNARE = {
    "pitch_hz": ("log", "lowest mode of the head"),
    "second_ratio": ("uniform", "second mode over the first"),
    "second_db": ("uniform", "level of the second mode"),
    "upper_db": ("uniform", "level of the four modes above"),
    "sweep_ratio": ("log", "pitch at the stroke over the pitch at rest"),
    "sweep_s": ("log", "time constant of the falling pitch"),
    "shell_decay_s": ("log", "time in which the lowest mode falls by 60 dB"),
    "drive_db": ("uniform", "gain into the shell's saturation"),
    "wires_db": ("uniform", "level of the wires"),
    "wires_decay_s": ("log", "time in which the wires fall by 60 dB"),
    "wires_attack_s": ("log", "rise of the wires"),
    "wires_low_hz": ("log", "high-pass on the wires"),
    "wires_high_hz": ("log", "low-pass on the wires: tone"),
    "rattle_share": ("uniform", "how far the head's motion opens and closes the wires"),
    "snap_db": ("uniform", "level of the stick's snap"),
    "snap_hz": ("log", "centre of the snap"),
    "snap_s": ("log", "time in which the snap falls by 60 dB"),
}


def cymbal(p: dict[str, float], clock: Clock, noise: np.random.Generator) -> np.ndarray:
    """Partials and hiss under one spectral envelope; levels are relative to the partials' peak."""
    t = clock.t
    low, high, base = p["highpass_hz"], p["tone_hz"], p["metal_hz"]
    # odd harmonics of six squares, and a plate's modes, which lie evenly in frequency
    odd = np.arange(1, 89, 2)
    bank = (base * SQUARES * (1 + 0.01 * noise.standard_normal(6)))[:, None] * odd
    plate = base + (16_000 - base) * (np.arange(140) + noise.uniform(-0.8, 0.8, 140)) / 140
    hz = np.concatenate([bank.ravel(), np.maximum(plate, 0.5 * base)])
    size = np.concatenate([np.repeat(1 / odd[None], 6, 0).ravel() * p["square_share"] * 4, noise.rayleigh(0.3, 140)])
    size[bank.size :] *= 1 - p["square_share"]
    size *= (hz / 4000) ** (p["tilt_db_octave"] / 6.02)
    size /= np.sqrt((1 + (low / hz) ** 6) * (1 + (hz / high) ** 4))
    heard = size > 1e-3 * size.max()
    hz, size = hz[heard], size[heard]
    seconds = p["decay_s"] * (hz / 4000) ** -p["damping"] * np.exp(0.3 * noise.standard_normal(len(hz)))
    metal = modes(hz, size, seconds, noise.uniform(0, 2 * math.pi, len(hz)), clock)

    ratios = np.array([1.0, 1.52, 2.03, 2.74, 3.61]) * (1 + 0.03 * noise.standard_normal(5))
    bell = modes(p["bell_hz"] * ratios, ratios**-0.6, p["decay_s"] * 0.8 * ratios**-0.5, np.full(5, -1.5), clock)

    hiss = noise.standard_normal(clock.length)
    # energy climbs to the high modes during the first milliseconds, and they are the first to lose it
    bloom = 1 - p["bloom_share"] * np.exp(-t / p["bloom_s"])
    air = shape(hiss, clock, ("high", max(low, 6500.0), 0.7), ("low", max(high, 9000.0), 0.7))
    wash = shape(hiss, clock, ("high", low, 0.7), ("low", min(high, 5000.0), 0.6))
    wash_gain = gain(p["tilt_db_octave"] * -1.0 - 6.0)
    fall = p["noise_decay_share"] * p["decay_s"]
    hissing = bloom * decay(t, fall * 2.2 ** -p["damping"]) * air + wash_gain * decay(t, fall) * wash
    stick = shape(hiss, clock, ("band", p["stick_hz"], 0.8)) * decay(t, 0.02)
    wave = unit(metal) * bloom + gain(p["noise_db"]) * unit(hissing) + gain(p["stick_db"]) * unit(stick)
    wave += gain(p["bell_db"]) * unit(bell)
    return wave * attack(t, 0.0005) * decay(np.maximum(t - p["choke_s"], 0), 0.06)


CYMBAL = {
    "metal_hz": ("log", "lowest partial: size of the plate, tuning of the squares"),
    "square_share": ("uniform", "0: a plate's modes, 1: six square waves"),
    "decay_s": ("log", "time in which partials near 4 kHz fall by 60 dB"),
    "damping": ("uniform", "how much sooner high partials die: decay ~ frequency^-damping"),
    "tilt_db_octave": ("uniform", "slope of the spectrum, dull to bright"),
    "highpass_hz": ("log", "lower edge of the spectrum"),
    "tone_hz": ("log", "upper edge of the spectrum"),
    "noise_db": ("uniform", "level of the hiss"),
    "noise_decay_share": ("uniform", "decay of the hiss over that of the partials"),
    "bloom_share": ("uniform", "how much of the high end is still missing at the stroke"),
    "bloom_s": ("log", "time constant with which it arrives"),
    "stick_db": ("uniform", "level of the stick"),
    "stick_hz": ("log", "centre of the stick's click"),
    "bell_db": ("uniform", "level of the bell's five partials"),
    "bell_hz": ("log", "lowest partial of the bell"),
    "choke_s": ("uniform", "when a hand stops it (60 dB in 60 ms)"),
}

# The formatter would make a column of 150 lines of this.
# fmt: off
RECIPES = {
    "kick": (
        Recipe("808", kick, vary(
            KICK, pitch_hz=(38, 64), sweep_ratio=(1.3, 3), sweep_s=(0.004, 0.015), decay_s=(0.35, 1.4),
            attack_s=(0.0005, 0.003), overtone_ratio=(1.9, 2.1), overtone_db=(-45, -25), drive_db=(-6, 9),
            thump_db=(-60, -36), tone_hz=(400, 4000), click_hz=(800, 3500), click_s=(0.004, 0.02),
            click_db=(-34, -2),
        )),
        Recipe("909", kick, vary(
            KICK, pitch_hz=(40, 66), sweep_ratio=(2, 7), sweep_s=(0.01, 0.035), decay_s=(0.18, 0.7),
            attack_s=(0.0005, 0.002), overtone_ratio=(2, 3), overtone_db=(-34, -10), drive_db=(0, 14),
            thump_db=(-40, -14), tone_hz=(800, 6000), click_hz=(1500, 6500), click_s=(0.005, 0.03),
            click_db=(-24, 0),
        )),
        Recipe("acoustic", kick, vary(
            KICK, pitch_hz=(42, 90), sweep_ratio=(1.05, 1.9), sweep_s=(0.01, 0.04), decay_s=(0.15, 0.7),
            attack_s=(0.001, 0.008), overtone_ratio=(1.5, 2.4), overtone_db=(-18, -2), drive_db=(-6, 4),
            thump_db=(-20, -3), tone_hz=(400, 4000), click_hz=(1500, 5500), click_s=(0.008, 0.06),
            click_db=(-28, 0),
        )),
    ),
    "snare": (
        Recipe("808", snare, vary(
            SNARE, pitch_hz=(150, 240), second_ratio=(1.6, 2.0), second_db=(-10, 2), upper_db=(-60, -40),
            sweep_ratio=(1.02, 1.3), sweep_s=(0.003, 0.01), shell_decay_s=(0.1, 0.4), drive_db=(-10, 4),
            wires_db=(-13, 5), wires_decay_s=(0.12, 0.6), wires_attack_s=(0.0005, 0.002),
            wires_low_hz=(500, 2200), wires_high_hz=(4500, 13000), rattle_share=(0, 0.1), snap_db=(-30, -8),
            snap_hz=(2000, 7000), snap_s=(0.005, 0.02),
        )),
        Recipe("909", snare, vary(
            SNARE, pitch_hz=(140, 260), second_ratio=(1.45, 1.9), second_db=(-12, 0), upper_db=(-40, -15),
            sweep_ratio=(1.2, 2.4), sweep_s=(0.006, 0.025), shell_decay_s=(0.1, 0.35), drive_db=(-3, 9),
            wires_db=(-10, 6), wires_decay_s=(0.15, 0.6), wires_attack_s=(0.0005, 0.003),
            wires_low_hz=(250, 1300), wires_high_hz=(3500, 10000), rattle_share=(0, 0.2), snap_db=(-24, -3),
            snap_hz=(1500, 6000), snap_s=(0.005, 0.03),
        )),
        Recipe("acoustic", snare, vary(
            SNARE, pitch_hz=(140, 300), second_ratio=(1.5, 1.75), second_db=(-14, -1), upper_db=(-16, 2),
            sweep_ratio=(1.02, 1.2), sweep_s=(0.01, 0.04), shell_decay_s=(0.15, 0.9), drive_db=(-10, 3),
            wires_db=(-13, 5), wires_decay_s=(0.2, 1), wires_attack_s=(0.001, 0.01),
            wires_low_hz=(180, 1000), wires_high_hz=(2500, 9000), rattle_share=(0.2, 0.8), snap_db=(-24, -4),
            snap_hz=(1000, 5000), snap_s=(0.006, 0.03),
        )),
    ),
    "cymbal": (
        Recipe("closed hat", cymbal, vary(
            CYMBAL, metal_hz=(180, 420), square_share=(0, 1), decay_s=(0.04, 0.25), damping=(0, 0.3),
            tilt_db_octave=(-3, 4), highpass_hz=(400, 8000), tone_hz=(8000, 18000), noise_db=(-18, 4),
            noise_decay_share=(0.5, 1.2), bloom_share=(0, 0.2), bloom_s=(0.001, 0.005), stick_db=(-36, -8),
            stick_hz=(1500, 6000), bell_db=(-50, -16), bell_hz=(300, 900), choke_s=(0.05, 1),
        )),
        Recipe("open hat", cymbal, vary(
            CYMBAL, metal_hz=(180, 420), square_share=(0, 1), decay_s=(0.3, 1.2), damping=(0, 0.4),
            tilt_db_octave=(-4, 3), highpass_hz=(250, 7000), tone_hz=(8000, 18000), noise_db=(-18, 4),
            noise_decay_share=(0.6, 1.1), bloom_share=(0, 0.4), bloom_s=(0.002, 0.02), stick_db=(-36, -8),
            stick_hz=(1500, 6000), bell_db=(-50, -12), bell_hz=(300, 900), choke_s=(0.12, 1),
        )),
        Recipe("ride", cymbal, vary(
            CYMBAL, metal_hz=(240, 520), square_share=(0, 0.3), decay_s=(0.8, 4), damping=(0.1, 0.6),
            tilt_db_octave=(-6, 1), highpass_hz=(120, 900), tone_hz=(5000, 15000), noise_db=(-26, -6),
            noise_decay_share=(0.15, 0.6), bloom_share=(0, 0.5), bloom_s=(0.003, 0.03), stick_db=(-18, 2),
            stick_hz=(2000, 7000), bell_db=(-20, 4), bell_hz=(300, 1100), choke_s=(0.3, 4),
        )),
        Recipe("crash", cymbal, vary(
            CYMBAL, metal_hz=(200, 480), square_share=(0, 0.3), decay_s=(0.7, 4), damping=(0.2, 0.8),
            tilt_db_octave=(-6, 2), highpass_hz=(120, 900), tone_hz=(5000, 16000), noise_db=(-8, 8),
            noise_decay_share=(0.4, 1), bloom_share=(0.2, 0.8), bloom_s=(0.004, 0.05), stick_db=(-30, -6),
            stick_hz=(1500, 5000), bell_db=(-30, -3), bell_hz=(220, 700), choke_s=(0.2, 4),
        )),
    ),
}
# fmt: on
