"""From a recording to a clip: resampled, cut to one window that begins at the onset.

`window` turns any recording into `length` samples of which the first `PRE_ROLL` are what was there before
the onset, faded in: DC out, onset found, cut or padded, tail faded, peak at `PEAK`. Every one-shot of a
store thus begins at the same sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

RATE = 44_100  # Hz
LENGTH = 21_000  # samples, 0.476 s; 2³ · 3 · 5³ · 7

PRE_ROLL = 44  # samples before the onset, 1 ms: room for the attack's first slope and nothing else
PEAK = 0.95  # -0.45 dBFS: a model's small overshoot is not clipped
SILENT = 1e-3  # -60 dBFS: a recording whose peak is below this is taken for silence
FADE = 0.1  # share of the window that fades out where a longer recording is cut
DECLICK = 88  # samples, 2 ms: fade at the end of a recording that is shorter than the window
TAIL = 10 ** (-72 / 20)  # re peak: what stays below this to the end is not worth a sample

_HOP = 44  # samples, 1 ms: the resolution at which levels are compared
_LOUD = 0.1  # re peak, -20 dB: the event itself, never its pre-echo
_FLOOR = 10 ** (-50 / 20)  # re peak: below this nothing has begun
_JUMP = 10 ** (15 / 20)  # a rise of 15 dB in 2 ms is an attack; slower is a swell


def from_int16(x: np.ndarray) -> Tensor:
    """The waveforms of 16-bit samples, as a store holds them: float32 in [-1, 1), of the same shape."""
    return torch.from_numpy(np.multiply(x, np.float32(1 / 32768), dtype=np.float32))


def resample(x: Tensor, source: int, rate: int = RATE) -> Tensor:
    """Resamples a waveform (..., T) from `source` to `rate`, both in Hz, with a windowed sinc of 64 zeros."""
    # the filter has one phase per unit of the denominator: 44,101 Hz would ask for 44,100 of them.
    # A thousandth's best fraction is out by 0.002 cents at most.
    ratio = Fraction(source, rate).limit_denominator(1000)
    if ratio == 1:
        return x
    # Nothing else needs it: where all sounds are at 44.1 kHz, as in a store, one does without.
    import torchaudio.functional

    return torchaudio.functional.resample(
        x,
        ratio.numerator,
        ratio.denominator,
        lowpass_filter_width=32,
        rolloff=0.95,
        resampling_method="sinc_interp_kaiser",
        beta=12.0,
    )


def offset(x: Tensor) -> float:
    """The DC offset of a waveform (T,), as far as it can be told.

    The plain mean of a short sound is not its DC: a kick pushes more than it pulls, and taking its mean out
    would leave a step at both ends. DC shows where nothing else does: it is the mean of the quietest tenth
    of 50 ms frames, provided that it stands above what else they hold. If it does not, it is taken for 0.
    """
    frame = RATE // 20
    if len(x) < 2 * frame:
        return 0.0
    frames = x[: len(x) // frame * frame].view(-1, frame)
    swing, mean = torch.std_mean(frames, 1)
    quietest = swing.argsort(stable=True)[: max(1, len(frames) // 10)]
    dc = float(mean[quietest].mean())
    return dc if abs(dc) > float(swing[quietest].mean()) else 0.0


def onset(x: Tensor) -> int:
    """The sample at which a sound begins.

    From the first sample within 20 dB of the peak, walk back while the level stays above the floor, which
    is 50 dB under the peak or twice the noise that precedes the sound. If the stretch walked holds a rise
    of 15 dB within 2 ms, the sound begins there and what precedes it was a pre-echo; if not, it is a swell
    and begins where it leaves the floor.

    Args:
        x: waveform (T,) without DC, not silent

    Returns:
        index in [0, T)
    """
    a = x.abs()
    peak = float(a.max())
    loud = int((a >= _LOUD * peak).int().argmax())
    # frames end at the loud sample, so that the walk starts on a boundary
    count = loud // _HOP
    first = loud - count * _HOP
    level = a[first:loud].view(count, _HOP).square().mean(1).sqrt()
    floor = _FLOOR * peak
    if count >= 10:
        # the quietest quarter, unless it is nearly as loud as the event: then there is no floor to speak of
        noise = float(level.sort().values[: max(1, count // 4)].mean())
        floor = min(max(floor, 2.0 * noise), 0.5 * _LOUD * peak)
    below = (level <= floor).nonzero()
    start = int(below[-1]) + 1 if len(below) else 0
    # rise over two frames, into frame k; the frame that holds the loud sample closes the stretch
    after = torch.cat([level[start:], a[loud : loud + _HOP].square().mean().sqrt()[None]])
    before = torch.cat([after.new_full((2,), floor), after])[: len(after)].clamp_min(floor)
    steep = after / before
    at = start
    if len(after) > 5 and float(steep[2:].max()) >= _JUMP:
        # the frame before the steepest rise may already hold its foot
        at = start + 2 + int(steep[2:].argmax())
    lo = max(0, first + (at - 1) * _HOP)
    hi = min(len(x), lo + 3 * _HOP)
    # to the sample: where it first leaves a tenth of what it reaches in the next frames
    edge = max(floor, 0.1 * float(a[lo:hi].max()))
    return min(lo + int((a[lo:hi] >= edge).int().argmax()), loud)


def trim(x: Tensor) -> Tensor:
    """Drops the end of a waveform (T,) that stays more than 72 dB under its peak."""
    keep = (x.abs() > TAIL * float(x.abs().max())).nonzero()
    return x[: int(keep[-1]) + 1] if len(keep) else x[:0]


def fade_out(x: Tensor, samples: int) -> Tensor:
    """Fades the last `samples` of a waveform (..., T) to zero along half a cosine."""
    samples = min(samples, x.shape[-1])
    if samples < 1:
        return x
    ramp = torch.arange(1, samples + 1, dtype=torch.float64).mul_(math.pi / samples).cos_().add_(1).div_(2)
    return torch.cat([x[..., :-samples], x[..., -samples:] * ramp.to(x)], -1)


def gain_of(decibels: float) -> float:
    """The factor of an amplitude that is so many dB."""
    return 10 ** (decibels / 20)


def normalise(x: Tensor, peak: float = PEAK) -> Tensor:
    """Scales a waveform so that its largest magnitude is `peak`; silence stays silence."""
    top = x.abs().max()
    return x * (peak / top) if top > 0 else x


@dataclass(frozen=True)
class Cut:
    """A window out of a recording, and what was done to it.

    window: (length,), float32.
    start: sample of the recording at which the window begins; negative where it begins before.
    dc: DC offset that was taken out.
    gain: factor that then brought the peak to `PEAK`; 1 of silence.
    """

    window: Tensor
    start: int
    dc: float
    gain: float


def window(x: Tensor, length: int = LENGTH, pre_roll: int = PRE_ROLL, align: bool = True) -> Tensor:
    """The window of `cut`, (length,), float32, peak at `PEAK`, ending at zero; errors are those of `cut`."""
    return cut(x, length, pre_roll, align).window


def cut(x: Tensor, length: int = LENGTH, pre_roll: int = PRE_ROLL, align: bool = True) -> Cut:
    """Cuts one window out of a recording: aligned at its onset, faded, padded, peak-normalised.

    Args:
        x: waveform (T,) at 44.1 kHz
        length: samples to return
        pre_roll: index of the onset in the window, samples; what precedes it is faded in
        align: False starts at x's first sample, for sounds that begin where they should

    Returns:
        the window, and where it was and how it was changed

    Raises:
        ValueError: if x is silent (peak under -60 dBFS) or `length` is not beyond `pre_roll`
    """
    if length <= pre_roll:
        raise ValueError(f"length must exceed the pre-roll of {pre_roll} samples, not {length}")
    if len(x) < 2 or float(x.abs().max()) < SILENT:
        raise ValueError("silent: its peak is under -60 dBFS")
    dc = offset(x)
    if abs(dc) > TAIL * float(x.abs().max()):  # less is the estimate's own error, and exact zeros stay exact
        x = x - dc
        if float(x.abs().max()) < SILENT:
            raise ValueError("silent: nothing but a DC offset")
    else:
        dc = 0.0
    start = (onset(x) - pre_roll) if align else 0
    x = trim(x[max(start, 0) :])
    if start < 0:
        x = torch.cat([x.new_zeros(-start), x])
    if align and pre_roll:
        ramp = torch.arange(pre_roll, dtype=torch.float64).mul_(-math.pi / pre_roll).cos_().neg_().add_(1).div_(2)
        x = torch.cat([x[:pre_roll] * ramp.to(x)[: len(x)], x[pre_roll:]])
    if len(x) > length:
        x = fade_out(x[:length], round(FADE * length))
    else:
        x = fade_out(x, min(DECLICK, len(x) // 4))
        x = torch.cat([x, x.new_zeros(length - len(x))])
    top = float(x.abs().max())
    return Cut(normalise(x), start, dc, PEAK / top if top > 0 else 1.0)
