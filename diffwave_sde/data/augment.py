"""Augmentation: variations of the training clips, so that a few hundred sounds are not learned by heart.

A clip goes through the operations that are on, in this order:

    mix      a layer of another training clip of its class
    pitch    played faster or slower, as a tape is
    decay    faded exponentially from its onset on
    shift    moved later
    gain     made louder or quieter
    polarity turned upside down

They work on the waveform, before companding, and none takes it beyond full scale. What is done to a clip is a
function of eight numbers, and those of (seed, pass, row) alone,

    u = BLAKE2b(seed, pass, row) in [0, 1)^8,

whatever shares its batch, its worker or its process. An operation has its own numbers: turning one on or off leaves
what the others draw.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.fft
import torch

from diffwave_sde import audio

_PADDING = 256  # samples of silence between a clip's end and its beginning, which a Fourier transform joins
_ROLLOFF = 0.05  # share of the band that fades out below the lower Nyquist frequency, for a short ringing


class Draw(NamedTuple):
    """What chance gives a clip: numbers in [0, 1), each with the operation that uses it."""

    mixed: float
    partner: float
    ratio: float
    pitch: float
    decay: float
    shift: float
    gain: float
    polarity: float


def draw(seed: int, turn: int, row: int) -> Draw:
    """The numbers of one clip.

    Args:
        seed: of the data
        turn: number of the pass over the training clips
        row: of the store
    """
    digest = hashlib.blake2b(repr((seed, "augment", turn, row)).encode(), digest_size=64).digest()
    # 53 bits: all that a float holds, so that none is rounded up to 1
    return Draw(*((np.frombuffer(digest, "<u8") >> 11) * 2.0**-53).tolist())


@dataclass(frozen=True)
class Augment:
    """Variations of training clips, in the order mix, pitch, decay, shift, gain, polarity; 0 turns one off.

    Args:
        polarity: probability that the sign is flipped, 0 to 1
        gain: level, uniform within ± so many dB, 0 to 60; upwards no further than to full scale, which a clip with
            its peak at 0.95 reaches at 0.45 dB
        pitch: uniform within ± so many semitones, 0 to 12; by resampling about the onset, so that a higher sound is a
            shorter one, as on a tape
        decay: a fade from the onset on, uniform within 0 and so many dB per second, 0 to 600; it shortens a decay and
            leaves pitch and attack
        shift: how much later the sound begins, uniform within 0 and so many ms, 0 to 100; zeros come before it, and
            the end that leaves the window is faded as a recording's is
        mix: probability that another training clip of the same class is added, 0 to 1, at 0 to 1 times its level; where
            the sum exceeds the clip's own peak it is brought down to it; a class of one clip has nothing to mix

    Raises:
        ValueError: if a value is out of its range
    """

    polarity: float = 0.0
    gain: float = 0.0
    pitch: float = 0.0
    decay: float = 0.0
    shift: float = 0.0
    mix: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "polarity": (1, ""), "gain": (60, " dB"), "pitch": (12, " semitones"), "decay": (600, " dB per second"),
            "shift": (100, " ms"), "mix": (1, ""),
        }  # fmt: skip
        for name in (field.name for field in fields(self)):
            most, unit = limits[name]
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"data.augment.{name} must lie between 0 and {most}{unit}, not {getattr(self, name)}; "
                    "0 turns it off"
                )

    def partner(self, draw: Draw, row: int, rows: np.ndarray) -> int | None:
        """The row of the clip that is to be mixed in, if any.

        Args:
            draw: the clip's numbers
            row: the clip's own row
            rows: (n,) the training clips of its class, itself among them
        """
        if draw.mixed >= self.mix or len(rows) < 2:
            return None
        found = int(rows[int(draw.partner * (len(rows) - 1))])
        return int(rows[-1]) if found == row else found

    def __call__(self, x: np.ndarray, draw: Draw, other: np.ndarray | None = None) -> np.ndarray:
        """Varies a clip.

        Args:
            x: waveform (T,), float32, in [-1, 1], its onset at `audio.PRE_ROLL`
            draw: its numbers
            other: the clip to mix in, like x; None for none

        Returns:
            (T,), float32, in [-1, 1]
        """
        if other is not None:
            x = _within(x + np.float32(draw.ratio) * other, x)
        if self.pitch:
            x = _within(varispeed(x, 2 ** ((2 * draw.pitch - 1) * self.pitch / 12)), x)
        if self.decay:
            x = x * _decay(len(x), draw.decay * self.decay)
        if self.shift:
            later = int(draw.shift * (round(self.shift * 1e-3 * audio.RATE) + 1))
            x = _fit(np.concatenate([np.zeros(later, np.float32), x]), len(x))
        if self.gain:
            peak = float(np.abs(x).max())
            factor = 10 ** ((2 * draw.gain - 1) * self.gain / 20)
            # clipped, because a product may be rounded beyond 1
            x = (x * np.float32(min(factor, 1 / peak) if peak else 1)).clip(-1, 1)
        return -x if draw.polarity < self.polarity else x


def _within(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y, brought down to x's peak if it exceeds it."""
    most, top = np.abs(x).max(), np.abs(y).max()
    return y * (most / top) if top > most else y


