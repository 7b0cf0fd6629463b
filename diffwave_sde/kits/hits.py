"""How a hit is: its level, how bright it is, how long it rings; and hits in the order of how hard they sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def level(x: Tensor) -> float:
    """Energy of a waveform (T,), dB re one sample at full scale; -120 for silence."""
    return 10 * float(x.double().square().sum().clamp_min(1e-12).log10())


def brightness(x: Tensor, rate: int) -> float:
    """Spectral centroid of a waveform (T,), Hz: the mean frequency, weighted by the magnitude; 0 for silence."""
    magnitude = torch.fft.rfft(x.double()).abs()
    hz = torch.linspace(0, rate / 2, len(magnitude), dtype=torch.float64)
    return float((hz * magnitude).sum() / magnitude.sum().clamp_min(1e-12))


def decay(x: Tensor, rate: int) -> float:
    """Seconds from the peak until what is left to come lies 30 dB below all of it.

    Source: Schroeder 1965, backward integration.
    """
    power = x.double().square()
    left = power[int(power.argmax()) :].flip(0).cumsum(0).flip(0)
    return float((left > 1e-3 * left[0]).sum()) / rate


def softest_first(sounds: Sequence[Tensor], rate: int) -> list[int]:
    """The places of waveforms (T,) in the order of how hard a hit they sound.

    A harder hit is louder and brighter: what orders them is the mean of both ranks, then the level.
    """
    levels = [level(x) for x in sounds]
    centroids = [brightness(x, rate) for x in sounds]

    def rank(values: list[float], i: int) -> int:
        return sorted(values).index(values[i])

    return sorted(range(len(sounds)), key=lambda i: (rank(levels, i) + rank(centroids, i), levels[i]))
