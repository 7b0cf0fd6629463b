"""Langevin dynamics: noise reaches the waveform by way of a velocity."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.sde.kernel import Constant, float64, matrix
from diffwave_sde.sde.process import SDE

_LEGENDRE = Constant(np.stack(np.polynomial.legendre.leggauss(8)))  # nodes in (-1, 1) and weights


class CLD(SDE):
    r"""Langevin dynamics on the waveform x and a velocity v. Source: Dockhorn et al. 2022, eq. 5.

        dx = β v / M dt,    dv = -β (x + Γ v / M) dt + √(2 Γ β) dW

    In the time b = ∫β it is du = A u db + G dW with constant A and the stationary law N(0, Σ∞), Σ∞ = diag(1, M). So the
    kernel has a closed form, for critical damping that of Dockhorn et al. 2022, appendix B.1:

        Φ = exp(A b) = e^(-kb) [cosh(ωb) I + sinh(ωb)/ω (A + k I)],   k = Γ / 2M,  ω² = k² - 1/M     (`_exponential`)
        Q = Σ∞ - Φ Σ∞ Φᵀ                                                                             (`transition`)
        p(u_t | x) = N(Φ (x, 0)ᵀ, Φ Σ₀ Φᵀ + Q),   Σ₀ = diag(ε, γM)                          (`SDE.kernel`, `cov0`)

    That the kernel is given x alone, with the velocity's prior N(0, γM) in Σ₀, is hybrid score matching (§ 3.2).

    Args:
        mass: M, the variance of the velocity at t = 1.
        friction: Γ; null for critical damping, Γ² = 4 M. Below it the waveform oscillates, above it it creeps: far
            from it β must be larger, or the sound is still there at t = 1.
        gamma: γ; the velocity starts as N(0, γ M).
        beta_min: noise rate β at t = 0.
        beta_max: noise rate β at t = 1.
        epsilon: variance added to the waveform at t = 0 for numerical safety; 1e-12 is -120 dBFS.
    """

    blocks = 2
    # At t = 1e-3 the noise left in the waveform is -55 dBFS; below it float32 states cannot hold the velocity's digits.
    t_min = 1e-3

    def __init__(
        self,
        mass: float = 0.25,
        friction: float | None = None,
        gamma: float = 0.04,
        beta_min: float = 4.0,
        beta_max: float = 4.0,
        epsilon: float = 1e-12,
    ):
        super().__init__()
        if beta_max < beta_min:
            raise ValueError(f"beta_max = {beta_max:g} must be at least beta_min = {beta_min:g}")
        friction = 2 * math.sqrt(max(mass, 0)) if friction is None else friction
        positive(mass=mass, gamma=gamma, beta_min=beta_min, friction=friction)
        not_negative(epsilon=epsilon)
        self.mass, self.friction, self.gamma, self.epsilon = mass, friction, gamma, epsilon
        self.beta_min, self.beta_max = beta_min, beta_max
        self.stationary = (1.0, mass)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def drift(self, t: Tensor) -> Tensor:
        beta = self._beta(float64(t))
        return matrix(torch.zeros_like(beta), beta / self.mass, -beta, -beta * self.friction / self.mass)

    def diffusion(self, t: Tensor) -> Tensor:
        noise = (2 * self.friction * self._beta(float64(t))).sqrt()
        return torch.stack((torch.zeros_like(noise), noise), -1)

    def cov0(self, like: Tensor) -> Tensor:
        # Hybrid score matching, Dockhorn et al. 2022, § 3.2: v_0 ~ N(0, γM) is averaged over, and x_0 is given.
        zero = torch.zeros_like(like)
        return matrix(zero + self.epsilon, zero, zero, zero + self.gamma * self.mass)

    def _exponential(self, b: Tensor) -> Tensor:
        """exp(A b), (..., 2, 2): e^(-kb) [cosh(ωb) I + sinh(ωb)/ω (A + k I)], k = Γ / 2M, ω² = k² - 1/M.

        The cosh and sinh of an imaginary ω, of less friction than critical, are cos and sin; where ω = 0, the critical,
        sinh(ωb)/ω is b.
        """
        k = self.friction / (2 * self.mass)
        square = k * k - 1 / self.mass
        r = (math.sqrt(abs(square)) * b).clamp_min(1e-9)  # |ωb|; sinh(r)/r is 1 to rounding from there down
        if square > 0:  # exponents joined, so that neither factor overflows
            cosh = 0.5 * ((r - k * b).exp() + (-r - k * b).exp())
            sinhc = -0.5 * (r - k * b).exp() * torch.expm1(-2 * r) / r
        else:
            decay = (-k * b).exp()
            cosh, sinhc = decay * r.cos(), decay * r.sin() / r
        sinh = sinhc * b
        return matrix(cosh + k * sinh, sinh / self.mass, -sinh, cosh - k * sinh)

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, t = float64(s), float64(t)
        # ∫β from s to t as a product, so that a short step keeps its digits.
        b = (t - s) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (s + t))
        phi = self._exponential(b)
        # Q = Σ∞ - Φ Σ∞ Φᵀ, entry by entry: a matrix of constants would have to be copied to the device and waited for.
        x, v = phi.unbind(-2)
        stationary = torch.stack((torch.ones_like(b), torch.full_like(b, self.mass)), -1)
        cross = -(x * v * stationary).sum(-1)
        long = matrix(1 - (x * x * stationary).sum(-1), cross, cross, self.mass - (v * v * stationary).sum(-1))
        # Q_xx ~ b³ cancels in that difference when b is short; there ∫ Φ G Gᵀ Φᵀ by Gauss and Legendre is exact to
        # rounding.
        nodes, weights = _LEGENDRE.on(b.device)
        column = self._exponential(b[..., None] * (nodes + 1) / 2)[..., 1]
        column = column * (self.friction * b[..., None] * weights).clamp_min(0).sqrt()[..., None]
        short = column.mT @ column
        rate = 1 + self.friction / self.mass + 1 / math.sqrt(self.mass)
        return phi, torch.where((rate * b < 1)[..., None, None], short, long)