def _decay(length: int, slope: float) -> np.ndarray:
    """A fade of `slope` dB per second that begins at the onset, (length,), float32."""
    t = np.arange(length, dtype=np.float32) - audio.PRE_ROLL
    return np.exp(np.float32(-slope / audio.RATE * math.log(10) / 20) * t.clip(0))


def _fit(x: np.ndarray, length: int) -> np.ndarray:
    """Cuts x (T,) to (length,), faded as `audio.window` does it, or fills it up with silence."""
    if len(x) <= length:
        return np.concatenate([x, np.zeros(length - len(x), x.dtype)])
    loud = np.abs(x[length:]).max() > audio.TAIL * np.abs(x).max()
    fade = round(audio.FADE * length) if loud else min(audio.DECLICK, length // 4)
    return audio.fade_out(torch.from_numpy(x[:length]), fade).numpy()


def varispeed(x: np.ndarray, ratio: float) -> np.ndarray:
    """Plays a clip at `ratio` times its speed, so at `ratio` times its pitch; its onset stays where it is.

    The spectrum is cut or filled up, and read at another length: exact for what lies below both Nyquist frequencies.
    For quick transforms the lengths have no prime factor above 11, and `ratio` becomes that of the nearest two, within
    2 cents for clips of 21,000 samples.

    Args:
        x: waveform (T,), float32, its onset at `audio.PRE_ROLL`
        ratio: 0.5 to 2

    Returns:
        (T,), float32; where the window cuts a longer sound, faded
    """
    before, after = _lengths(len(x) + _PADDING, ratio)
    ring = np.zeros(before, np.float32)
    # the onset at time 0 of the ring, what precedes it at its end
    ring[: len(x) - audio.PRE_ROLL], ring[-audio.PRE_ROLL :] = x[audio.PRE_ROLL :], x[: audio.PRE_ROLL]
    spectrum = scipy.fft.rfft(ring)[: min(before, after) // 2 + 1]
    fade = int(_ROLLOFF * len(spectrum))
    spectrum[-fade:] *= np.cos(np.linspace(0, np.pi, fade, dtype=np.float32)) / 2 + np.float32(0.5)
    y = scipy.fft.irfft(spectrum, after) * np.float32(after / before)
    return _fit(np.roll(y, audio.PRE_ROLL), len(x))


def _lengths(least: int, ratio: float) -> tuple[int, int]:
    """Two quick lengths of which the first is about `ratio` times the second, and at least `least`."""
    quick = _quick(least)
    before = quick[(quick >= least) & (quick <= 1.2 * least)]
    place = np.searchsorted(quick, before / ratio)
    # the neighbours on both sides of what is wanted
    before, after = np.tile(before, 2), quick[np.concatenate([place - 1, place])]
    best = np.abs(np.log(before / after / ratio)).argmin()
    return int(before[best]), int(after[best])


@cache
def _quick(least: int) -> np.ndarray:
    """The numbers up to 3 `least` that have no prime factor above 11."""
    rest = np.arange(3 * least + 1)
    rest[0] = 13
    for prime in (2, 3, 5, 7, 11):
        while (divisible := rest % prime == 0).any():
            rest[divisible] //= prime
    return np.flatnonzero(rest == 1)
