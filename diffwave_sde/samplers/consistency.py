"""Sampling by a consistency function: a call is a sound, and each further one mends it."""

from __future__ import annotations

from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, Linear, SamplingState, rows
from diffwave_sde.samplers.grids import Grid, JumpGrid
from diffwave_sde.sde import apply, embed_waveform


class ConsistencySampler(GridSampler):
    """Multi-step consistency sampling: u' = M' D + L' ε, D taken for a sound and noised anew. One call a step.

    D must be a consistency function, the end of the flow from u (`distillation`): the sounds then have the law of the
    data whatever the number of steps, 1 included, for every process. A denoiser's D, a mean, is none: take another
    sampler there. Source: Song et al. 2023, algorithm 1.

    Args:
        steps: steps, and network calls; 1 is D at t_max.
        grid: the times of the calls; JumpGrid by default, of whose last the sound is made.
    """

    fewest = 1
    is_linear = True
    of_means = False

    def __init__(self, steps: int = 4, grid: Grid | None = None):
        super().__init__(steps, grid or JumpGrid())

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = denoiser.sde.kernel(times[1:])
        return rows(kernel.M, kernel.L)

    def linear(self, coefficients: tuple[Tensor, ...]) -> Linear:
        a, noise = coefficients
        return 0 * noise, a, None, noise

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        a, noise = coefficients
        return embed_waveform(a, state(u, i)) + apply(noise, state.noise(u))
