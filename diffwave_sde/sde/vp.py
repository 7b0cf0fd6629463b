"""Variance-preserving processes and their kin: as the noise comes in, the waveform fades out."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from diffwave_sde.bounds import ordered, positive
from diffwave_sde.sde.process import ScalarSDE

# cos(π/2) is 0 and its logarithm -inf: from here on the waveform stands still, 116 dB down.
_LAST = 1 - 1e-6


class Preserving(ScalarSDE):
    """σ² = 1 - m²: data of unit variance keep it. Source: Song et al. 2021, eq. 11, with the kernel of eq. 29."""

    stationary = (1.0,)

    @final
    def sigma(self, t: Tensor) -> Tensor:
        # Song et al. 2021, eq. 29, VP. expm1: 1 - exp(-x) loses its digits at small t.
        return (-torch.expm1(2 * self.log_mean(t))).sqrt()


class LinearBeta(ScalarSDE):
    """m² = exp(-∫β), with β(t) = β_min + (β_max - β_min) t. Source: Song et al. 2021, eq. 32 and 33.

    Args:
        beta_min: noise rate β at t = 0.
        beta_max: noise rate β at t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        ordered(beta_min=beta_min, beta_max=beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    @final
    def log_mean(self, t: Tensor) -> Tensor:
        # Song et al. 2021, eq. 33: log m = -¼ t² (β_max - β_min) - ½ t β_min
        return -0.5 * (self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square())


class VP(LinearBeta, Preserving):
    """Variance preserving with linear β: du = -½ β u dt + √β dW. Source: Song et al. 2021, eq. 11, 29 and 33.

        log m(t) = -½ ∫β = -¼ t² (β_max - β_min) - ½ t β_min,    σ²(t) = 1 - exp(-∫β) = 1 - m²(t)

    m is that of `LinearBeta`, σ that of `Preserving`.
    """

    def invert_log_snr(self, target: Tensor) -> Tensor:
        # snr = m² / (1 - m²), so ∫β = log(1 + 1 / snr): a quadratic equation for t, solved without a difference.
        integral, slope = functional.softplus(-target, threshold=800), self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())


class SubVP(LinearBeta):
    """sub-VP with linear β: du = -½ β u dt + √(β (1 - e^(-2∫β))) dW. Source: Song et al. 2021, eq. 12, 29 and 33.

        log m(t) = -½ ∫β = -¼ t² (β_max - β_min) - ½ t β_min,    σ(t) = 1 - exp(-∫β) = 1 - m²(t)

    m is that of `LinearBeta`, as in VP.
    """

    t_min = 1e-3

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_mean(t))  # Song et al. 2021, eq. 29, sub-VP


class CosineVP(Preserving):
    """Variance preserving, m = cos(a(t)) / cos(a(0)), a = (t + s) / (1 + s) π/2. Source: Nichol 2021, eq. 17.

    Args:
        offset: s, which keeps β from vanishing at t = 0.
    """

    # m reaches 0 at t = 1: networks are trained up to an SNR of 2.4e-6 (-56 dB).
    t_max = 0.999

    def __init__(self, offset: float = 0.008):
        super().__init__()
        positive(offset=offset)
        self.offset = offset

    def log_mean(self, t: Tensor) -> Tensor:
        # cos(a) / cos(a0) = cos(d) - sin(d) tan(a0), d = a - a0; less one: its logarithm keeps its digits at small t.
        scale = math.pi / 2 / (1 + self.offset)
        d = scale * t.clamp_max(_LAST)
        return torch.log1p(-2 * (d / 2).sin().square() - d.sin() * math.tan(scale * self.offset))


class SigmoidVP(Preserving):
    """Variance preserving, σ² = sigmoid(rate t - shift). Source: Rouard and Hadjeres 2021, their released code.

    It begins with noise at -80 dBFS, and as released ends at m = 0.14: a trace of the waveform outlasts it. The prior
    is the process's own final law, N(0, 0.98); a larger `rate` leaves less.

    Args:
        rate: how fast the log-SNR falls, nepers (of power) per unit of time.
        shift: the log-SNR at t = 0, nepers (of power).
    """

    def __init__(self, rate: float = 22.31, shift: float = 18.42):
        super().__init__()
        positive(rate=rate, shift=shift)
        self.rate, self.shift = rate, shift

    def log_mean(self, t: Tensor) -> Tensor:
        return -0.5 * functional.softplus(self.rate * t - self.shift, threshold=800)


class CosineSigma(ScalarSDE):
    """σ = ½ (1 - cos πt), the schedule of Rouard and Hadjeres 2021."""

    @final
    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t.clamp_max(_LAST)).sin().square()


class CrashVP(CosineSigma):
    """CRASH's variance-preserving process: σ = ½ (1 - cos πt), m² = 1 - σ². Source: Rouard and Hadjeres 2021, § 3."""

    t_min, t_max = 0.007, 0.993

    def log_mean(self, t: Tensor) -> Tensor:
        return log_mean_of_sine(t, 2.0, 0.5)


class CrashSubVP(CosineSigma):
    """CRASH's sub-VP process: σ = ½ (1 - cos πt), m² = 1 - σ. Source: Rouard and Hadjeres 2021, § 3."""

    t_min, t_max = 0.006, 0.994

    def log_mean(self, t: Tensor) -> Tensor:
        return log_mean_of_sine(t, 1.0, 0.5)


class GeneralSubVP(CosineSigma):
    """The family m = (1 - σ^γ)^η with CRASH's σ = ½ (1 - cos πt). Source: Rouard and Hadjeres 2021, released code.

    (γ, η) = (2, ½) is CrashVP, (1, ½) CrashSubVP, and (1, 1), the default, m = 1 - σ.

    Args:
        gamma: γ, at least ½; the smaller, the earlier the waveform fades.
        eta: η; the larger, the earlier the waveform fades.
    """

    t_min, t_max = 0.006, 0.994

    def __init__(self, gamma: float = 1.0, eta: float = 1.0):
        super().__init__()
        positive(eta=eta)
        if gamma < 0.5:
            raise ValueError(f"gamma = {gamma:g} must be at least 0.5: below it the drift at t = 0 has no bound")
        self.gamma, self.eta = gamma, eta

    def log_mean(self, t: Tensor) -> Tensor:
        return log_mean_of_sine(t, self.gamma, self.eta)


def log_mean_of_sine(t: Tensor, gamma: float, eta: float) -> Tensor:
    """η log(1 - σ^γ) for σ = sin²(πt/2)."""
    return eta * torch.log1p(-(math.pi / 2 * t.clamp_max(_LAST)).sin().pow(2 * gamma))
