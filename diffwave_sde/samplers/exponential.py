r"""Exponential integrators in the log-SNR: DPM-Solver++, for processes of one block.

With λ = ½ log snr and data prediction the flow is du/σ = e^λ D dλ: the linear part is exact, and D alone is
interpolated, over the calls of earlier steps (multistep) or within one (single-step). Source: Lu et al. 2022b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, Linear, SamplingState, rows
from diffwave_sde.samplers.grids import Grid, LogSNRGrid
from diffwave_sde.samplers.ode import ddim_coefficients
from diffwave_sde.sde import SDE, Kernel, apply, embed_waveform


def log_snr(kernel: Kernel) -> Tensor:
    """λ = ½ log snr, (B,)."""
    return 0.5 * kernel.snr.log()


def kernel_of(kernel: Kernel, rows: slice) -> Kernel:
    """Some of a kernel's times."""
    return Kernel(kernel.M[rows], kernel.L[rows])


def middle(sde: SDE, times: Tensor) -> Tensor:
    """The times (N - 1,) in the middle, in λ, of the steps between `times` (N,)."""
    return sde.time((2 * log_snr(sde.kernel(times)).unfold(0, 2, 1).mean(1)).exp())


class _Exponential(GridSampler):
    """By default on equal steps of the log-SNR, the method's own variable."""

    def __init__(self, steps: int = 20, grid: Grid | None = None):
        super().__init__(steps, grid or LogSNRGrid())

    def supports(self, sde: SDE) -> bool:
        return sde.blocks == 1


def extrapolation(h: Tensor) -> Tensor:
    """1 / (2 r), r = h₋ / h, of steps h (N - 1,): 0 for the first, before which there is none."""
    return torch.cat((h[:1] * 0, h[1:] / h[:-1] / 2))


class _TwoCalls(_Exponential):
    """u' = A u + a D + b (D - D₋) + c ε, D₋ that of the step before; (a, A, b) or (a, A, b, c) are the plan's."""

    is_linear = True

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, A, b, *c = coefficients
        D = state(u, i)
        u = embed_waveform(a, D) + apply(A, u)
        if c:
            u = u + apply(c[0], state.noise(u))
        if state.past:
            u = u + embed_waveform(b, D - state.past[0])
        state.past[:] = [D]
        return u

    def linear(self, coefficients: tuple[Tensor, ...]) -> Linear:
        a, A, b, *c = coefficients
        return A, a, b, c[0] if c else None


class DPMSolver2M(_TwoCalls):
    """DPM-Solver++(2M): D extrapolated from the last two calls. One call a step, order 2.

        u' = σ'/σ u + m' (1 - e^-h) [D + (D - D₋) / (2 r)],    h = λ' - λ,  r = h₋ / h

    D₋ and h₋ are those of the step before; the first step, which has none, is DDIM's. Source: Lu et al. 2022b, alg. 2.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie; equal steps of the log-SNR by default.
    """

    order = 2

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = denoiser.sde.kernel(times)
        h = log_snr(kernel).diff()
        # a = m' (1 - e^-h) and A = σ'/σ: without D₋ the step is DDIM's.
        a, A = ddim_coefficients(kernel_of(kernel, slice(None, -1)), kernel_of(kernel, slice(1, None)))
        b = extrapolation(h)[:, None] * a  # Lu et al. 2022b, algorithm 2, the line of D_i
        return rows(a, A, b)


class DPMSolver3M(_Exponential):
    """DPM-Solver++(3M): D extrapolated from the last three calls. One call a step. Source: Lu 2022b, § 4.

        u' = σ'/σ u + m' [(1 - e^-h) D + (1 - (1 - e^-h) / h) D' + (1 - 2 (h - 1 + e^-h) / h²) D'']
        D'' = (d - d₋) / (r + r₋),  D' = d + r D'',   d = (D - D₋) / r,  d₋ = (D₋ - D₋₋) / r₋

    with h = λ' - λ, r = h₋ / h and r₋ = h₋₋ / h: over the step D is D + D' x + D'' x², x from 0 to 1 in λ, through the
    last three calls. D₋ and h₋ are those of the step before; the second step has D'' = 0, the first D' = 0 too.
    The first step, of order 1, keeps the whole at order 2; a second-order start makes it 3. The term of D'' is the
    exact integral; the authors' code, and others after it, have half of that, and are of order 2 in any case.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie; equal steps of the log-SNR by default.
        second_order_start: whether the first step is one of 2S, for one call more.
        reference_coefficients: whether the term of D'' is halved, as in the authors' code.
    """

    order = 2

    def __init__(
        self,
        steps: int = 20,
        grid: Grid | None = None,
        second_order_start: bool = False,
        reference_coefficients: bool = False,
    ):
        super().__init__(steps, grid)
        self.second_order_start, self.reference_coefficients = second_order_start, reference_coefficients
        if second_order_start and not reference_coefficients:
            self.order = 3

    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        return middle(sde, times[:2]) if self.second_order_start else times[:0]

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = denoiser.sde.kernel(times)
        start, end = kernel_of(kernel, slice(None, -1)), kernel_of(kernel, slice(1, None))
        h, m = log_snr(kernel).diff(), kernel.M[1:, 0]
        # σ ∫ e^λ (λ - λ_s) / h dλ and σ ∫ e^λ ((λ - λ_s) / h)² dλ over the step: what the slope and the bend of D add
        falling = torch.expm1(-h)
        first, second = m * (falling / h + 1), m * (1 - 2 * (falling + h) / h.square())
        if self.reference_coefficients:
            second = second / 2
        one = h.new_ones(1)
        r0 = torch.cat((one, h[:-1] / h[1:]))
        r1 = torch.cat((one, one, h[:-2] / h[2:]))[: len(h)]
        plan = rows(*ddim_coefficients(start, end), *(c[:, None] for c in (first, second, r0, r1)))
        if self.second_order_start:
            halfway = denoiser.sde.kernel(middle(denoiser.sde, times[:2]))
            plan[0] = (*plan[0][:2], *ddim_coefficients(kernel_of(kernel, slice(0, 1)), halfway))
        return plan

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, A, *rest = coefficients
        D = state(u, i)
        if i == 0:
            first = D
            if self.second_order_start:
                first = state(embed_waveform(rest[0], D) + apply(rest[1], u), self.steps)
            state.past[:] = [D]
            return embed_waveform(a, first) + apply(A, u)
        first, second, r0, r1 = rest
        new = embed_waveform(a, D) + apply(A, u)
        slope = (D - state.past[0]) / r0[:, :, None]
        if len(state.past) > 1:
            before = (state.past[0] - state.past[1]) / r1[:, :, None]
            bend = (slope - before) / (r0 + r1)[:, :, None]
            new = new + embed_waveform(second, bend)
            slope = slope + r0[:, :, None] * bend
        state.past[:] = [D, *state.past[:1]]
        return new + embed_waveform(first, slope)


