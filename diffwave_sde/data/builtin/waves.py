r"""The parts that every voice is made of.

Nothing here can alias: tones are sums of partials below 0.45 of the sample rate, either damped modes
Σ a_m exp(λ_m n) or one cycle of a waveform whose harmonics have been through the filter before it is read.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.signal import sosfilt

T60 = math.log(1000)  # decay times are times to fall by 60 dB
TOP = 0.45  # no partial above this share of the sample rate
FADE = 0.01  # fade at the end of every render, s


@dataclass(frozen=True)
class Clock:
    """rate: Hz; length: samples"""

    rate: int
    length: int

    @cached_property
    def t(self) -> np.ndarray:
        """Seconds since the onset, (length,)."""
        return np.arange(self.length) / self.rate

    @property
    def top(self) -> float:
        """Highest frequency that a partial may have, Hz."""
        return TOP * self.rate


def gain(db: float) -> float:
    return 10 ** (db / 20)


def decay(t: np.ndarray, seconds: float) -> np.ndarray:
    """Exponential fall by 60 dB in `seconds`."""
    return np.exp(t * (-T60 / seconds))


def attack(t: np.ndarray, seconds: float) -> np.ndarray:
    """Quarter-sine rise: begins with a slope, so that the onset is at sample 0, and ends without one."""
    rise = np.ones_like(t)
    early = t[: np.searchsorted(t, seconds)]
    rise[: len(early)] = np.sin(early * (math.pi / 2 / seconds))
    return rise


def adsr(t: np.ndarray, attack_s: float, decay_s: float, sustain: float, gate_s: float, release_s: float) -> np.ndarray:
    """Rise, fall towards `sustain` (0 to 1), release from `gate_s` on; times as in `attack` and `decay`."""
    held = attack(t, attack_s) * (sustain + (1 - sustain) * decay(t, decay_s))
    return held * decay(np.maximum(t - gate_s, 0), release_s)


def sweep(t: np.ndarray, hz: float, ratio: float, seconds: float) -> np.ndarray:
    """Phase (radians) of a pitch that falls from hz·ratio to hz; `seconds` is its time constant."""
    return 2 * math.pi * hz * (t + (ratio - 1) * seconds * -np.expm1(-t / seconds))


def biquad(kind: str, hz: float, q: float, clock: Clock) -> np.ndarray:
    """Second-order section for `sosfilt`, (6,).

    kind: "low", "high" or "band" (0 dB at its centre)
    Source: Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients
    """
    w = 2 * math.pi * min(hz, clock.top) / clock.rate
    alpha, c = math.sin(w) / (2 * q), math.cos(w)
    b = {
        "low": ((1 - c) / 2, 1 - c, (1 - c) / 2),
        "high": ((1 + c) / 2, -1 - c, (1 + c) / 2),
        "band": (alpha, 0.0, -alpha),
    }[kind]
    return np.array([*b, 1 + alpha, -2 * c, 1 - alpha]) / (1 + alpha)


def shape(wave: np.ndarray, clock: Clock, *sections: tuple[str, float, float]) -> np.ndarray:
    """Send a wave through biquads, each (kind, Hz, Q)."""
    return sosfilt(np.stack([biquad(*section, clock) for section in sections]), wave)


def block_dc(wave: np.ndarray, clock: Clock) -> np.ndarray:
    """Second-order high-pass at 18 Hz: below every pitch, and its own ringing is gone in 50 ms."""
    return shape(wave, clock, ("high", 18.0, 0.6))


def fade_out(wave: np.ndarray, clock: Clock) -> np.ndarray:
    """Raised cosine over the last `FADE` seconds, to exactly zero."""
    wave, n = wave.copy(), round(FADE * clock.rate)
    wave[-n:] *= 0.5 + 0.5 * np.cos(np.arange(1, n + 1) * (math.pi / n))
    return wave


def unit(wave: np.ndarray) -> np.ndarray:
    """Peak 1, so that levels in dB between the parts of a sound mean something."""
    return wave / max(np.abs(wave).max(), 1e-9)


def modes(hz: np.ndarray, amplitude: np.ndarray, decay_s: np.ndarray, phase: np.ndarray, clock: Clock) -> np.ndarray:
    """Sum of damped partials Σ a exp(-T60 t / decay) cos(2π f t + phase); those above the top are left out.

    hz, amplitude, decay_s, phase: (M,)

    With n = 160 i + j each partial is a product of a term in i and a term in j, so the sum over partials is
    one matrix product: about a hundredth of the work of evaluating M · length sines.
    """
    keep = hz < clock.top
    hz, amplitude, decay_s, phase = (np.asarray(a, float)[keep] for a in (hz, amplitude, decay_s, phase))
    columns, tile = 160, 4
    rows = -(-clock.length // (columns * tile)) * tile
    exponent = (2j * math.pi * hz - T60 / decay_s) / clock.rate
    fine = np.repeat(np.exp(exponent)[None], columns, 0)
    coarse = np.repeat(np.exp(exponent * columns)[None], rows, 0)
    fine[0], coarse[0] = 1, amplitude * np.exp(1j * phase)
    fine, coarse = np.cumprod(fine, 0), np.cumprod(coarse, 0)
    left = np.concatenate([coarse.real, -coarse.imag], 1).reshape(-1, tile, 2 * len(hz))
    # tiles of four rows: too small for BLAS to split among threads, so the bits do not depend on their number
    return (left @ np.concatenate([fine.real, fine.imag], 1).T).reshape(-1)[: clock.length]


def cycle_scan(voices: list[tuple[float, np.ndarray]], spectra: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Read a wave from single cycles that morph: a time-varying filter on a periodic tone, without aliasing.

    voices: (level, phase in cycles (length,)) of each reading, summed
    spectra: complex amplitudes of harmonics 1 to H for each of K filter settings, (K, H)
    position: which setting is heard, 0 to K - 1, (length,); between two settings they are mixed
    """
    count, size = len(spectra), 4096 if spectra.shape[1] <= 100 else 8192  # reading is then 80 dB exact
    half = np.zeros((count, size // 2 + 1), complex)
    half[:, 1 : spectra.shape[1] + 1] = spectra
    # one row and one column more: the neighbours of the last ones are there to be read
    tables = np.empty((count + 1, size + 1))
    tables[:count, :size] = np.fft.irfft(half, norm="forward")
    tables[:count, size] = tables[:count, 0]
    tables[count] = tables[count - 1]
    flat, row = tables.ravel(), position.astype(np.int64)
    mix = position - row
    wave = np.zeros(len(position))
    for level, phase in voices:
        place = (phase - np.floor(phase)) * size
        column = np.minimum(place.astype(np.int64), size - 1)  # a tiny negative phase rounds up to 1.0
        part = place - column
        here = row * (size + 1) + column
        low = flat[here]
        low += (flat[here + 1] - low) * part
        here += size + 1
        high = flat[here]
        high += (flat[here + 1] - high) * part
        wave += level * (low + (high - low) * mix)
    return wave
