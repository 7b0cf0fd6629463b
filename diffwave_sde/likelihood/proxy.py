"""The weighted loss at fixed times and noises: no likelihood, but it ranks sounds and checkpoints for little cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.likelihood.estimate import Estimate, Estimator, Progress
from diffwave_sde.random import Generator, randn, stream
from diffwave_sde.sde import SDE, float64


class Proxy(Estimator):
    """-Σ ½ snr |x - D|² Δλ at fixed places of the log-SNR λ and with fixed noise, in nats.

    It is the bound's middle term (Kingma et al. 2021, eq. 15) on a coarse grid, with the same noises for all sounds and
    all models: what chance adds is the same for all, so small differences show. `lowest` leaves out noise that is
    quieter than that, where most of the bound lies and all models are nearly alike.

    Args:
        terms: places of λ, evenly apart; a call of the network each.
        lowest: noise level σ = 1 / √snr that they begin at, in units of σ_data; 0 for the process's own least.
        seed: of the noises.
    """

    def __init__(self, terms: int = 16, lowest: float = 0.0, seed: int = 0):
        if terms < 1 or lowest < 0:
            raise ValueError(f"terms = {terms} must be at least 1, and lowest = {lowest:g} at least 0")
        self.terms, self.lowest, self.seed = terms, lowest, seed

    def kind(self, sde: SDE) -> str:
        return "proxy"

    def __call__(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None = None,
        generator: Generator = None,
        edges: tuple[Tensor, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Estimate:
        return Estimate(-self.profile(denoiser, x, condition, progress).sum(1, keepdim=True))

    @torch.no_grad()
    def profile(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The terms, (B, terms), nats, from the quietest noise to the loudest; x (B, C, T) as the denoiser sees it."""
        sde = denoiser.sde
        high, low = sde.kernel(float64(torch.tensor([sde.t_min, sde.t_max], device=x.device))).snr.log().tolist()
        if self.lowest > 0:
            high = min(high, -2 * math.log(float(denoiser.sigma_data) * self.lowest))
        if high <= low:
            raise ValueError(f"lowest = {self.lowest:g} leaves no noise level of {type(sde).__name__}: lower it")
        terms = []
        for i in range(self.terms):
            log_snr = high + (low - high) * (i + 0.5) / self.terms
            t = sde.time(float64(torch.full((1,), math.exp(log_snr), device=x.device))).expand(len(x))
            kernel = sde.kernel(t)
            shape = (1, sde.blocks, *x.shape[1:])
            eps = randn(shape, stream(self.seed, "proxy", i), x.dtype, x.device).expand(len(x), *shape[1:])
            D = denoiser(kernel.sample(x, eps), t, condition)
            weight = 0.5 * kernel.snr * (high - low) / self.terms
            terms.append(weight * float64(x - D).square().flatten(1).sum(1))
            if progress is not None:
                progress(i + 1, self.terms)
        return torch.stack(terms, 1)
