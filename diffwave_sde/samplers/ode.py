r"""Deterministic samplers, and what lies between them and ancestral sampling.

Given x, a state is u_t = M x + L ε with ε fixed along its path; averaged over x this is a flow with the marginals of
the process, whatever smooth factor L is taken. With D = E[x | u] for x it reads, in whitened coordinates ũ = L⁻¹ u,

    dũ = D(u, t) dh,    h = L⁻¹ M

for scalar and Langevin processes alike. Where S = 1 it is the probability-flow ODE (Song et al. 2021, eq. 13), and in
x/m and σ/m that of Rouard and Hadjeres 2021 (eq. 15).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, Linear, SamplingState, rows
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import SDE, Kernel, apply, cholesky, embed_waveform


def ddim_coefficients(start: Kernel, end: Kernel) -> tuple[Tensor, Tensor]:
    """(a (N, S), A (N, S, S)) of u' = a D + A u: constant D and ε from the times of one kernel to another's.

    With ε = L⁻¹ (u - M D) it is u' = M' D + L' ε; where S = 1, u' = m' D + σ'/σ (u - m D). Source: Song, Meng and Ermon
    2021, eq. 12 with no fresh noise.
    """
    A = end.L @ start.inverse
    return end.M - (A @ start.M[..., None]).squeeze(-1), A


def steps_of(sde: SDE, times: Tensor) -> tuple[Kernel, Kernel]:
    """The kernels at the beginning and at the end of each step."""
    return sde.kernel(times[:-1]), sde.kernel(times[1:])


class DDIM(GridSampler):
    """Denoising diffusion implicit models: D and ε constant over a step. One call a step, order 1.

    Where S = 1 it is Song, Meng and Ermon 2021, eq. 12 and 16; the same formula takes a state of two blocks. With η = 1
    it is ancestral sampling, DDPM. It is CRASH's sampler too: their ODE in x/m and σ/m at η = 0, their SDE at 1.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie.
        eta: share of fresh noise, from 0 (deterministic) to 1 (that of ancestral sampling).
    """

    is_linear = True

    def __init__(self, steps: int = 50, grid: Grid | None = None, eta: float = 0.0):
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta:g} must lie between 0 and 1")
        self.eta = eta

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        start, end = steps_of(sde, times)
        # Eq. 16: the fresh part of the noise has the variance η² (1 - snr_t / snr_s) of the whole.
        fresh = self.eta * (1 - start.snr / end.snr).clamp(0, 1).sqrt()
        A = (1 - fresh.square()).sqrt()[:, None, None] * end.L @ start.inverse
        a = end.M - (A @ start.M[:, :, None]).squeeze(-1)
        return rows(a, A, fresh[:, None, None] * end.L)

    def linear(self, coefficients: tuple[Tensor, ...]) -> Linear:
        a, A, noise = coefficients
        return A, a, None, noise

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, A, fresh = coefficients
        u = embed_waveform(a, state(u, i)) + apply(A, u)
        return u + apply(fresh, state.noise(u)) if self.eta > 0 else u


class Heun(GridSampler):
    """Karras's second-order method: two calls a step, order 2. Source: Karras et al. 2022, algorithms 1 and 2.

        x' = x + (σ' - σ) d                     Euler's step, DDIM's, with d = (x - D) / σ
        x' + ½ (σ' - σ) (d' - d)                its correction, with d' = (x' - D') / σ' at its end

    in x = u / m and σ = 1 / √snr, where S = 1. Since Euler's x' has (x' - D) / σ' = d, what is added is
    ½ (σ/σ' - 1) (D' - D): for a state of any blocks ½ √(snr' / snr) L' (h' - h) (D' - D), with h = L⁻¹ M. Churning, the
    noise that algorithm 2 adds first, is a step of the forward process from σ to σ̂.

    Args:
        steps: steps; the last needs one call, so there are 2 steps - 1 in all.
        grid: where the steps lie.
        churn: S_churn: noise added, in all; 0 for none, Karras's pictures took up to 80.
        churn_min: S_tmin: lowest noise level σ = 1 / √snr at which noise is added.
        churn_max: S_tmax: highest.
        churn_noise: S_noise: standard deviation of what is added, a little above 1 against lost detail.
    """

    order = 2

    def __init__(
        self,
        steps: int = 18,
        grid: Grid | None = None,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
    ):
        super().__init__(steps, grid)
        if churn < 0 or churn_noise <= 0 or churn_min > churn_max:
            raise ValueError(
                f"churn = {churn:g}, churn_min = {churn_min:g}, churn_max = {churn_max:g}, churn_noise = "
                f"{churn_noise:g}: need churn >= 0, churn_noise > 0 and churn_min <= churn_max"
            )
        self.churn, self.churn_min, self.churn_max, self.churn_noise = churn, churn_min, churn_max, churn_noise

    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        if not self.churn:
            return times[:0]
        # Karras et al. 2022, algorithm 2: σ̂ = (1 + γ) σ, γ = min(S_churn / N, √2 - 1) where S_tmin <= σ <= S_tmax.
        sigma = sde.kernel(times[:-1]).snr.rsqrt()
        more = min(self.churn / self.steps, math.sqrt(2) - 1)
        within = (sigma >= self.churn_min) & (sigma <= self.churn_max)
        raised = sde.time((sigma * (1 + more)) ** -2)
        return torch.where(within, torch.maximum(raised, times[:-1]), times[:-1])

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        begin = self.intermediate_times(sde, times) if self.churn else times[:-1]
        start, end = sde.kernel(begin), sde.kernel(times[1:])
        a, A = ddim_coefficients(start, end)  # Euler's step
        # ½ √(snr' / snr) L' (h' - h); where S = 1, ½ m' (σ/σ' - 1) in σ = 1 / √snr
        change = (end.L @ (end.whitened - start.whitened)[..., None]).squeeze(-1)
        correction = 0.5 * (end.snr / start.snr).sqrt()[:, None] * change
        if not bool(torch.isfinite(correction).all()):
            raise ValueError(f"Heun cannot start {type(sde).__name__} at an SNR of zero: lower its t_max, or take DDIM")
        phi, Q = sde.transition(times[:-1], begin)
        return rows(a, A, correction, phi, self.churn_noise * cholesky(Q))

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, A, correction, phi, fresh = coefficients
        node = i
        if self.churn:  # algorithm 2: x̂ = x + √(σ̂² - σ²) S_noise ε
            u, node = apply(phi, u) + apply(fresh, state.noise(u)), self.steps + i
        D = state(u, node)
        predicted = embed_waveform(a, D) + apply(A, u)
        return predicted + embed_waveform(correction, state(predicted, i + 1) - D)
