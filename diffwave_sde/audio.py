r"""Waveforms: mu-law companding, reading, writing, and cutting a recording to one window.

A sound here is mono, 44.1 kHz, float32 in [-1, 1]. A network sees it companded,

    y = sign(x) log(1 + mu |x|) / log(1 + mu),        mu = 255,

because a decaying tail 60 dB below the attack is audible: on the companded scale it is 0.04, not 0.001.

`window` turns any recording into `length` samples of which the first `PRE_ROLL` are what was there before
the onset, faded in: DC out, onset found, cut or padded, tail faded, peak at `PEAK`. Every one-shot of a
store thus begins at the same sample.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
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


# -------------------------------------------------------------------------------------------- companding


def compress(x: Tensor, mu: float = 255.0) -> Tensor:
    """Compands a waveform with the continuous mu-law.

    Args:
        x: waveform in [-1, 1], any shape
        mu: strength of the companding; 0 is the identity

    Returns:
        y in [-1, 1], of x's shape and dtype

    Raises:
        ValueError: if mu is negative

    Source: ITU-T G.711, without its quantisation
    """
    if mu < 0:
        raise ValueError(f"mu must be 0 (no companding) or positive, not {mu}")
    return x if mu == 0 else x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)


def expand(y: Tensor, mu: float = 255.0) -> Tensor:
    """Inverts `compress`; y is clamped to [-1, 1] first, since y = 1.1 would expand to 1.74."""
    if mu < 0:
        raise ValueError(f"mu must be 0 (no companding) or positive, not {mu}")
    if mu == 0:
        return y
    y = y.clamp(-1.0, 1.0)
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu


# ---------------------------------------------------------------------------------------- reading, writing


def decode(path: str | os.PathLike, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads any file that libsndfile reads, mixed to mono, at its own rate.

    The channels are averaged; where they cancel (out of phase), the loudest one is taken instead.

    Args:
        path: the file
        seconds: read no more than this from its beginning; None reads all of it

    Returns:
        waveform (T,), float32, and its sample rate in Hz

    Raises:
        OSError: if the file is missing, unreadable or not audio
        ValueError: if it is empty, truncated, at an impossible rate, or holds NaN or infinities
    """
    name = os.fspath(path)
    try:
        # bytes: a file name need not be valid text
        with soundfile.SoundFile(os.fsencode(name)) as file:
            rate, log = file.samplerate, file.extra_info
            # an MPEG header's frame count may be an estimate
            share = 0.95 if file.format in ("MP3", "MPEG") else 1.0
            if not 1_000 <= rate <= 768_000:  # resampling a header's 1 Hz to 44.1 kHz would fill the memory
                raise ValueError(f"{name}: sample rate {rate} Hz is outside 1,000 to 768,000 Hz")
            wanted = file.frames if seconds is None else min(file.frames, round(seconds * rate))
            # in blocks: a broken header may claim more frames than memory has bytes
            blocks, have = [], 0
            while have < wanted:
                block = file.read(min(wanted - have, 1 << 18), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block)
                have += len(block)
    except (soundfile.LibsndfileError, TypeError, OSError) as error:
        raise OSError(f"{name}: {_reason(name, error)}") from error
    if have < wanted * share or _cut_short(log):
        raise ValueError(f"{name}: truncated: the header promises more than the file holds")
    if not have:
        raise ValueError(f"{name}: empty: no samples")
    x = torch.from_numpy(np.concatenate(blocks))  # (T, channels)
    if not x.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite samples")
    mono = x.mean(1)
    if x.shape[1] > 1:
        peaks = x.abs().amax(0)
        if mono.abs().max() < 0.1 * peaks.max():
            mono = x[:, peaks.argmax()].clone()
    return mono, rate


def read(path: str | os.PathLike, rate: int = RATE, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads a file as `decode` does and resamples it.

    Returns:
        waveform (T,), mono float32 at `rate`, and the file's own sample rate in Hz

    Raises:
        OSError, ValueError: as `decode`
    """
    x, source = decode(path, seconds)
    return resample(x, source, rate), source


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


def write(path: str | os.PathLike, x: Tensor, rate: int = RATE) -> None:
    """Writes a waveform as a 24-bit WAV file, at the level that it has; nothing is normalised.

    The file appears whole or not at all; missing folders are made.

    Args:
        path: the file
        x: waveform, (T,) or (channels, T); what exceeds full scale is clamped
        rate: sample rate, Hz

    Raises:
        ValueError: if x has another shape, or holds NaN or infinities
        OSError: if the file cannot be written
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"{path}: a waveform is (T,) or (channels, T), not {tuple(x.shape)}")
    x = x.detach().to("cpu", torch.float64)
    if not x.isfinite().all():
        raise ValueError(f"{path}: not written: the waveform holds NaN or infinite samples")
    full = 1.0 - 2.0**-23  # the largest positive sample of 24 bits; above it libsndfile may wrap
    frames = x.clamp(-1.0, full).movedim(-1, 0)
    with replacing(path) as temporary:
        try:
            soundfile.write(os.fsencode(temporary), frames.numpy(), rate, format="WAV", subtype="PCM_24")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path}: cannot be written: {error.error_string}") from error


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place on success and is removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _reason(name: str, error: Exception) -> str:
    if os.path.islink(name) and not os.path.exists(name):
        return "dangling link"
    if not os.path.exists(name):
        return "no such file"
    if os.path.isdir(name):
        return "a folder, not a file"
    if not os.access(name, os.R_OK):
        return "no permission to read it"
    if os.path.getsize(name) == 0:
        return "empty: no bytes"
    return f"not readable as audio ({getattr(error, 'error_string', error)})".replace(" .)", ")")


def _cut_short(log: str) -> bool:
    """Whether libsndfile's log says that the chunk of samples is longer than the file.

    libsndfile reads such a file without complaint: "data : 88200 (should be 4096)". A size of 2 or 4 GiB is
    a writer to a pipe that never came back to fill it in, and a few bytes are padding: both are whole.
    """
    if "ended unexpectedly" in log:  # Ogg
        return True
    for line in log.splitlines():
        name, _, sizes = line.partition(":")
        if "(should be" in sizes and name.strip(" *").lower() in ("data", "ssnd", "data size"):
            promised, held = (int(part.strip(" )")) for part in sizes.split("(should be"))
            return held + 16 < promised < 0x7FFF_0000
    return False


# ------------------------------------------------------------------------------------------------ windows


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


def normalise(x: Tensor, peak: float = PEAK) -> Tensor:
    """Scales a waveform so that its largest magnitude is `peak`; silence stays silence."""
    top = x.abs().max()
    return x * (peak / top) if top > 0 else x


def window(x: Tensor, length: int = LENGTH, pre_roll: int = PRE_ROLL, align: bool = True) -> Tensor:
    """Cuts one window out of a recording: aligned at its onset, faded, padded, peak-normalised.

    Args:
        x: waveform (T,) at 44.1 kHz
        length: samples to return
        pre_roll: index of the onset in the window, samples; what precedes it is faded in
        align: False starts at x's first sample, for sounds that begin where they should

    Returns:
        (length,), float32, peak at `PEAK`, ending at zero

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
    return normalise(x)
