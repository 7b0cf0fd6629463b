"""Plain measurements of one-shot drum sounds, as distributions to be laid against those of the data.

Levels are in dB re full scale (dBFS), an rms of 1 being 0 dB: a sine at full scale has -3.01. An envelope is a centred
moving rms. What has no meaning in a sound is NaN: the pitch of a cymbal, the attack of silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import scipy.fft
import scipy.stats
import torch
from torch import Tensor

from diffwave_sde import audio

FLOOR = -120.0  # dBFS: what is quieter is silence
OCTAVES = tuple(62.5 * 2**k for k in range(9))  # Hz, the centres

_MS = audio.RATE / 1000  # samples in a millisecond
_FULL = 0.999  # of full scale: 16 bits reach 0.99997, and a limiter stays just below
_TAIL = round(20 * _MS)
_GUARD = round(0.25 * _MS)  # an onset is found to some ten samples, and the attack's foot is no noise
_FEWEST = 8  # samples that a level before the onset needs
_QUIETEST = -90.0  # dB: the least that a band is said to hold
_LOWEST, _HIGHEST = 25.0, 500.0  # Hz
_BODY = round(15 * _MS), round(180 * _MS)  # past the click, before the tail is gone
_PERIODIC = 0.5  # with less, the partials of a cymbal come near enough to a common period
_HEARD = 1e-2  # -20 dB: of the body's energy, to be compared with the rest of it
_AS_GOOD = 0.6  # of the best correlation: two periods repeat as well as one, and by chance in noise better


@dataclass(frozen=True)
class Measurement:
    """A number that each sound has.

    name: in snake case.
    unit: of the number; "samples" for a count.
    of: sounds (n, T) at 44.1 kHz -> (n,) float32, NaN where it has no meaning. A sound that holds NaN or infinities
        measures NaN.
    """

    name: str
    unit: str
    of: Callable[[Tensor], Tensor]


def measure(sounds: Tensor) -> dict[str, Tensor]:
    """All measurements of sounds (n, T) at 44.1 kHz, each (n,) float32, by name.

    Raises:
        ValueError: if sounds are not (n, T) with T >= 1.
    """
    return {name: column for names, _, of in _GROUPS for name, column in zip(names, of(sounds), strict=True)}


def difference(a: Tensor, b: Tensor) -> float:
    """The largest distance of two samples' distribution functions, in [0, 1]: 0 for the same, 1 where they lie apart.

    Args:
        a, b: one measurement of two sets of sounds, (n,) and (m,). NaNs are left out, and where none is left of either
            the distance is NaN.

    Source: Kolmogorov and Smirnov's statistic for two samples, as scipy has it.
    """
    a, b = (x[~x.isnan()].double().cpu().numpy() for x in (a, b))
    if not (a.size and b.size):
        return math.nan
    # The exact p-value, which is not wanted here, takes far longer than the statistic.
    return float(scipy.stats.ks_2samp(a, b, method="asymp").statistic)


def peak(sounds: Tensor) -> Tensor:
    """The largest magnitude, dBFS; silence is at -120."""
    return _level(sounds.abs().amax(1))


def dc(sounds: Tensor) -> Tensor:
    """Magnitude of the mean, dBFS, at least -120. A kick that pushes more than it pulls has one too."""
    return _level(sounds.mean(1).abs())


def clipping(sounds: Tensor) -> Tensor:
    """Samples within 0.1 % of full scale or beyond it that stand in runs of two or more.

    A lone sample at full scale is what normalising to 1 leaves, and is not counted.
    """
    hot = torch.nn.functional.pad(sounds.abs() >= _FULL, (1, 1))
    return (hot[:, 1:-1] & (hot[:, :-2] | hot[:, 2:])).sum(1)


def floor_tail(sounds: Tensor) -> Tensor:
    """The rms of the last 20 ms, or of the whole of a shorter sound, dBFS, at least -120."""
    return _level(_rms(sounds[:, -_TAIL:]))


def floor_before(sounds: Tensor) -> Tensor:
    """The rms of what lies before the onset, but for the last 0.25 ms, dBFS, at least -120.

    NaN if fewer than 8 samples are left, and for silence, which has no onset.
    """

    def of(sound: Tensor) -> float:
        before = sound[: max(_onset(sound) - _GUARD, 0)]
        return float(_level(_rms(before))) if len(before) >= _FEWEST else math.nan

    return _each(sounds, of)


def octaves(sounds: Tensor) -> Tensor:
    """The level of each octave band over that of the whole sound, (n, 9), dB, at least -90; NaN for silence.

    Bands reach from centre / √2 to centre · √2, the highest to half the rate. The whole has what lies below them too.
    """
    # Zeros after a short sound let a narrow band have bins at all, and leave shares of energy as they are.
    size = scipy.fft.next_fast_len(max(sounds.shape[1], 8192), real=True)
    energy = torch.fft.rfft(sounds, size).abs().square()
    energy[:, 1 : (size + 1) // 2] *= 2  # these bins stand for their negative frequencies as well
    edges = [math.ceil(centre / 2**0.5 * size / audio.RATE) for centre in (*OCTAVES, 2 * OCTAVES[-1])]
    bands = torch.stack([energy[:, low:high].sum(1) for low, high in pairwise(edges)], 1)
    decibels = 10 * (bands / energy.sum(1, keepdim=True)).clamp_min(10 ** (_QUIETEST / 10)).log10()
    return torch.where(_audible(sounds)[:, None], decibels, math.nan)


def attack(sounds: Tensor) -> Tensor:
    """From the onset until the envelope over 1 ms first stands within 3 dB of its peak, ms; NaN for silence.

    The peak itself may come at any of the first swings of a kick, or anywhere in a steady noise. A step takes 0 ms, and
    a linear rise 0.71 of its length.
    """
    power = _envelope(sounds, 1.0)
    reached = (power >= power.amax(1, keepdim=True) / 2).int().argmax(1)
    return (reached - _each(sounds, _onset)).clamp_min(0) / _MS


def pitch(sounds: Tensor) -> Tensor:
    """Fundamental frequency of the body, 15 to 180 ms after the onset, 25 to 500 Hz.

    One over the lag at which the normalised correlation of the body with itself,

        r(l) = Σ x(t) x(t+l) / (Σ x(t)² Σ x(t+l)²)^½,

    first peaks, once it has been negative, at 60 % of its best or above. It is 1 at the period of any tone that decays
    exponentially, and in noise it is the tone's share of the energy. NaN where the best is below 0.5, where the period
    lies outside the range, and where the body holds fewer than two periods.

    Source: McLeod and Wyvill 2005, with each half normalised by its own energy.
    """
    return _each(sounds, _pitch)


def decay(sounds: Tensor) -> Tensor:
    """From the peak of the envelope over 5 ms until it last stands within 30 dB of it, ms; NaN for silence.

    A sound that is cut before decays until its end. An amplitude that falls as exp(-t / τ) takes 3.45 τ.
    """
    power = _envelope(sounds, 5.0)
    top, at = power.max(1)
    last = power.shape[1] - 1 - (power >= 1e-3 * top[:, None]).flip(1).int().argmax(1)
    return torch.where(_audible(sounds), (last - at) / _MS, math.nan)


def _guarded(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of finite sounds (n, T) to (n,) or (n, k) as one of any sounds to float32 columns (k, n)."""

    @torch.no_grad()
    def columns(sounds: Tensor) -> Tensor:
        if sounds.ndim != 2 or not sounds.shape[1]:
            raise ValueError(f"sounds of shape {tuple(sounds.shape)}: measurements need (n, T) with T >= 1")
        parts = []
        # An empty set has as many columns as any other: they are taken from one silent sound.
        for part in (sounds if len(sounds) else sounds.new_zeros(1, sounds.shape[1])).split(64):
            # float64: -120 dBFS is 1e-6, and the running sums of an envelope are to resolve its square
            x = part.double().cpu()
            values = of(x.nan_to_num(0.0, 0.0, 0.0)).double()
            parts.append(torch.where(x.isfinite().all(1), values[:, None].flatten(1).mT, math.nan))
        return torch.cat(parts, 1)[:, : len(sounds)].float()

    return columns


