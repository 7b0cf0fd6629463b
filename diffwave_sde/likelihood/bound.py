r"""The variational bound of a chain: what it would cost, in nats, to send a sound by way of its noisy states.

    -log p(x) <=  E[-log p(x | u_0)]  +  Σ_i ½ (snr_{i-1} - snr_i) E|x - D(u_i, t_i)|²  +  ½ snr_T |x|²
                  reconstruction        diffusion                                           prior

Source: Kingma et al. 2021, eq. 11 to 14. It holds for processes of any blocks: what u_s knows of x beyond u_t, for
s < t, is snr_s - snr_t, the gain of Fisher information. With more steps it falls to ½ ∫ |x - D|² dsnr (eq. 15).

u_0 is the state at t_min; it is read by N(x; D(u_0), 1 / snr_0), or by the mass of that in the cell that is rounded to
x. A network that has learned the variance of its steps is held to its own chain (Nichol and Dhariwal 2021, eq. 16).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.likelihood.estimate import Estimate, Estimator, Progress
from diffwave_sde.likelihood.levels import log_mass
from diffwave_sde.random import Generator, rand, randn
from diffwave_sde.sde import SDE, Kernel, broadcast_like, float64


class Bound(Estimator):
    """A lower bound of log p(x), by chance draws of the terms of a chain.

    Args:
        probes: P, estimates for each sound, whose spread is the standard error.
        terms: terms of the chain that each estimate draws, one in each of so many equal parts of the log-SNR.
        steps: steps of the chain, even in the log-SNR; null for the limit of many.
        learned_steps: steps of the chain of a network with a learned variance, even in time; null for those of the
            process, or 1000.
    """

    takes_edges = True

    def __init__(self, probes: int = 4, terms: int = 64, steps: int | None = None, learned_steps: int | None = None):
        if probes < 1 or terms < 1:
            raise ValueError(f"probes = {probes} and terms = {terms} must be at least 1")
        if steps is not None and steps < terms:
            raise ValueError(f"steps = {steps}: a chain has at least the {terms} terms that are drawn of it")
        if learned_steps is not None and learned_steps < 2:
            raise ValueError(f"learned_steps = {learned_steps}: a chain has at least 2")
        self.probes, self.terms, self.steps, self.learned_steps = probes, terms, steps, learned_steps

    def kind(self, sde: SDE) -> str:
        return "bound"

    @torch.no_grad()
    def __call__(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None = None,
        generator: Generator = None,
        edges: tuple[Tensor, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Estimate:
        sde = denoiser.sde
        start = float64(x.new_full((len(x),), sde.t_min))
        first = sde.kernel(start)
        last = sde.kernel(torch.full_like(start, sde.t_max))
        prior = 0.5 * last.snr * float64(x).square().flatten(1).sum(1)
        draws, calls = [], 0

        def told() -> None:
            nonlocal calls
            calls += 1
            if progress is not None:
                progress(calls, self.probes * (self.terms + 1))

        for _ in range(self.probes):
            D, share = self._predict(denoiser, x, start, first, condition, generator)
            told()
            if share is not None and sde.blocks == 1:
                rest = self._learned(denoiser, x, condition, generator, edges, told)
            else:
                rest = reconstruction(x, D, first.snr.rsqrt(), edges)
                rest = rest + self._diffusion(denoiser, x, condition, generator, told)
            draws.append(-(rest + prior))
        return Estimate(torch.stack(draws, 1))

    def _predict(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        t: Tensor,
        kernel: Kernel,
        condition: Condition | None,
        generator: Generator,
    ) -> tuple[Tensor, Tensor | None]:
        """D and the learned variance's place, at a state drawn at t (B,)."""
        eps = randn((len(x), denoiser.sde.blocks, *x.shape[1:]), generator, x.dtype, x.device)
        return denoiser.predict(kernel.sample(x, eps), t, condition)

    def _diffusion(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None,
        generator: Generator,
        told,
    ) -> Tensor:
        """An unbiased estimate of the diffusion terms, (B,), nats."""
        sde = denoiser.sde
        ends = float64(torch.tensor([sde.t_min, sde.t_max], device=x.device))
        high, low = sde.kernel(ends).snr.log().tolist()
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for part in range(self.terms):
            place = (part + float64(rand((len(x),), generator, device=x.device))) / self.terms
            if self.steps is None:  # ½ |x - D|² snr dλ
                log_snr = high + (low - high) * place
                weight = 0.5 * (high - low) / self.terms * log_snr.exp()
            else:  # the step i, from λ_{i-1} to λ_i: Kingma et al. 2021, eq. 13
                i = (place * self.steps).floor().clamp_max(self.steps - 1)
                before, log_snr = (high + (low - high) * (i + k) / self.steps for k in (0, 1))
                weight = 0.5 * self.steps / self.terms * (before.exp() - log_snr.exp())
            t = sde.time(log_snr.exp())
            D, _ = self._predict(denoiser, x, t, sde.kernel(t), condition, generator)
            total += weight * float64(x - D).square().flatten(1).sum(1)
            told()
        return total

    def _learned(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None,
        generator: Generator,
        edges: tuple[Tensor, Tensor] | None,
        told,
    ) -> Tensor:
        """Reconstruction and diffusion of the chain t = i t_max / N with the network's own variances, (B,), nats."""
        sde = denoiser.sde
        steps = self.learned_steps or sde.steps or 1000
        terms = min(self.terms, steps - 1)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for part in range(terms + 1):
            if part == terms:  # the first step, whose term is the reconstruction
                i, weight = torch.ones(len(x), dtype=torch.float64, device=x.device), 1.0
            else:
                place = (part + float64(rand((len(x),), generator, device=x.device))) / terms
                i, weight = 2 + (place * (steps - 1)).floor().clamp_max(steps - 2), (steps - 1) / terms
            t, s = i / steps * sde.t_max, (i - 1) / steps * sde.t_max
            kernel = sde.kernel(t)
            u = kernel.sample(x, randn((len(x), 1, *x.shape[1:]), generator, x.dtype, x.device))
            D, share = denoiser.predict(u, t, condition)
            # Without noise at t = 0 the first step's posterior has none: as published, the one before stands in.
            step = sde.t_max / steps
            small = sde.posterior(s.clamp_min(step), t.clamp_min(2 * step))[2][:, 0, 0]
            large = sde.transition(s, t)[1][:, 0, 0]
            log_variance = _between(small.log(), large.log(), share)
            gain, signal, _ = sde.posterior(s.clamp_min(1e-12), t)
            mean = broadcast_like(gain[:, 0, 0], float64(x)) * float64(u[:, 0])
            mean = mean + broadcast_like(signal[:, 0], mean) * float64(D)
            if part == terms:
                found = reconstruction(x, mean, (0.5 * log_variance).exp(), edges)
            else:
                excess = broadcast_like(small, log_variance)
                apart = broadcast_like(signal[:, 0], log_variance) * float64(x - D)
                ratio = (excess + apart.square()) * (-log_variance).exp()
                found = 0.5 * (log_variance - excess.log() + ratio - 1).flatten(1).sum(1)
            total += weight * found
            told()
        return total


def _between(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    share = float64(share)
    low, high = broadcast_like(low, share), broadcast_like(high, share)
    return low + share * (high - low)


def reconstruction(x: Tensor, mean: Tensor, std: Tensor, edges: tuple[Tensor, Tensor] | None) -> Tensor:
    """-log N(x; mean, std²), or of its mass between the edges: (B,), nats, for x and mean (B, C, T), float64."""
    mean = float64(mean)
    std = broadcast_like(float64(std), mean)
    if edges is not None:
        low, high = ((float64(edge) - mean) / std for edge in edges)
        return -log_mass(low, high).flatten(1).sum(1)
    return (0.5 * ((float64(x) - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
