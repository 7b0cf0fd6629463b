"""Langevin dynamics at a fixed noise level: as a sampler of its own, and as a corrector of others."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, PredictorSampler, SamplingState, rows
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.samplers.sde import ReverseDiffusion
from diffwave_sde.sde import SDE, apply, broadcast_like, embed_waveform


class AnnealedLangevin(GridSampler):
    """Langevin steps u' = u + ½ α ∇ log p + √α z at each noise level in turn, α = step · σ². Order 1.

    Between two levels nothing moves but the scale: x / m is kept. It is the number of steps at a level, and how small
    they are, that makes it exact. Source: Song and Ermon 2019, algorithm 1.

    Args:
        steps: noise levels.
        grid: where they lie.
        repeats: Langevin steps, and network calls, at each of them.
        step: α / σ²; 0.2 as published (ε = 2e-5 at σ = 0.01).
    """

    def __init__(self, steps: int = 100, grid: Grid | None = None, repeats: int = 5, step: float = 0.2):
        super().__init__(steps, grid)
        if repeats < 1 or not 0 < step < 4:
            raise ValueError(f"repeats = {repeats} must be at least 1, and step = {step:g} above 0 and below 4")
        self.repeats, self.size = repeats, step

    def supports(self, sde: SDE) -> bool:
        return sde.blocks == 1

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = denoiser.sde.kernel(times)
        scale = (kernel.M[1:] / kernel.M[:-1])[:, :, None]
        # σ² ∇ log p = m D - u
        return rows(scale, 0.5 * self.size * kernel.M[1:], self.size**0.5 * kernel.L[1:])

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        scale, a, noise = coefficients
        u = apply(scale, u)
        for _ in range(self.repeats):
            u = (1 - 0.5 * self.size) * u + embed_waveform(a, state(u, i + 1)) + apply(noise, state.noise(u))
        return u


class PredictorCorrector(PredictorSampler):
    """A step of another sampler, then Langevin steps that correct its law. Source: Song et al. 2021, algorithms 2 to 5.

    The corrector's step, u' = u + ε s + √(2 ε) z with ε = 2 (r |z| / |s|)², goes by each sound's own norms.

    Args:
        steps: steps; each needs a call for every correction and those of the predictor.
        grid: where the steps lie.
        predictor: the sampler whose steps are taken, ReverseDiffusion by default; its own steps and grid are not used.
        snr: r, the corrector's signal-to-noise ratio.
        corrections: Langevin steps after each step.
    """

    def __init__(
        self,
        steps: int = 250,
        grid: Grid | None = None,
        predictor: GridSampler | None = None,
        snr: float = 0.16,
        corrections: int = 1,
    ):
        super().__init__(steps, grid, predictor or ReverseDiffusion())
        positive(snr=snr)
        not_negative(corrections=corrections)
        self.snr, self.corrections = snr, corrections

    def supports(self, sde: SDE) -> bool:
        return sde.blocks == 1 and super().supports(sde)

    def own(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = sde.kernel(times[1:])
        return rows(kernel.matched, kernel.precision)

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        matched, precision, *rest = coefficients
        u = self.predictor.step(state, u, i, tuple(rest))
        for _ in range(self.corrections):
            score = embed_waveform(matched, state(u, i + 1)) - apply(precision, u)
            z = state.noise(u)
            norms = [a.flatten(1).norm(dim=1) for a in (z, score)]
            size = 2 * (self.snr * norms[0] / norms[1].clamp_min(torch.finfo(u.dtype).tiny)).square()
            u = u + broadcast_like(size, u) * score + broadcast_like((2 * size).sqrt(), u) * z
        return u
