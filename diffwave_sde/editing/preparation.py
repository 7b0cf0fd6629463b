"""A file as the model sees it, and the way back: what is made is given the file's own rate, level, place and length."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.audio.clips import Cut

SEAM = 0.002  # seconds within a made part over which it comes in, and goes out

Regions = list[tuple[float, float]]
"""Parts of a file, (begin, end) each, seconds."""


@dataclass(frozen=True)
class Prepared:
    """A sound as the training data was prepared, and what it takes to come back to the file.

    original: the file's samples, (T,), float32, mono, at its own rate.
    rate: Hz of the file.
    model_rate: Hz of the window.
    cut: the window, and where and how it was cut out of the file at the model's rate.
    """

    original: Tensor
    rate: int
    model_rate: int
    cut: Cut

    @property
    def seconds(self) -> float:
        """Duration of the file."""
        return len(self.original) / self.rate

    @property
    def begin(self) -> float:
        """Seconds of the file at which the window begins; negative where it begins before."""
        return self.cut.start / self.model_rate

    def inside(self, regions: Regions) -> Tensor:
        """Which samples of the window lie in the regions, (length,), bool."""
        return _inside(regions, len(self.cut.window), self.model_rate, self.begin)

    def quieter(self, decibels: float) -> Prepared:
        """The same with its window lowered, for sounds that will be louder than the file."""
        factor = audio.gain_of(-decibels)
        return replace(self, cut=replace(self.cut, window=self.cut.window * factor, gain=self.cut.gain * factor))

    def give_back(self, window: Tensor, regions: Regions | None = None) -> Tensor:
        """The file, (T,), with its window changed to `window` (length,).

        What is added to the file's samples is the change: where nothing changed they come back bit for bit, and so does
        what the window does not hold.

        Args:
            window: at the model's rate and level.
            regions: the only parts that may change; the change comes in and goes out within them.
        """
        change = (window - self.cut.window).double() / self.cut.gain
        if not bool(change.any()):
            return self.original.clone()
        track = placed(change, self.cut.start, len(self.original), self.model_rate, self.rate)
        if self.cut.start + len(change) > math.ceil(len(self.original) * self.model_rate / self.rate):
            track = audio.fade_out(track, audio.DECLICK)  # the file ends within the window, and so must the change
        if regions is not None:
            track = track * envelope(regions, len(track), self.rate)
        return torch.where(track == 0, self.original, self.original + track)


def placed(x: Tensor, start: int, samples: int, model_rate: int, rate: int) -> Tensor:
    """A window x at its place in a file, on the file's own clock, so that no rate moves it by a part of a sample.

    Args:
        x: (T,) at the model's rate.
        start: sample of the file, at that rate, at which it begins; negative where it begins before the file.
        samples: of the file, at its own rate.
        model_rate, rate: Hz of the window and of the file.

    Returns:
        (samples,), float32; zeros around the window.
    """
    length = math.ceil(samples * model_rate / rate)
    track = x.new_zeros(length)
    first, last = max(start, 0), min(start + len(x), length)
    if last > first:
        track[first:last] = x[first - start : last - start]
    track = audio.resample(track.float(), model_rate, rate)[:samples]
    return torch.cat((track, track.new_zeros(samples - len(track))))


def prepare(
    path: str | os.PathLike, length: int, rate: int = audio.RATE, at: float | None = None, paired: bool = False
) -> Prepared:
    """A file as training data was prepared: mono, at the model's rate, from its onset on, without DC, at full level.

    Args:
        path: the file.
        length: samples of the window.
        rate: Hz of the model.
        at: seconds at which the window is to begin; at the onset by default. Silence is cut from its first sample.
        paired: whether it is a part of a track, for a model of pairs: taken from its first sample by default, at its
            own level, for that is how those are trained.

    Raises:
        OSError, ValueError: if the file cannot be read.
    """
    x, source = audio.decode(path)
    return prepared(x, source, length, rate, at, paired)


def prepared(
    x: Tensor, source: int, length: int, rate: int = audio.RATE, at: float | None = None, paired: bool = False
) -> Prepared:
    """As `prepare`, of samples (T,) at `source` Hz."""
    own = audio.resample(x, source, rate)
    if paired or len(own) < 2 or float(own.abs().max()) < audio.SILENT:
        first = max(round((at or 0.0) * rate), 0)
        window = _padded(own[first:], length)
        return Prepared(x, source, rate, Cut(window, first, 0.0, 1.0))
    if at is None:
        return Prepared(x, source, rate, audio.cut(own, length))
    # Not at the onset: as loud as the file's own window would be, and faded nowhere, for it goes on.
    dc = audio.offset(own)
    dc = dc if abs(dc) > audio.TAIL * float(own.abs().max()) else 0.0
    first = round(at * rate)
    window = _padded(own[max(first, 0) :] - dc, length + min(first, 0))
    window = torch.cat((window.new_zeros(-min(first, 0)), window))
    gain = audio.PEAK / max(float((own - dc).abs().max()), audio.SILENT)
    return Prepared(x, source, rate, Cut(window * gain, first, dc, gain))


def parse_regions(text: str, seconds: float) -> Regions:
    """Parts of a file as a person types them, in seconds: 0.10-0.25,0.3-end.

    Raises:
        ValueError: if one of them is none, or lies beyond the end of the file, of `seconds`.
    """
    regions = []
    for part in text.split(","):
        begin, dash, end = (piece.strip() for piece in part.strip().partition("-"))
        try:
            region = float(begin), seconds if end == "end" else float(end)
        except ValueError:
            region = None
        if not dash or region is None or not all(map(math.isfinite, region)):
            raise ValueError(f"{part.strip() or 'nothing'}: give seconds, BEGIN-END, such as 0.10-0.25 or 0.3-end")
        if region[0] >= region[1]:
            raise ValueError(f"{part.strip()}: ends before it begins; the file ends at {seconds:.3f} s")
        if region[1] > seconds + 0.0005 or region[0] < 0:
            raise ValueError(f"{part.strip()}: lies beyond the file, which ends at {seconds:.3f} s")
        regions.append((region[0], min(region[1], seconds)))
    return regions


def envelope(regions: Regions, length: int, rate: int) -> Tensor:
    """0 outside of the regions, 1 within, and between a raised cosine inside of each: (length,), float32.

    A region that reaches to an end of the file has no seam there.
    """
    t = torch.arange(length, dtype=torch.float64) / rate
    total = torch.zeros(length, dtype=torch.float64)
    for begin, end in regions:
        seam = min(SEAM, (end - begin) / 2)
        rise = ((t - begin) / seam).clamp(0, 1) if begin > 0 else (t >= 0).double()
        fall = ((end - t) / seam).clamp(0, 1) if end < length / rate else torch.ones_like(t)
        total = torch.maximum(total, (0.5 - 0.5 * torch.cos(math.pi * torch.minimum(rise, fall))))
    return total.float()


def _inside(regions: Regions, length: int, rate: int, begin: float) -> Tensor:
    t = begin + torch.arange(length, dtype=torch.float64) / rate
    within = torch.zeros(length, dtype=torch.bool)
    for first, last in regions:
        within |= (t >= first) & (t < last)
    return within


def _padded(x: Tensor, length: int) -> Tensor:
    x = x[:length]
    return torch.cat((x, x.new_zeros(length - len(x))))
