"""Ancestral sampling: the forward process's own posterior, with D in the place of x."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, SamplingState, rows
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import SDE, apply, broadcast_like, cholesky, embed_waveform


class Ancestral(GridSampler):
    """DDPM's sampler: u_s ~ q(u_s | u_t, D), with one of three variances. One call a step, order 1.

    On any grid, so a strided one too, whose β and β̃ are those of the longer steps (Nichol and Dhariwal 2021, eq. 19).
    Source: Ho et al. 2020, algorithm 2; the learned variance: Nichol and Dhariwal 2021, eq. 15.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie; DiscreteGrid for the published chains.
        variance: "small" is β̃, that of the posterior; "large" β, that of the forward step; "learned" between the two,
            as the network says (it must have been trained with HybridLoss).
    """

    def __init__(
        self, steps: int = 100, grid: Grid | None = None, variance: Literal["small", "large", "learned"] = "small"
    ):
        super().__init__(steps, grid)
        if variance not in ("small", "large", "learned"):
            raise ValueError(f"variance = {variance!r}: choose small, large or learned")
        self.variance = variance

    def supports(self, sde: SDE) -> bool:
        return sde.blocks == 1 or self.variance != "learned"

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        gain, signal, small = denoiser.sde.posterior(times[1:], times[:-1])
        large = denoiser.sde.transition(times[1:], times[:-1])[1]
        return rows(signal, gain, cholesky(large if self.variance == "large" else small), cholesky(large))

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        signal, gain, noise, large = coefficients
        D, share = state.predict(u, i)
        fresh = apply(noise, state.noise(u))
        if self.variance == "learned":
            if share is None:
                raise ValueError("the network has no learned variance: choose small or large")
            # σ = σ_small (σ_large / σ_small)^v
            fresh = fresh * broadcast_like((large / noise)[:, 0], fresh).pow(share.unsqueeze(1))
        return embed_waveform(signal, D) + apply(gain, u) + fresh
