"""Variance-exploding processes: m = 1, and noise is added until nothing else is heard."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from diffwave_sde.bounds import ordered
from diffwave_sde.sde.process import ScalarSDE


class Exploding(ScalarSDE):
    """A process of m = 1."""

    @final
    def log_mean(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class VE(Exploding):
    """Variance exploding: σ(t) = σ_min (σ_max / σ_min)ᵗ. Source: Song et al. 2021, eq. 30 and 31.

    Args:
        sigma_min: noise level at t = 0, in units of the waveform.
        sigma_max: noise level at t = 1; null for the largest distance between two training sounds, measured when
            training starts (Song and Ermon 2020, technique 1).
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float | None = 50.0):
        super().__init__()
        ordered(sigma_min=sigma_min, sigma_max=50.0 if sigma_max is None else sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        if sigma_max is None:
            self.register_buffer("measured", torch.tensor(50.0))

    def adapt(self, diameter: Callable[[], float]) -> None:
        if self.sigma_max is None:
            self.measured.fill_(max(diameter(), 2 * self.sigma_min))

    def sigma(self, t: Tensor) -> Tensor:
        if self.sigma_max is not None:
            return self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()
        return self.sigma_min * (t * (self.measured.to(t) / self.sigma_min).log()).exp()

    def invert_log_snr(self, target: Tensor) -> Tensor:
        end = self.measured.to(target) if self.sigma_max is None else torch.full_like(target, self.sigma_max)
        return (-0.5 * target - math.log(self.sigma_min)) / (end / self.sigma_min).log()


class PowerVE(Exploding):
    """Variance exploding with g = σᵗ: σ²(t) = (σ²ᵗ - 1) / (2 ln σ), no noise at t = 0. Source: Song 2021, tutorial.

    Args:
        base: σ. The tutorial's 25 ends at 9.8; sounds need more, or some of them is left at t = 1: 150 ends at 47.
    """

    t_min = 1e-7

    def __init__(self, base: float = 150.0):
        super().__init__()
        if base <= 1:
            raise ValueError(f"base = {base:g} must exceed 1")
        self.base = base

    def sigma(self, t: Tensor) -> Tensor:
        rate = 2 * math.log(self.base)
        return (torch.expm1(rate * t) / rate).sqrt()


class EDM(Exploding):
    """σ proportional to time, σ(t) = σ_max t. Source: Karras et al. 2022, table 1.

    Args:
        sigma_min: noise level at which training and sampling stop, in units of the waveform.
        sigma_max: noise level at t = 1.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__()
        ordered(sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_max = sigma_max
        self.t_min = sigma_min / sigma_max

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def invert_log_snr(self, target: Tensor) -> Tensor:
        return (-0.5 * target).exp() / self.sigma_max
