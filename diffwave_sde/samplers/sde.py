"""Stochastic samplers of the reverse-time SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative
from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, SamplingState, rows
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import apply, cholesky, embed_waveform


class _Linear(GridSampler):
    """Steps u' = a D + A u + R z: one call each."""

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, A, noise = coefficients
        return embed_waveform(a, state(u, i)) + apply(A, u) + apply(noise, state.noise(u))


class EulerMaruyama(_Linear):
    """Euler's method on du = [F u - ½ (1 + η²) g gᵀ ∇ log p] dt + η g dW, backwards. One call a step, order 1.

    η = 1 is the reverse-time SDE (Song et al. 2021, eq. 6), η = 0 the probability-flow ODE (eq. 13).

    Args:
        steps: steps, and network calls; it needs hundreds.
        grid: where the steps lie; equal steps of t (Song's) are better for VP and sub-VP and useless for EDM.
        eta: η, the share of noise, 0 or more.
    """

    def __init__(self, steps: int = 500, grid: Grid | None = None, eta: float = 1.0):
        super().__init__(steps, grid)
        not_negative(eta=eta)
        self.eta = eta

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        t, dt = times[:-1], times.diff()[:, None, None]  # dt < 0
        kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
        gg = 0.5 * (1 + self.eta**2) * g[:, :, None] * g[:, None, :]
        # With the score Σ⁻¹ (M D - u), u + dt (F u - gg score) is linear in u and D.
        A = torch.eye(sde.blocks, dtype=t.dtype) + dt * (F + gg @ kernel.precision)
        a = -(dt * gg @ kernel.matched[:, :, None]).squeeze(-1)
        return rows(a, A, self.eta * torch.diag_embed(g * dt[:, 0].abs().sqrt()))


class ReverseDiffusion(_Linear):
    """The reverse of the process's own steps: u' = 2 u - Φ u + Q ∇ log p + √Q z. One call a step, order 1.

    As Euler and Maruyama's, but with the transition between two times in place of F dt and g √dt: no step is too long
    for the forward process. Source: Song et al. 2021, appendix E, eq. 46.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie.
    """

    def __init__(self, steps: int = 500, grid: Grid | None = None):
        super().__init__(steps, grid)

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        kernel, (phi, Q) = sde.kernel(times[:-1]), sde.transition(times[1:], times[:-1])
        A = 2 * torch.eye(sde.blocks, dtype=times.dtype) - phi - Q @ kernel.precision
        return rows((Q @ kernel.matched[:, :, None]).squeeze(-1), A, cholesky(Q))


class MaximumLikelihood(_Linear):
    """Of all steps u' = a D + A u + R z the likeliest: the posterior's mean, and its variance and that of x given u.

    Var(x | u), unknown, is taken as that of Gaussian data of the denoiser's `sigma_data`: 1 / (σ_d⁻² + snr). On such
    data it is exact in any number of steps. Source: Popov et al. 2022, theorem 1.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie.
        variance_share: share of Var(x | u) that is counted, 0 to 1; 0, as in the authors' code, is ancestral sampling.
    """

    def __init__(self, steps: int = 50, grid: Grid | None = None, variance_share: float = 0.0):
        super().__init__(steps, grid)
        if not 0 <= variance_share <= 1:
            raise ValueError(f"variance_share = {variance_share:g} is a share: choose it between 0 and 1")
        self.variance_share = variance_share

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        gain, signal, covariance = sde.posterior(times[1:], times[:-1])
        unknown = self.variance_share / (1 / float(denoiser.sigma_data) ** 2 + sde.kernel(times[:-1]).snr)
        covariance = covariance + unknown[:, None, None] * signal[:, :, None] * signal[:, None, :]
        return rows(signal, gain, cholesky(covariance))
