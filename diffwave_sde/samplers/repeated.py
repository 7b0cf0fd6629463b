"""Samplers that spend more calls at each noise level of another one: they jump back and step again, or correct."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative
from diffwave_sde.samplers.base import GridSampler, PredictorSampler, SamplingState, regridded, rows
from diffwave_sde.samplers.grids import Grid, TimesGrid
from diffwave_sde.samplers.ode import DDIM
from diffwave_sde.sde import SDE, apply, cholesky, embed_waveform


class RePaint(PredictorSampler):
    """Each step is taken several times, with a step of the forward process back between two of them.

    A known part that is imposed on D (`editing.Projected`) and the rest come to agree in this way: the rest is drawn
    anew beside what the first time made of the known part. Source: Lugmayr et al. 2022, algorithm 1, with jumps of
    length 1.

    Args:
        steps: steps; each needs as many calls as the predictor's, `repeats` times.
        grid: where the steps lie.
        predictor: the sampler whose steps are taken, ancestral sampling by default; its own steps and grid are unused.
        repeats: how often each step is taken; 1 is the predictor itself, bit for bit.
    """

    def __init__(
        self, steps: int = 50, grid: Grid | None = None, predictor: GridSampler | None = None, repeats: int = 5
    ):
        super().__init__(steps, grid, predictor or DDIM(eta=1.0))
        if repeats < 1:
            raise ValueError(f"repeats = {repeats}: a step is taken at least once")
        self.repeats = repeats

    def own(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        phi, Q = sde.transition(times[1:], times[:-1])
        return rows(phi, cholesky(Q))

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        phi, noise, *rest = coefficients
        for again in range(self.repeats):
            if again:
                u = apply(phi, u) + apply(noise, state.noise(u))
                state.past.clear()  # D of another path: a multistep method would take the new noise for a slope
            u = self.predictor.step(state, u, i, tuple(rest))
        return u


class LangevinCorrector(PredictorSampler):
    r"""After each step, Langevin steps at the level that it reached: they bring the state to the law of D's own score.

        u ← u + τ Σ ∇ log p + √(2 τ) L z = u + τ (M D - u) + √(2 τ) L z

    For D of a class mix, or guided at another scale than 1, the flow ends in a law that is neither the product of
    experts nor the tilted one; but the scores at each level are those of a product of the noised laws, whose law these
    steps reach, and without noise that is the one which is meant. Exact as τ goes to 0 and their number grows.

    Source: Du et al. 2023, section 4; as Song et al. 2021, algorithm 4, with the kernel's covariance Σ before the
    score, so that one τ serves all levels and processes.

    Args:
        steps: steps; each needs `corrections` calls more than the predictor's.
        grid: where the steps lie.
        predictor: the sampler whose steps are taken, ancestral sampling by default; its own steps and grid are unused.
        corrections: Langevin steps, and network calls, after each step; 0 is the predictor itself, bit for bit.
        step: τ, above 0 and below 1.
    """

    def __init__(
        self,
        steps: int = 50,
        grid: Grid | None = None,
        predictor: GridSampler | None = None,
        corrections: int = 3,
        step: float = 0.2,
    ):
        super().__init__(steps, grid, predictor or DDIM(eta=1.0))
        not_negative(corrections=corrections)
        if not 0 < step < 1:
            raise ValueError(f"step = {step:g} must lie between 0 and 1")
        self.corrections, self.size = corrections, step

    def own(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = sde.kernel(times[1:])
        return rows(self.size * kernel.M, (2 * self.size) ** 0.5 * kernel.L)

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        mean, noise, *rest = coefficients
        u = self.predictor.step(state, u, i, tuple(rest))
        for _ in range(self.corrections):
            u = (1 - self.size) * u + embed_waveform(mean, state(u, i + 1)) + apply(noise, state.noise(u))
            state.past.clear()  # D before it was moved: a multistep method would take the noise for a slope
        return u


def starting_at(sampler: GridSampler, sde: SDE, t: float) -> GridSampler:
    """The same sampler from the time t on: t, and the times of its grid below it.

    Args:
        sampler: with its own grid.
        sde: the process.
        t: the time of the states that it is to be given, above t_min.

    Raises:
        ValueError: if t lies outside of (t_min, t_max].
    """
    if not sde.t_min < t <= sde.t_max:
        raise ValueError(f"t = {t:g} must lie above t_min = {sde.t_min:g} and at most at t_max = {sde.t_max:g}")
    times = sampler.grid(sde, sampler.steps)
    times = torch.cat((times.new_tensor([t]), times[times < t * (1 - 1e-6)]))
    if len(times) < 2:
        times = times.new_tensor([t, sde.t_min])
    return on_times(sampler, times)


def on_times(sampler: GridSampler, times: Tensor) -> GridSampler:
    """The same sampler on other times (N,), falling."""
    return regridded(sampler, len(times), TimesGrid(times.tolist()))
