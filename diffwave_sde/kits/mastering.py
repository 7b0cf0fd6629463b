"""From sounds as a model made them to sounds for a sampler: another rate, no silence at the end, a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffwave_sde import audio

Levels = Literal["kit", "instrument", "none"]


@dataclass(frozen=True)
class Mastering:
    """What is done to the sounds of a kit.

    rate: Hz.
    levels: kit, one gain for all, which keeps their balance; instrument, one for all hits of an instrument; none.
    peak: level of the loudest sample that the gain brings the sounds to, dBFS.
    silence: what stays below this level to the end is cut off, dB re the sound's own peak.
    """

    rate: int = audio.RATE
    levels: Levels = "kit"
    peak: float = -1.0
    silence: float = -60.0

    def __post_init__(self) -> None:
        if self.peak > 0:
            raise ValueError(f"peak = {self.peak:g} dBFS lies above full scale: choose 0 or less")
        if not self.silence < 0:
            raise ValueError(f"silence = {self.silence:g} dB: it is below the peak, so a negative number")

    def prepared(self, x: Tensor, rate: int) -> Tensor:
        """A waveform (T,) at `rate` Hz, resampled, its silent end cut off and faded over 2 ms."""
        x = audio.resample(x, rate, self.rate)
        loud = (x.abs() > 10 ** (self.silence / 20) * float(x.abs().max())).nonzero()
        end = int(loud[-1]) + 1 if len(loud) else 0
        fade = round(audio.DECLICK * self.rate / audio.RATE)
        # The fade follows what is heard, as far as the sound goes on.
        return audio.fade_out(x[: max(end + fade, 1)], fade)

    def gains(self, instruments: Sequence[Sequence[Tensor]]) -> list[float]:
        """The gain of each instrument, dB, from the sounds of all, already prepared. Silence gets none."""
        tops = [max(float(x.abs().max()) for x in sounds) for sounds in instruments]
        if self.levels == "none":
            return [0.0] * len(tops)
        if self.levels == "kit":
            tops = [max(tops)] * len(tops)
        return [self.peak - 20 * math.log10(top) if top > 0 else 0.0 for top in tops]

    def lowered(self, x: Tensor) -> float:
        """The gain of a sound that is alone, dB: it is lowered only where its peak lies above the one asked for."""
        top = float(x.abs().max())
        own = self.gains([[x]])[0] if self.levels == "instrument" else 0.0
        too_loud = self.peak - 20 * math.log10(top) if top > 0 else 0.0
        return own if self.levels != "kit" else min(0.0, too_loud)


def amplified(x: Tensor, decibels: float) -> Tensor:
    """A waveform, louder by so much."""
    return (x.double() * 10 ** (decibels / 20)).to(torch.float32)
