"""Front ends: fixed, invertible views of a waveform in which a U-Net works.

An orthonormal view leaves white noise white, but for the half-empty frames at either end; so processes and samplers
stay on the waveform and know nothing of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Front(nn.Module, ABC):
    """A linear isometry between waveforms and frames.

    bands: coefficients per channel and frame.
    hop: samples between frames.
    """

    bands: int = 1
    hop: int = 1

    @abstractmethod
    def coarser(self, factor: int, lowest: int | None = None) -> Front:
        """A front of `factor` times as many bands, in frames as much longer; or of its `lowest` bands alone."""

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """x (B, C, T), T a multiple of the hop -> (B, C·bands, frames)."""

    @abstractmethod
    def synthesise(self, y: Tensor) -> Tensor:
        """The adjoint and inverse: y (B, bands, frames) -> (B, 1, T)."""


class Waveform(Front):
    """The samples themselves."""

    def coarser(self, factor: int, lowest: int | None = None) -> Front:
        return MDCT(factor, lowest=lowest)

    def analyse(self, x: Tensor) -> Tensor:
        return x

    def synthesise(self, y: Tensor) -> Tensor:
        return y


def _sine(bands: int) -> Tensor:
    return (math.pi * (torch.arange(2 * bands, dtype=torch.float64) + 0.5) / (2 * bands)).sin()


def _kaiser_bessel(bands: int) -> Tensor:
    # α = 4, the choice of AAC. Source: Fielder et al. 1996, eq. 1.
    kaiser = torch.kaiser_window(bands + 1, periodic=False, beta=4 * math.pi, dtype=torch.float64)
    rising = (kaiser[:-1].cumsum(0) / kaiser.sum()).sqrt()
    return torch.cat((rising, rising.flip(0)))


WINDOWS = {"sine": _sine, "kbd": _kaiser_bessel}


class MDCT(Front):
    """Modified discrete cosine transform: an orthonormal lapped transform.

    Source: Princen, Johnson and Bradley 1987; X_k = √(2/b) Σ w_n x_n cos(π/b (n + ½ + b/2)(k + ½)).

    Args:
        bands: coefficients per frame, and samples between frames; 60 are 1.4 ms and 367 Hz a band at 44.1 kHz.
        window: "sine" keeps a line within fewer bands; "kbd", Kaiser and Bessel's derived one with α = 4, leaves less
            of it in the far ones.
        lowest: how many of the bands are kept, the lowest; null for all. With fewer, what comes back is a projection.
    """

    basis: Tensor

    def __init__(self, bands: int = 60, window: Literal["sine", "kbd"] = "sine", lowest: int | None = None):
        super().__init__()
        if bands < 2 or bands % 2:
            raise ValueError(f"bands = {bands}: the MDCT needs an even number of bands, at least 2")
        if window not in WINDOWS:
            raise ValueError(f"window = {window!r}: choose {' or '.join(WINDOWS)}")
        if lowest is not None and lowest < 1:
            raise ValueError(f"lowest = {lowest}: keep at least one band, or null for all")
        self.bands, self.hop, self.window = min(bands, lowest or bands), bands, window
        n = torch.arange(2 * bands, dtype=torch.float64) + 0.5
        k = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
        basis = math.sqrt(2 / bands) * WINDOWS[window](bands) * (math.pi / bands * (n + bands / 2) * k).cos()
        self.register_buffer("basis", basis[: self.bands, None].float(), persistent=False)

    def coarser(self, factor: int, lowest: int | None = None) -> MDCT:
        return MDCT(self.hop * factor, self.window, lowest)

    def analyse(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        with torch.autocast(x.device.type, enabled=False):  # a transform of eight bits would be an isometry no more
            y = functional.conv1d(x.reshape(-1, 1, length), self.basis.to(x), stride=self.hop, padding=self.hop)
        return y.reshape(batch, channels * self.bands, -1)

    def synthesise(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return functional.conv_transpose1d(y, self.basis.to(y), stride=self.hop, padding=self.hop)
