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
    period: the same of the sound, where what comes in are the numbers of its latent.
    plain: whether a frame holds the numbers that come in as they are, in their order.
    """

    bands: int = 1
    hop: int = 1
    plain: bool = False

    @property
    def period(self) -> int:
        return self.hop

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

    plain = True

    def coarser(self, factor: int, lowest: int | None = None) -> Front:
        return MDCT(factor, lowest=lowest)

    def analyse(self, x: Tensor) -> Tensor:
        return x

    def synthesise(self, y: Tensor) -> Tensor:
        return y


class Fold(Front):
    """So many numbers in a row are a frame: the channels of a latent, which lie in one sequence frame after frame.

    Args:
        bands: numbers of a frame.
        samples: of the sound, that a frame stands for; null for as many as numbers.
    """

    plain = True

    def __init__(self, bands: int = 32, samples: int | None = None):
        super().__init__()
        if bands < 1 or (samples is not None and samples < 1):
            raise ValueError(f"bands = {bands} and samples = {samples} of a frame must be at least 1")
        self.bands = self.hop = bands
        self.samples = samples

    @property
    def period(self) -> int:
        return self.samples or self.hop

    def coarser(self, factor: int, lowest: int | None = None) -> Fold:
        if lowest is not None:
            raise ValueError(f"lowest = {lowest}: the numbers of a latent are in no order; set lowest to null")
        return Fold(self.bands * factor, self.period * factor)

    def analyse(self, x: Tensor) -> Tensor:
        frames = x.unflatten(-1, (-1, self.bands))  # (B, C, frames, bands)
        return frames.mT.flatten(1, 2)

    def synthesise(self, y: Tensor) -> Tensor:
        return y.mT.reshape(y.shape[0], 1, -1)


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

    X_k = √(2/b) Σ w_n x_n cos(π/b (n + ½ + b/2)(k + ½)): the 2b windowed samples (a, b, c, d) of a frame, folded to the
    b numbers (-c reversed - d, a - b reversed), and a DCT of type IV of these, in half the products.
    Source: Princen, Johnson and Bradley 1987; Malvar 1992 for the folding.

    Args:
        bands: coefficients per frame, and samples between frames; 60 are 1.4 ms and 367 Hz a band at 44.1 kHz.
        window: "sine" keeps a line within fewer bands; "kbd", Kaiser and Bessel's derived one with α = 4, leaves less
            of it in the far ones.
        lowest: how many of the bands are kept, the lowest; null for all. With fewer, what comes back is a projection.
    """

    cosines: Tensor
    taper: Tensor

    def __init__(self, bands: int = 60, window: Literal["sine", "kbd"] = "sine", lowest: int | None = None):
        super().__init__()
        if bands < 2 or bands % 2:
            raise ValueError(f"bands = {bands}: the MDCT needs an even number of bands, at least 2")
        if window not in WINDOWS:
            raise ValueError(f"window = {window!r}: choose {' or '.join(WINDOWS)}")
        if lowest is not None and lowest < 1:
            raise ValueError(f"lowest = {lowest}: keep at least one band, or null for all")
        self.bands, self.hop, self.window = min(bands, lowest or bands), bands, window
        n = torch.arange(bands, dtype=torch.float64) + 0.5
        cosines = math.sqrt(2 / bands) * (math.pi / bands * n * n[:, None]).cos()
        self.register_buffer("cosines", cosines[: self.bands].float(), persistent=False)
        self.register_buffer("taper", WINDOWS[window](bands).float(), persistent=False)

    def coarser(self, factor: int, lowest: int | None = None) -> MDCT:
        return MDCT(self.hop * factor, self.window, lowest)

    def analyse(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape
        blocks = functional.pad(x, (self.hop, self.hop)).reshape(batch * channels, -1, self.hop)
        rise, fall = self.taper.to(x).chunk(2)
        a, b = (blocks[:, :-1] * rise).chunk(2, -1)
        c, d = (blocks[:, 1:] * fall).chunk(2, -1)
        folded = torch.cat((-c.flip(-1) - d, a - b.flip(-1)), -1)
        with torch.autocast(x.device.type, enabled=False):  # a transform of eight bits would be an isometry no more
            y = folded.flatten(0, 1) @ self.cosines.to(x).T
        return y.unflatten(0, folded.shape[:2]).mT.reshape(batch, channels * self.bands, -1)

    def synthesise(self, y: Tensor) -> Tensor:
        frames = y.mT
        with torch.autocast(y.device.type, enabled=False):
            folded = frames.flatten(0, 1) @ self.cosines.to(y)
        p, q = folded.unflatten(0, frames.shape[:2]).chunk(2, -1)
        rise, fall = self.taper.to(y).chunk(2)
        early = torch.cat((q, -q.flip(-1)), -1) * rise
        late = torch.cat((p.flip(-1), p), -1) * fall
        # A frame begins where the one before it has its middle; the outer halves of the outer ones lie beyond the ends.
        return (early[:, 1:] - late[:, :-1]).reshape(y.shape[0], 1, -1)
