r"""Parametrizations: what a network's output stands for, (skip, out) in D = skip · u + out · net.

Predicting the waveform, ε, the score, v or EDM's F is a choice of the two. With y = Mᵀ Σ⁻¹ u / snr, the matched
statistic, all that u_t says of x, one formula serves scalar and Langevin processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative
from diffwave_sde.sde import Kernel


class Parametrization(ABC):
    """What the network's output stands for: (skip, out) in D = skip · u + out · net."""

    @abstractmethod
    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        """(skip (B, S), out (B,)), float64, at the kernel's times, for data of standard deviation `sigma_data`."""


class X0(Parametrization):
    """The network gives the clean waveform itself. Source: Ho et al. 2020, section 3.2."""

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(kernel.M), torch.ones_like(kernel.snr)


class Epsilon(Parametrization):
    """The network gives the noise of the block that noise enters: ε where S = 1, ε_v in Langevin dynamics.

    Where the signal in that block has no mean (L⁻¹ M passes zero there, as it does in underdamped Langevin dynamics),
    ε_v says nothing of x and no denoiser follows from it: choose another.

    Source: Ho et al. 2020, eq. 12; Dockhorn et al. 2022, section 3.2.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # ε_S = r·(u - M x), r the last row of L⁻¹, solved for x.
        row = kernel.inverse[..., -1, :]
        signal = kernel.whitened[..., -1]
        return row / signal[..., None], -1 / signal


class Score(Parametrization):
    """The network gives the score in the block that noise enters, ∇ log p(u_t); the same reserve as for Epsilon.

    Source: Song et al. 2021, eq. 7.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        matched = kernel.matched[..., -1]
        return kernel.precision[..., -1, :] / matched[..., None], 1 / matched


class MixedScore(Parametrization):
    """The network gives what the noise ε of the last block has beyond that of Gaussian data of the same power.

    The score is -u / Var(u) of the last block, less net / L_SS: at high noise, where the velocity is all but normal,
    nothing is left to learn. The same reserve as for Epsilon. Source: Dockhorn et al. 2022, section 3.2, "mixed score".
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # ε_S = r·(u - M x) = u_S L_SS / Var(u_S) + net, solved for x.
        row, signal = kernel.inverse[..., -1, :], kernel.whitened[..., -1]
        variance = kernel.M[..., -1].square() * sigma_data.square() + kernel.L[..., -1, :].square().sum(-1)
        normal = kernel.L[..., -1, -1] / variance
        rest = torch.cat((row[..., :-1], (row[..., -1] - normal)[..., None]), -1)
        return rest / signal[..., None], -1 / signal


class V(Parametrization):
    """The network gives v = α n - σ x, where α y is the matched statistic scaled to α² + σ² = 1.

    Source: Salimans and Ho 2022, appendix D.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        noise = 1 / (1 + kernel.snr)  # σ² = 1 / (1 + snr), α² = snr / (1 + snr), x = α (α y) - σ v
        return kernel.matched * noise[..., None], -noise.sqrt()


class Karras(Parametrization):
    """EDM's preconditioning: an output of unit variance with the least amplified error. Source: Karras 2022, eq. 7.

    D = c_skip y + c_out net, with y = matched·u / snr = x + n / √snr the matched statistic, so σ² = 1 / snr.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # Karras et al. 2022, table 1, with numerator and denominator over σ² σ_d²: an SNR of 0 stays finite.
        precision = 1 / sigma_data.square() + kernel.snr  # 1 / σ_d² + 1 / σ²
        c_skip = kernel.matched / precision[..., None]  # c_skip · u = σ_d² / (σ² + σ_d²) y
        c_out = precision.rsqrt()  # σ σ_d / √(σ² + σ_d²)
        return c_skip, c_out


class Consistency(Parametrization):
    """Karras's preconditioning with the states at the noise level `sigma_min` taken for the sounds: D = u there.

    c_skip = σ_d² / ((σ - σ_min)² + σ_d²), c_out = σ_d (σ - σ_min) / √((σ - σ_min)² + σ_d²), in the matched statistic,
    so c_skip = 1 and c_out = 0 at σ_min, and below it. Source: Song et al. 2023, eq. 8 and appendix C, but for their
    c_out, in whose denominator σ_min is not taken off.

    Args:
        sigma_min: noise level, σ = 1 / √snr; at 0 it is Karras's, and no noise is left in sounds (Geng et al. 2024).
    """

    def __init__(self, sigma_min: float = 0.0):
        not_negative(sigma_min=sigma_min)
        self.sigma_min = sigma_min

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # (σ - σ_min)² = rest² / snr, so that an SNR of 0 stays finite.
        rest = (1 - self.sigma_min * kernel.snr.sqrt()).clamp_min(0)
        precision = rest.square() / sigma_data.square() + kernel.snr
        return kernel.matched / precision[..., None], rest * precision.rsqrt()