# What comes of one computation stands in one group; 62.5 Hz is called 63 by custom.
_GROUPS = tuple(
    (names, unit, _guarded(of))
    for names, unit, of in (
        (("peak",), "dBFS", peak),
        (("dc",), "dBFS", dc),
        (("clipping",), "samples", clipping),
        (("floor_tail",), "dBFS", floor_tail),
        (("floor_before",), "dBFS", floor_before),
        (tuple(f"octave_{math.ceil(centre)}" for centre in OCTAVES), "dB", octaves),
        (("attack",), "ms", attack),
        (("pitch",), "Hz", pitch),
        (("decay",), "ms", decay),
    )
)


def _column(columns: Callable[[Tensor], Tensor], k: int) -> Callable[[Tensor], Tensor]:
    return lambda sounds: columns(sounds)[k]


MEASUREMENTS: dict[str, Measurement] = {
    name: Measurement(name, unit, _column(of, k)) for names, unit, of in _GROUPS for k, name in enumerate(names)
}


def _level(amplitude: Tensor) -> Tensor:
    return 20 * amplitude.clamp_min(10 ** (FLOOR / 20)).log10()


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt()


def _audible(sounds: Tensor) -> Tensor:
    return sounds.abs().amax(1) > 10 ** (FLOOR / 20)


