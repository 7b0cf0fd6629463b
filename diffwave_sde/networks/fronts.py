"""Front ends: fixed, invertible views of a waveform in which a U-Net works.

An orthonormal view leaves white noise white, but for the half-empty frames at either end; so processes and samplers
stay on the waveform and know nothing of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

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
    def analyse(self, x: Tensor) -> Tensor:
        """x (B, C, T), T a multiple of the hop -> (B, C·bands, frames)."""

    @abstractmethod
    def synthesise(self, y: Tensor) -> Tensor:
        """The adjoint and inverse: y (B, bands, frames) -> (B, 1, T)."""


class Waveform(Front):
    """The samples themselves."""

    def analyse(self, x: Tensor) -> Tensor:
        return x

    def synthesise(self, y: Tensor) -> Tensor:
        return y


class MDCT(Front):
    """Modified discrete cosine transform with a sine window: an orthonormal lapped transform.

    Source: Princen, Johnson and Bradley 1987; X_k = √(2/b) Σ w_n x_n cos(π/b (n + ½ + b/2)(k + ½)).

    Args:
        bands: coefficients per frame, and samples between frames; 60 are 1.4 ms and 367 Hz a band at 44.1 kHz.
    """

    basis: Tensor

    def __init__(self, bands: int = 60):
        super().__init__()
        if bands < 2 or bands % 2:
            raise ValueError(f"bands = {bands}: the MDCT needs an even number of bands, at least 2")
        self.bands = self.hop = bands
        n = torch.arange(2 * bands, dtype=torch.float64) + 0.5
        k = torch.arange(bands, dtype=torch.float64)[:, None] + 0.5
        window = (math.pi * n / (2 * bands)).sin()
        basis = math.sqrt(2 / bands) * window * (math.pi / bands * (n + bands / 2) * k).cos()
        self.register_buffer("basis", basis[:, None].float(), persistent=False)

    def analyse(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        with torch.autocast(x.device.type, enabled=False):  # a transform of eight bits would be an isometry no more
            y = functional.conv1d(x.reshape(-1, 1, length), self.basis.to(x), stride=self.hop, padding=self.hop)
        return y.reshape(batch, channels * self.bands, -1)

    def synthesise(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return functional.conv_transpose1d(y, self.basis.to(y), stride=self.hop, padding=self.hop)
