r"""From densities to bits: the levels that 16-bit sound can have.

A sample x stands for all values that round to it, the cell [x - Δ/2, x + Δ/2), Δ = 2⁻¹⁵. Its probability is
P(x) = ∫ p(x + δ) dδ over the cell, and with δ uniform in it

    -log₂ P(x)  <=  E[-log₂ p(x + δ)] - log₂ Δ          per sample: 15 - log₂ p         (Theis et al. 2016, § 3.1)

So bits are never below 0 in the mean, even of a sound that ends in exact zeros, whose density at x itself grows without
end as the model's noise goes to nothing. A model sees y = c(x), companded, and log p(x) = log p(y) + Σ log c'(x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffwave_sde.random import Generator, rand
from diffwave_sde.sde import float64


@dataclass(frozen=True)
class Levels:
    """The grid of levels of a sound, and its companding.

    mu: of the companding, 0 for none.
    bits: resolution; 16 of what a store holds.
    """

    mu: float = 0.0
    bits: int = 16

    @property
    def width(self) -> float:
        """Δ, of full scale."""
        return 2.0 ** (1 - self.bits)

    def round(self, x: Tensor) -> Tensor:
        """Waveforms on the grid: x in [-1, 1] -> the nearest of its levels."""
        top = 2.0 ** (self.bits - 1)
        return (float64(x) * top).round().clamp(-top, top - 1) / top

    def compress(self, x: Tensor) -> Tensor:
        """c(x), float64; beyond full scale it goes on as it is, since a cell may end there."""
        x = float64(x)
        return x if self.mu == 0 else x.sign() * torch.log1p(self.mu * x.abs()) / math.log1p(self.mu)

    def log_slope(self, x: Tensor) -> Tensor:
        """Σ log c'(x), (B,), for x (B, C, T)."""
        x = float64(x)
        if self.mu == 0:
            return x.new_zeros(len(x))
        slope = math.log(self.mu / math.log1p(self.mu)) - torch.log1p(self.mu * x.abs())
        return slope.flatten(1).sum(1)

    def dequantise(self, x: Tensor, generator: Generator = None) -> Tensor:
        """x (B, C, T) on the grid, each sample moved to a chance place in its cell; float64."""
        return float64(x) + self.width * (float64(rand(x.shape, generator, torch.float32, x.device)) - 0.5)

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where the cells of x on the grid begin and end, companded, float64; the outermost have no outer end."""
        half = self.width / 2
        low, high = self.compress(float64(x) - half), self.compress(float64(x) + half)
        top = 1 - 1.5 * self.width
        return torch.where(x <= -1 + half, -math.inf, low), torch.where(x > top, math.inf, high)

    def bits_of(self, nats: Tensor, count: int, cells: bool) -> Tensor:
        """Bits per sample of log p (nats) of `count` samples: of a density, or of a probability of cells."""
        return -nats / (count * math.log(2)) - (0.0 if cells else math.log2(self.width))


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) - Φ(low)) for low < high, float64, right in both tails."""
    flip = low + high > 0
    below, above = torch.where(flip, -high, low), torch.where(flip, -low, high)
    top = torch.special.log_ndtr(above)
    return top + torch.log(-torch.expm1((torch.special.log_ndtr(below) - top).clamp_max(-1e-300)))