def _each(sounds: Tensor, of: Callable[[Tensor], float]) -> Tensor:
    """`of` sound by sound, (n,); NaN for silence."""
    values = [of(s) if heard else math.nan for s, heard in zip(sounds, _audible(sounds).tolist(), strict=True)]
    return torch.tensor(values, dtype=sounds.dtype)


def _onset(sound: Tensor) -> int:
    return audio.onset(sound - audio.offset(sound))


def _envelope(sounds: Tensor, span: float) -> Tensor:
    """Power in a window of `span` ms about each sample, (n, T); beyond the ends of a sound is silence."""
    half = round(span * _MS / 2)
    sums = torch.nn.functional.pad(sounds.square(), (half + 1, half)).cumsum(1)
    size = 2 * half + 1
    return (sums[:, size:] - sums[:, :-size]) / size


def _pitch(sound: Tensor) -> float:
    shortest, longest = audio.RATE / _HIGHEST, audio.RATE / _LOWEST
    start, end = _BODY
    at = _onset(sound)
    # Silence after a gated sound would count as one that does not repeat.
    body = (sound - audio.offset(sound))[at + start : at + end]
    body = audio.trim(body) if len(body) else body
    if len(body) < 2 * shortest:
        return math.nan
    r = _correlation(body, min(len(body) // 2, math.ceil(longest) + 1))
    negative = (r < 0).nonzero()
    if not len(negative):
        return math.nan
    first = int(negative[0])
    best = float(r[first:].max())
    if best < _PERIODIC:
        return math.nan
    first += int((r[first:] >= _AS_GOOD * best).int().argmax())
    lobe = r[first:]
    ends = (lobe <= 0).nonzero()
    k = first + int(lobe[: int(ends[0]) if len(ends) else len(lobe)].argmax())
    if k + 1 >= len(r):  # still rising where the lags end
        return math.nan
    left, middle, right = r[k - 1 : k + 2].tolist()
    bend = left - 2 * middle + right
    lag = k + (0.5 * (left - right) / bend if bend < 0 else 0.0)
    return audio.RATE / lag if shortest <= lag <= longest else math.nan


def _correlation(x: Tensor, lags: int) -> Tensor:
    """r(l) of `pitch` for l = 0 ... lags, (lags + 1,); 0 where what is left of x is 20 dB below the whole."""
    size = scipy.fft.next_fast_len(len(x) + lags, real=True)
    products = torch.fft.irfft(torch.fft.rfft(x, size).abs().square(), size)[: lags + 1]
    sums = torch.nn.functional.pad(x.square().cumsum(0), (1, 0))
    lag = torch.arange(lags + 1)
    before, after = sums[len(x) - lag], sums[-1] - sums[lag]
    told = torch.minimum(before, after) > _HEARD * sums[-1]
    return torch.where(told, products / (before * after).sqrt(), 0.0)
