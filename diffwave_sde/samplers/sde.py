"""Stochastic samplers of the reverse-time SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers.base import Call, Sampler
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import SDE, apply, lift


class EulerMaruyama(Sampler):
    """Euler's method on the reverse-time SDE, du = [F u - g gᵀ ∇ log p] dt + g dw. One call a step, order 1.

    Source: Song et al. 2021, eq. 6.

    Args:
        steps: steps, and network calls; it needs hundreds.
        grid: where the steps lie; equal steps of t (Song's) are better for VP and sub-VP and useless for EDM.
    """

    def __init__(self, steps: int = 500, grid: Grid | None = None):
        super().__init__(steps, grid)

    def plan(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        t, dt = times[:-1], times.diff()[:, None, None]  # dt < 0
        kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
        gg = g[:, :, None] * g[:, None, :]
        # With the score Σ⁻¹ (M D - u), u + dt (F u - g gᵀ score) is linear in u and D.
        A = torch.eye(sde.blocks, dtype=t.dtype) + dt * (F + gg @ kernel.precision)
        a = -(dt * gg @ kernel.matched[:, :, None]).squeeze(-1)
        noise = torch.diag_embed(g * dt[:, 0].abs().sqrt())
        return list(zip(a[:, None], A[:, None], noise[:, None], strict=True))

    def step(self, call: Call, u: Tensor, i: int, coefficients: tuple[Tensor, ...], generator: Generator) -> Tensor:
        a, A, noise = coefficients
        return lift(a, call(u, i)) + apply(A, u) + apply(noise, randn(u.shape, generator, u.dtype, u.device))