class DPMSolverSDE(_TwoCalls):
    """SDE-DPM-Solver++(2M): as 2M, on a reverse-time SDE. One call a step, weak order 2.

    Of the SDEs with the process's marginals it solves that whose noise has η times the variance of the process's own:

        u' = σ'/σ e^(-ηh) u + m' (1 - e^(-(1+η) h)) [D + (D - D₋) / (2 r)] + σ' √(1 - e^(-2ηh)) ε

    with h = λ' - λ and r = h₋ / h; D₋ and h₋ are those of the step before, and the first has none.
    Fresh noise forgets the errors that the network made on the way; in steps as long as h = 1 it also loses some of
    what is as soft as the noise, such as tails. Source: Lu et al. 2022b, § 5, η = 1; Xue et al. 2023, eq. 6, τ² = η.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie; equal steps of the log-SNR by default.
        eta: η; 1 is the published one, 0 is DPMSolver2M.
        eta_low_noise: η of the steps that begin below the noise level `low_noise_sigma`; null for that of all.
        low_noise_sigma: that level, σ = 1 / √snr.
        noise: standard deviation of the fresh noise over the SDE's. A network takes a little too much of what is as
            soft as the noise for noise, at every step; a little above 1 gives it back (S_noise of Karras et al. 2022,
            § 4).
    """

    order = 2

    def __init__(
        self,
        steps: int = 20,
        grid: Grid | None = None,
        eta: float = 1.0,
        eta_low_noise: float | None = None,
        low_noise_sigma: float = 0.3,
        noise: float = 1.0,
    ):
        super().__init__(steps, grid)
        not_negative(eta=eta, eta_low_noise=eta_low_noise or 0.0, noise=noise)
        positive(low_noise_sigma=low_noise_sigma)
        self.eta, self.low_noise_sigma = eta, low_noise_sigma
        self.eta_low_noise = eta if eta_low_noise is None else eta_low_noise
        self.noise = noise

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = denoiser.sde.kernel(times)
        h, m, sigma = log_snr(kernel).diff(), kernel.M[1:, 0], kernel.L[:, 0, 0]
        eta = torch.where(kernel.snr[:-1].rsqrt() < self.low_noise_sigma, self.eta_low_noise, self.eta).to(h)
        # Xue et al. 2023, eq. 6; with η = 1 Lu et al. 2022b, § 5, SDE-DPM-Solver++(2M).
        A = sigma[1:] / sigma[:-1] * (-eta * h).exp()
        a = -m * torch.expm1(-(1 + eta) * h)
        b = extrapolation(h) * a
        c = self.noise * sigma[1:] * (-torch.expm1(-2 * eta * h)).sqrt()
        fresh = (c[:, None, None],) if self.eta or self.eta_low_noise else ()
        return rows(a[:, None], A[:, None, None], b[:, None], *fresh)


class DPMSolver2S(_Exponential):
    """DPM-Solver++(2S): D at the middle of each step, in λ. Two calls a step, order 2. Source: Lu 2022b, algorithm 1.

    Args:
        steps: steps; the last needs one call, so there are 2 steps - 1 in all.
        grid: where the steps lie; equal steps of the log-SNR by default.
    """

    order = 2

    def __init__(self, steps: int = 10, grid: Grid | None = None):
        super().__init__(steps, grid)

    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        return middle(sde, times)

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel, halfway = (denoiser.sde.kernel(t) for t in (times, middle(denoiser.sde, times)))
        start, end = kernel_of(kernel, slice(None, -1)), kernel_of(kernel, slice(1, None))
        return rows(*ddim_coefficients(start, halfway), *ddim_coefficients(start, end))

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        half_a, half_A, a, A = coefficients
        halfway = embed_waveform(half_a, state(u, i)) + apply(half_A, u)
        return embed_waveform(a, state(halfway, self.steps + i)) + apply(A, u)
