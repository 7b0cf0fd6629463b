r"""From the density at chance places of a cell to the probability of the cell: a bound, as tight as one pays for.

    log P(x)  >=  E log (1/K) Σ_k p(y_k) / q(y_k | x),    y_k ~ q,    q within the cell of x

for any q, and the nearer the larger K is (Burda et al. 2016; Ho et al. 2019, § 3.1; Hoogeboom et al. 2021). With q
uniform it loses what log p varies by within a cell: little where the model's own noise is wider than the cell, much
where a cell is wider, as that of silence is in companded sound.

`variational` fits q to the model: in each cell a normal law cut to it, with the mode and the curvature that the model
has there. With y = x + n / √snr at t_min, D = E[x | y] and J = ∂D/∂y,

    ∇ log p(y) = snr (D - y),    -∂²log p/∂y_i² = snr (1 - J_ii)
    q(y_i) ∝ N(y_i; c(x)_i + (D_i - c(x)_i) / (1 - J_ii), 1 / (snr (1 - J_ii))),    D and J at y = c(x)

It is exact where samples are independent and normal. Whatever the fit is worth, the bound stands.

Where log p is known by noisy estimates only, the logarithm of their mean would lie too high: the luckiest noise would
win. So each estimate is weighed by the others: for any weights a that do not depend on it, Σ a_k l_k - Σ a_k log a_k -
log K lies below the bound in the mean, and meets it where a_k is in proportion to exp l_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.divergence import diagonal, draw_probes
from diffwave_sde.likelihood.estimate import Estimate, Estimator, Progress
from diffwave_sde.likelihood.levels import Levels, log_mass
from diffwave_sde.random import rand
from diffwave_sde.sde import embed_waveform, float64

WIDEST, FARTHEST = 10.0, 6.0
"""A fitted law is no wider than so many cells, beyond which it is uniform; its mode lies within so many deviations."""


@dataclass(frozen=True)
class Dequantisation:
    """How a sound's samples are moved within their cells, and how the densities there become a probability.

    Args:
        law: uniform, or variational: fitted to the model at one call of the network and `probes` backward passes.
        draws: K, places that each sound is asked at: the cost is so many times as much.
        probes: of the diagonal of the denoiser's Jacobian.

    Raises:
        ValueError: if a number is too small, or the law is neither.
    """

    law: Literal["uniform", "variational"] = "uniform"
    draws: int = 1
    probes: int = 4

    def __post_init__(self) -> None:
        if self.law not in ("uniform", "variational"):
            raise ValueError(f"dequantise = {self.law!r}: choose uniform or variational")
        if self.draws < 1 or self.probes < 1:
            raise ValueError(f"draws = {self.draws} and probes = {self.probes} must be at least 1")

    def check(self, estimator: Estimator) -> None:
        """Raises ValueError if several draws were to be weighed by a single noisy estimate of each."""
        if self.draws > 1 and estimator.noisy and estimator.probes < 2:
            raise ValueError(
                f"draws = {self.draws} are weighed by an independent estimate of each: give at least 2 probes, or the "
                "exact trace"
            )

    def __call__(
        self,
        denoiser: BaseDenoiser,
        estimator: Estimator,
        levels: Levels,
        x: Tensor,
        condition: Condition | None,
        generators: Sequence[torch.Generator],
        progress: Progress | None = None,
    ) -> Estimate:
        """Estimates of log P of the cells of x (B, C, T) on the grid, nats, on the CPU.

        Args:
            denoiser: the model.
            estimator: of the density at one place.
            levels: the grid, and the companding.
            x: waveforms, where the model is.
            condition: what they are said to be.
            generators: one for each sound.
            progress: told of network calls.

        Raises:
            ValueError: as `check`.
        """
        self.check(estimator)
        if self.law == "uniform":
            places = [self._uniform(levels, x.cpu(), generators) for _ in range(self.draws)]
        else:
            places = self._fitted(denoiser, levels, x, condition, generators)
        ratios = []
        for place, (y, log_q) in enumerate(places):

            def told(calls: int, count: int, place: int = place) -> None:
                if progress is not None:
                    progress(place * count + calls, self.draws * count)

            # All draws meet the same probes, whose noise is then nearly the same for all.
            own = [torch.Generator(g.device) for g in generators]
            for copy, g in zip(own, generators, strict=True):
                copy.set_state(g.get_state())
            found = estimator(denoiser, y.float().to(x.device), condition, own, progress=told)
            ratios.append(found.draws.cpu() - log_q[:, None])
        return Estimate(weighed(torch.stack(ratios, 1)))

    def _uniform(self, levels: Levels, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """A place y (B, C, T) as the model sees it, and log q(y) (B,), float64."""
        moved = levels.dequantise(x, generators)
        return levels.compress(moved), -x[0].numel() * math.log(levels.width) - levels.log_slope(moved)

    def _fitted(
        self,
        denoiser: BaseDenoiser,
        levels: Levels,
        x: Tensor,
        condition: Condition | None,
        generators: Sequence[torch.Generator],
    ) -> list[tuple[Tensor, Tensor]]:
        """The same by normal laws, each cut to its cell."""
        device, x = x.device, float64(x.cpu())
        low, high = (levels.compress(x + sign * levels.width / 2) for sign in (-1, 1))
        probes = draw_probes("rademacher", (len(x), self.probes, *x.shape[1:]), generators, torch.float32, "cpu")
        mean, std = _laplace(denoiser, levels.compress(x), condition, probes, device)
        width = high - low
        std = torch.minimum(std, WIDEST * width)
        mean = torch.minimum(torch.maximum(mean, low - FARTHEST * std), high + FARTHEST * std)
        a, b = (low - mean) / std, (high - mean) / std
        flip = a + b > 0  # to the lower tail, where Φ keeps its digits
        a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
        log_norm = log_mass(a, b) + std.log() + 0.5 * math.log(2 * math.pi)
        below, above = torch.special.ndtr(a), torch.special.ndtr(b)
        places = []
        for _ in range(self.draws):
            share = float64(rand(x.shape, generators, torch.float32, "cpu"))
            z = torch.special.ndtri(below + share * (above - below)).clamp(a, b)
            y = mean + std * torch.where(flip, -z, z)
            places.append((y, -(0.5 * z.square() + log_norm).flatten(1).sum(1)))
        return places


def _laplace(
    denoiser: BaseDenoiser, y: Tensor, condition: Condition | None, probes: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mode and deviation of each sample's law given the others, to second order about y (B, C, T); float64, CPU."""
    t = float64(torch.full((len(y),), denoiser.sde.t_min, device=device))
    start = denoiser.sde.kernel(t)
    with torch.inference_mode(False), torch.enable_grad():
        seen = y.clone().float().to(device).requires_grad_()
        D = denoiser(embed_waveform(start.M, seen), t, condition)
        J = diagonal(D, seen, probes.clone().to(device))
    less = (1 - float64(J.detach()).cpu()).clamp(1e-6, 1)
    moved = float64(D.detach() - seen.detach()).cpu()
    snr = start.snr.cpu()[:, None, None]
    return y + moved / less, (snr * less).rsqrt()


def weighed(ratios: Tensor) -> Tensor:
    """log (1/K) Σ_k exp of ratios (B, K, P), (B, P), each of P estimates by weights that come of the others.

    With P = 1 the ratios are taken for exact.
    """
    count = ratios.shape[2]
    others = ratios if count == 1 else (ratios.sum(2, keepdim=True) - ratios) / (count - 1)
    log_a = others.log_softmax(1)
    return (log_a.exp() * (ratios - log_a)).sum(1) - math.log(ratios.shape[1])
