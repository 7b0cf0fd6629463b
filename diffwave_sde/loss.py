r"""Losses: a sampler of times and a weight on the denoiser's squared error.

    loss = w(t) · mean over (C, T) of |D(u_t, t) - x|²,    u_t ~ p(u_t | x),    t drawn from p(t)

Every objective of the literature that is a regression is such a pair. A time sampler is a quantile function, from
[0, 1) to times; so each one can be stratified, put on a fixed grid, or shared out among processes in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.random import Generator, rand, randn
from diffwave_sde.sde import SDE, Kernel, float64, pad


class TimeSampler(nn.Module, ABC):
    """The law of the times at which a network is trained."""

    @abstractmethod
    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        """The times (B,), float64, at the quantiles (B,) in [0, 1) of the law."""


class UniformTime(TimeSampler):
    """t uniform between the process's t_min and t_max."""

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        return sde.t_min + float64(quantile) * (sde.t_max - sde.t_min)


class LogNormalSigma(TimeSampler):
    """log σ normal, where σ = 1 / √snr is the noise level relative to the signal. Source: Karras et al. 2022, table 1.

    Args:
        mean: mean of log σ, in nepers; -1.2 is Karras's choice for pictures.
        std: standard deviation of log σ, in nepers.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        super().__init__()
        if std <= 0:
            raise ValueError(f"std = {std:g} of log sigma must be positive")
        self.mean, self.std = mean, std

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(float64(quantile).clamp(1e-12, 1 - 1e-12))
        return sde.time((-2 * log_sigma).exp())


class Weight(nn.Module, ABC):
    """The weight of the squared error |D - x|²."""

    @abstractmethod
    def forward(self, kernel: Kernel, sigma_data: Tensor) -> Tensor:
        """w (B,), float64, at the kernel's times."""


class DataWeight(Weight):
    """w = 1: the error of the clean waveform."""

    def forward(self, kernel: Kernel, sigma_data: Tensor) -> Tensor:
        return torch.ones_like(kernel.snr)


class EpsilonWeight(Weight):
    """|ε - ε̂|² in the block that noise enters: w = snr where S = 1, and Dockhorn's hybrid score matching for CLD.

    Source: Ho et al. 2020, eq. 14; Dockhorn et al. 2022, section 3.2 with λ = ℓ_t⁻².
    """

    def forward(self, kernel: Kernel, sigma_data: Tensor) -> Tensor:
        return kernel.whitened[..., -1].square()


class KarrasWeight(Weight):
    """w = (σ² + σ_d²) / (σ σ_d)²: an equal share for every noise level at the start. Source: Karras 2022, table 1."""

    def forward(self, kernel: Kernel, sigma_data: Tensor) -> Tensor:
        return kernel.snr + 1 / sigma_data.square()


@dataclass(frozen=True)
class Draw:
    """What a loss drew for a batch: enough to compute it again.

    t: times, (B,), float64.  eps: noise, (B, S, C, T).
    """

    t: Tensor
    eps: Tensor


class Loss(nn.Module):
    """Denoising score matching.

    Args:
        time: the law of the times.
        weight: the weight of |D - x|².
    """

    def __init__(self, time: TimeSampler | None = None, weight: Weight | None = None):
        super().__init__()
        self.time = time or LogNormalSigma()
        self.weight = weight or KarrasWeight()

    @final
    def draw(
        self, sde: SDE, x: Tensor, generator: Generator = None, position: Tensor | None = None, total: int = 0
    ) -> Draw:
        """Draw a time and noise for each of x (B, C, T), the times stratified over the global batch.

        Args:
            generator: one, or one for each example.
            position: where each example stands in the global batch, (B,); null for the batch alone.
            total: examples in the global batch.
        """
        if position is None:
            position, total = torch.arange(len(x), device=x.device), len(x)
        offset = rand((len(x),), generator, device=x.device)
        t = self.time(sde, (float64(position) + float64(offset)) / total)
        return Draw(t, randn((len(x), sde.blocks, *x.shape[1:]), generator, x.dtype, x.device))

    @final
    def at(self, denoiser: Denoiser, x: Tensor, draw: Draw, condition: Condition | None = None) -> Tensor:
        """The loss of each example of x (B, C, T) for given times and noise: (B,)."""
        kernel = denoiser.sde.kernel(draw.t)
        error = denoiser(kernel.sample(x, draw.eps), draw.t, condition) - x
        weight = self.weight(kernel, float64(denoiser.sigma_data).to(kernel.M))
        # In float32 at least: squares of small errors vanish in half precision.
        error = error.to(torch.promote_types(error.dtype, torch.float32))
        per_example = error.square().flatten(1).mean(1)
        return pad(weight, per_example) * per_example

    @final
    def forward(
        self, denoiser: Denoiser, x: Tensor, condition: Condition | None = None, generator: Generator = None
    ) -> Tensor:
        """The loss of each example of x (B, C, T), at times and noise of its own: (B,)."""
        return self.at(denoiser, x, self.draw(denoiser.sde, x, generator), condition)
