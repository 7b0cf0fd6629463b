r"""Weights of the denoiser's squared error.

Errors of whatever a network gives are multiples of D - x, so each objective is a weight: with h = L⁻¹ M and S the block
that noise enters, the error of ε is h (x - D), that of the score Σ⁻¹ M (D - x), that of v √(1 + snr) (D - x).

So is the loss of variational diffusion, with γ = -log snr and times uniform in t (Kingma et al. 2021, eq. 17):

    ½ γ'(t) |ε - ε̂|² = ½ γ'(t) snr |D - x|² = -½ dsnr/dt |D - x|²,    w = -½ dsnr/dt    (`LikelihoodWeight`)

Its mean L̄ = E[L] depends on γ by the ends alone. A process that learns γ between them, `sde.VDM`, lessens the variance
of L instead, by the gradient of E[L²] (app. I.2): the objective shows it L through `SDE.observe`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.sde import SDE, Kernel


@dataclass(frozen=True)
class WeightInputs:
    """Where a loss is weighed.

    sde: the process.  t: times, (B,), float64.  kernel: its kernel there.  sigma_data: of the data, float64.
    """

    sde: SDE
    t: Tensor
    kernel: Kernel
    sigma_data: Tensor

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio, (B,), in power."""
        return self.kernel.snr


class Weight(nn.Module, ABC):
    """The weight of the squared error |D - x|².

    invariant: as for a TimeSampler.
    """

    invariant: bool = False

    @abstractmethod
    def forward(self, at: WeightInputs) -> Tensor:
        """w (B,), float64."""


class DataWeight(Weight):
    """w = 1: the error of the clean waveform."""

    def forward(self, at: WeightInputs) -> Tensor:
        return torch.ones_like(at.snr)


class EpsilonWeight(Weight):
    """|ε - ε̂|² in the block that noise enters: w = snr where S = 1, and Dockhorn's hybrid score matching for CLD.

    Score matching with λ = σ², with λ = 1 / E|∇ log p(u_t | x)|² and with λ = ℓ⁻² are the same.

    Source: Ho et al. 2020, eq. 14; Song et al. 2021, § 3.3; Dockhorn et al. 2022, section 3.2 with λ = ℓ_t⁻².
    """

    def forward(self, at: WeightInputs) -> Tensor:
        return at.kernel.whitened[..., -1].square()


class ScoreWeight(Weight):
    """Score matching with λ = 1: |∇ log p - s|² in the block that noise enters. Source: Vincent 2011, eq. 11."""

    def forward(self, at: WeightInputs) -> Tensor:
        return at.kernel.matched[..., -1].square()


class ExtendedWeight(Weight):
    """Score matching in position and velocity, with a weight for each of its terms.

        xx l_xx² |ε_x|² + vv l_vv² |ε_v|² + xv (2 l_xx l_xv ε_x·ε_v + l_xv² |ε_v|²)

    l is L⁻ᵀ, so that -l ε is the score; ε stands for its error. All three at 1 is |∇ log p - s|² of the whole state.

    Args:
        xx: weight of the position's own term.
        vv: weight of the velocity's own term.
        xv: weight of the cross term, from 0 to xx.
    """

    def __init__(self, xx: float = 1.0, vv: float = 1.0, xv: float = 1.0):
        super().__init__()
        if not (0 <= xv <= xx and vv >= 0 and xx + vv > 0):
            raise ValueError(f"xx = {xx:g}, vv = {vv:g}, xv = {xv:g}: need 0 <= xv <= xx, 0 <= vv and one above 0")
        self.xx, self.vv, self.xv = xx, vv, xv

    def forward(self, at: WeightInputs) -> Tensor:
        l, h = at.kernel.inverse.mT, at.kernel.whitened
        x = l[..., 0, 0] * h[..., 0]
        if h.shape[-1] == 1:
            return self.xx * x.square()
        cross, v = l[..., 0, 1] * h[..., 1], l[..., 1, 1] * h[..., 1]
        return self.xx * x.square() + self.vv * v.square() + self.xv * cross * (2 * x + cross)


class VWeight(Weight):
    """|v - v̂|²: w = snr + 1. Source: Salimans and Ho 2022, § 4 ("SNR + 1")."""

    def forward(self, at: WeightInputs) -> Tensor:
        return at.snr + 1


class KarrasWeight(Weight):
    """w = (σ² + σ_d²) / (σ σ_d)²: an equal share for every noise level at the start. Source: Karras 2022, table 1."""

    def forward(self, at: WeightInputs) -> Tensor:
        return at.snr + 1 / at.sigma_data.square()


class MinSNRWeight(Weight):
    """w = min(snr, γ): the error of ε, but for quiet noise that of x. Source: Hang et al. 2023, § 3.4.

    Args:
        gamma: γ, the SNR (in power) from which on the weight stays.
    """

    def __init__(self, gamma: float = 5.0):
        super().__init__()
        positive(gamma=gamma)
        self.gamma = gamma

    def forward(self, at: WeightInputs) -> Tensor:
        return at.snr.clamp_max(self.gamma)


class P2Weight(Weight):
    """w = snr / (k + snr)^γ: the error of ε, less of it where the noise is quiet. Source: Choi et al. 2022, eq. 8.

    Args:
        k: SNR (in power) from which on less weight is given.
        gamma: γ, how much less; 0 is EpsilonWeight where S = 1.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0):
        super().__init__()
        positive(k=k)
        not_negative(gamma=gamma)
        self.k, self.gamma = k, gamma

    def forward(self, at: WeightInputs) -> Tensor:
        return at.snr / (self.k + at.snr) ** self.gamma


class LikelihoodWeight(Weight):
    """The bound on the likelihood, in nats per sample: w = ½ (g·Σ⁻¹M)² = -½ dSNR/dt, with times uniform in t.

    One weight of many names: score matching with λ = g² (Song et al. 2021b, eq. 7), with λ = Γβ for CLD (Dockhorn et
    al. 2022, eq. 8), and ½ γ'(t) |ε - ε̂|² with γ = -log SNR (Kingma et al. 2021, eq. 17). That they agree for every
    linear process follows from M' = F M and Σ' = F Σ + Σ Fᵀ + g gᵀ.

    Args:
        steps: T, for the bound of a chain of T steps, w = ½ T (SNR(t - 1/T) - SNR(t)), with times of DiscreteTime(T)
            (Kingma et al. 2021, eq. 13); null for continuous time.
        weight_fn: w(γ), a function of γ (B,), to weigh noise levels otherwise (Kingma and Gao 2023, eq. 3); on the
            command line an import path; null for 1, the bound itself.
    """

    def __init__(self, steps: int | None = None, weight_fn: Callable | None = None):
        super().__init__()
        if steps is not None and steps < 2:
            raise ValueError(f"steps = {steps}: a chain has at least 2")
        self.steps, self.weight_fn = steps, weight_fn
        self.invariant = steps is None

    def forward(self, at: WeightInputs) -> Tensor:
        if self.steps is None:
            # -½ dSNR/dt |x - D|² = ½ γ'(t) |ε - ε̂|²: Kingma et al. 2021, eq. 16 and 17
            w = 0.5 * (at.sde.diffusion(at.t) * at.kernel.matched).sum(-1).square()
        else:
            earlier = (at.t - at.sde.t_max / self.steps).clamp_min(at.sde.t_min)
            w = 0.5 * self.steps * (at.sde.kernel(earlier).snr - at.snr)  # Kingma et al. 2021, eq. 13
        return w if self.weight_fn is None else w * self.weight_fn(-at.snr.log())
