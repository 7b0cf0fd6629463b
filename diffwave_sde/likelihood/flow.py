r"""The density of a model's probability flow.

In whitened coordinates ũ = L⁻¹ u the flow of every linear process is dũ = D dh, h = L⁻¹ M (`samplers.ode`). Along it

    d log p̃ = -Σ_s tr(∂D/∂ũ_s) dh_s                                        (Chen et al. 2018, eq. 8)

summed over the blocks s. At t_max the prior is N(0, I) in ũ, so with N numbers in a sound

    log p(u) = log N(ũ(t_max); 0, I) + ∫ Σ_s tr(∂D/∂ũ_s) dh_s - N log det L(t_min),    from t_min to t_max.

The trace is exact, or Hutchinson's with probes that are fixed along the path (Grathwohl et al. 2019, § 3.1), so that a
solver sees a smooth function. The density is that of the sound with the noise of t_min, at u = M x.

Where a velocity stands beside the waveform, v ~ q(v) is drawn, and E[log p(x, v) - log q(v)] <= log p(x) is a bound
(Dockhorn et al. 2022, appendix B.3). The best q is p(v | x), which for data that vary slowly over the noise of t_min is
N(M_v x, L_vv² + (L_vx - M_v L_xx / M_x)²): what the kernel says of v where x is not known.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffwave_sde.bounds import positive
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.divergence import Noise, draw_probes, estimates, trace
from diffwave_sde.likelihood.estimate import Estimate, Estimator, Progress
from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers import LogSNRGrid
from diffwave_sde.sde import SDE, Kernel, apply, broadcast_like, embed_waveform, float64


def velocity_scale(kernel: Kernel) -> Tensor:
    """The standard deviation of v given x alone, (B,), where noise is quiet against what the data do."""
    M, L = kernel.M, kernel.L
    through = L[..., 1, 0] - M[..., 1] * L[..., 0, 0] / M[..., 0]
    return (L[..., 1, 1].square() + through.square()).sqrt()


class Flow(Estimator):
    """log p(x) by the probability flow; on processes with a velocity a lower bound of it.

    A call of the network and P backward passes at each node; memory is that of one forward and one backward pass, and
    all is linear in the length. Source: Song et al. 2021, eq. 39; Grathwohl et al. 2019, algorithm 1.

    Args:
        probes: P, estimates for each sound, whose spread is the standard error.
        noise: of the probes: rademacher (random signs, less variance) or gaussian.
        trace: hutchinson, or exact, with a backward pass for each number of a sound.
        steps: steps of Heun's method, even in the log-SNR, two calls each; null for an adaptive solver (dopri5).
        tolerance: of the adaptive solver, relative, for the integral of the trace; a tenth of it for the state.
    """

    def __init__(
        self,
        probes: int = 4,
        noise: Noise = "rademacher",
        trace: Literal["hutchinson", "exact"] = "hutchinson",
        steps: int | None = None,
        tolerance: float = 1e-5,
    ):
        positive(tolerance=tolerance)
        if probes < 1 or (steps is not None and steps < 2):
            raise ValueError(f"probes = {probes} must be at least 1, and steps = {steps} at least 2, or null")
        if trace not in ("hutchinson", "exact"):
            raise ValueError(f"trace = {trace!r}: choose hutchinson or exact")
        self.probes, self.noise, self.trace = probes, noise, trace
        self.steps, self.tolerance = steps, tolerance
        self.noisy = trace == "hutchinson"

    def kind(self, sde: SDE) -> str:
        return "density" if sde.blocks == 1 else "bound"

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
        probes = None
        if self.trace == "hutchinson":
            probes = draw_probes(self.noise, (len(x), self.probes, *x.shape[1:]), generator, x.dtype, x.device)
        repeats = 1
        if sde.blocks > 1:  # a velocity, and so a path, of its own for each estimate
            repeats = self.probes
            eps = randn((len(x), repeats, *x.shape[1:]), generator, x.dtype, x.device).flatten(0, 1)
            x = x.repeat_interleave(repeats, 0)
            if condition is not None:
                condition = condition[torch.arange(len(x), device=x.device) // repeats]
            probes = None if probes is None else probes.flatten(0, 1)[:, None]
        start = sde.kernel(float64(torch.full((len(x),), sde.t_min, device=x.device)))
        u = embed_waveform(start.M, x)
        size = x[0].numel()
        log_p = size * (start.M[:, 0].log() - start.L.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        if sde.blocks > 1:
            scale = velocity_scale(start)
            u = torch.stack((u[:, 0], u[:, 1] + broadcast_like(scale, eps) * eps), 1)
            log_p = log_p - _log_normal(eps) + size * scale.log()
        whitened = apply(start.inverse, u)
        solve = self._adaptive if self.steps is None else self._heun
        end, gained = solve(denoiser, whitened, condition, probes, progress)
        found = (log_p + _log_normal(end))[:, None].to(gained) + gained
        return Estimate(found.view(len(x) // repeats, -1))

    def _velocity(
        self,
        denoiser: BaseDenoiser,
        whitened: Tensor,
        t: Tensor,
        rate: Tensor,
        condition: Condition | None,
        probes: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """D (B, C, T), and Σ_s rate_s tr(∂D/∂ũ_s), (B, P), at the time t and for dh = rate (S,) there."""
        with torch.inference_mode(False), torch.enable_grad():
            u = whitened.detach().clone().requires_grad_()
            t = t.expand(len(u))
            D = denoiser(apply(denoiser.sde.kernel(t).L, u), t, condition)

            def embed(v: Tensor) -> Tensor:
                return embed_waveform(rate.expand(len(v), -1), v)

            divergence = trace(D, u, embed)[:, None] if probes is None else estimates(D, u, probes, embed)
        return D.detach(), divergence.detach()

    def _heun(
        self,
        denoiser: BaseDenoiser,
        whitened: Tensor,
        condition: Condition | None,
        probes: Tensor | None,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        """ũ at t_max, and the integral of the trace, (B, P): trapezia in h for ũ, and in the log-SNR for the trace."""
        sde = denoiser.sde
        times = LogSNRGrid()(sde, self.steps + 1).flip(0).to(whitened.device)
        h, slope = whitened_signal(sde, times)
        rate = per_log_snr(h, slope)  # in which the trace is even, as it is not in h
        log_snr = h.square().sum(-1).log()
        total = 2 * self.steps + 1
        D, before = self._velocity(denoiser, whitened, times[0], rate[0], condition, probes)
        gained = torch.zeros_like(before)
        for i in range(self.steps):
            step = (h[i + 1] - h[i]).expand(len(whitened), -1)
            ahead = whitened + embed_waveform(step, D)
            clock = times[i + 1].expand(len(whitened))
            later = denoiser(apply(sde.kernel(clock).L, ahead), clock, condition)
            whitened = whitened + embed_waveform(step, 0.5 * (D + later))
            D, after = self._velocity(denoiser, whitened, times[i + 1], rate[i + 1], condition, probes)
            gained, before = gained + 0.5 * (log_snr[i + 1] - log_snr[i]) * (before + after), after
            if progress is not None:
                progress(2 * i + 3, total)
        return whitened, gained

    def _adaptive(
        self,
        denoiser: BaseDenoiser,
        whitened: Tensor,
        condition: Condition | None,
        probes: Tensor | None,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        """The same by dopri5 in -log |h|², each sound with steps of its own."""
        # It needs scipy, which takes a second to import.
        from torchdiffeq import odeint

        sde, calls = denoiser.sde, 0
        ends_of_time = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64, device=whitened.device)
        span = -sde.kernel(ends_of_time).snr.log()
        ends, gains = [], []
        for row in range(len(whitened)):
            own = None if condition is None else condition[torch.tensor([row], device=whitened.device)]
            probe = None if probes is None else probes[row : row + 1]

            def slope(noise: Tensor, state: tuple[Tensor, Tensor], own=own, probe=probe) -> tuple[Tensor, Tensor]:
                nonlocal calls
                t = sde.time((-noise).exp()[None])
                rate = -per_log_snr(*whitened_signal(sde, t))
                # The solver joins ũ with the trace in float64, which a network need not take.
                u = state[0].to(whitened.dtype)
                D, divergence = self._velocity(denoiser, u, t, rate[0], own, probe)
                calls += 1
                if progress is not None:
                    progress(calls, 0)
                return embed_waveform(rate, D), divergence

            zero = torch.zeros(1, 1 if probe is None else probe.shape[1], dtype=torch.float64, device=whitened.device)
            options = {"dtype": span.dtype}
            states, gained = odeint(
                slope,
                (whitened[row : row + 1], zero),
                span,
                # ũ counts in standard deviations of the noise, of which the sound is thousands at first: there an error
                # relative to the sound would be none to the noise, and float32 knows no less than a millionth.
                rtol=(0.1 * self.tolerance, self.tolerance),
                atol=(100 * self.tolerance, self.tolerance),
                method="dopri5",
                options=options,
            )
            ends.append(states[-1])
            gains.append(gained[-1])
        return torch.cat(ends), torch.cat(gains)


def whitened_signal(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """h = L⁻¹ M and dh/dt at t (B,): (B, S) each, float64.

    With A = L⁻¹ F L and b = L⁻¹ g, Σ' = F Σ + Σ Fᵀ + g gᵀ is L⁻¹ L' = low(A + Aᵀ + b bᵀ), the lower triangle with half
    the diagonal; so h' = (A - low(A + Aᵀ + b bᵀ)) h, where S = 1 -½ b² h.
    """
    kernel = sde.kernel(t)
    A = kernel.inverse @ sde.drift(t) @ kernel.L
    b = kernel.inverse @ sde.diffusion(t)[..., None]
    both = A + A.mT + b @ b.mT
    low = both.tril(-1) + 0.5 * torch.diag_embed(both.diagonal(dim1=-2, dim2=-1))
    h = kernel.whitened
    return h, ((A - low) @ h[..., None]).squeeze(-1)


def per_log_snr(h: Tensor, slope: Tensor) -> Tensor:
    """dh/dλ, λ = log |h|² the log-SNR, from dh/dt: (B, S)."""
    return slope * (0.5 * h.square().sum(-1) / (h * slope).sum(-1))[:, None]


def _log_normal(u: Tensor) -> Tensor:
    """log N(u; 0, I), (B,), float64."""
    return -0.5 * (float64(u).square() + math.log(2 * math.pi)).flatten(1).sum(1)
