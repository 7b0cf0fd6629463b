"""Samplers that choose their own steps, each sound for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffwave_sde.bounds import positive
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import randn
from diffwave_sde.samplers.base import Progress, Sampler, SamplingState
from diffwave_sde.samplers.ode import ddim_coefficients
from diffwave_sde.sde import SDE, apply, broadcast_like, embed_waveform, float64


class GottaGoFast(Sampler):
    """Stochastic improved Euler with a step size of each sound's own. Source: Jolicoeur-Martineau et al. 2021, alg. 1.

    Euler's step is compared with one that also looks at its end; the difference, over a mixed tolerance, accepts the
    step (which ends at the mean of the two, "extrapolation") and sets the size of the next.

    Args:
        atol: absolute tolerance, in units of the waveform; the paper's is one step of 8 bits on [-1, 1], 0.0078.
        rtol: relative tolerance; the paper's range is 0.01 (careful) to 0.5 (fast).
        safety: θ: share of the step that the error would allow.
        power: r: how strongly the error moves the step, 0.5 to 1.
        initial_step: the first step, in t.
        max_nfe: network calls that a sound may take. A sound that has not arrived by then is brought home without fresh
            noise, by DDIM, for which up to ten of them are kept back.
    """

    def __init__(
        self,
        atol: float = 0.0078,
        rtol: float = 0.05,
        safety: float = 0.9,
        power: float = 0.9,
        initial_step: float = 0.01,
        max_nfe: int = 1000,
    ):
        positive(atol=atol, rtol=rtol, safety=safety, power=power, initial_step=initial_step)
        if max_nfe < 4:
            raise ValueError(f"max_nfe = {max_nfe}: a step, the way home and the last call take 4")
        self.atol, self.rtol, self.safety, self.power = atol, rtol, safety, power
        self.initial_step, self.max_nfe = initial_step, max_nfe

    def _euler(self, sde: SDE, u: Tensor, D: Tensor, t: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """What a step h of the reverse-time SDE adds, by the coefficients at t."""
        kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
        gg = g[:, :, None] * g[:, None, :]
        A, a = -(F + gg @ kernel.precision), (gg @ kernel.matched[:, :, None]).squeeze(-1)
        step = embed_waveform(a * h[:, None], D) + apply(A * h[:, None, None], u)
        return step + broadcast_like(g * h.sqrt()[:, None], z) * z

    def solve(self, state: SamplingState, u: Tensor, progress: Progress | None) -> Tensor:
        sde, device = state.denoiser.sde, u.device
        u, previous = u.clone(), u.clone()
        t = float64(torch.full((len(u),), sde.t_max, device=device))
        h = torch.full_like(t, min(self.initial_step, sde.t_max - sde.t_min))
        used = torch.zeros(len(u), dtype=torch.long)
        reserve = min(10, max(1, (self.max_nfe - 1) // 4))
        way = math.log(sde.t_max / sde.t_min)
        while True:
            on_the_way = (t > sde.t_min).cpu()
            (index,) = (on_the_way & (used + 2 + reserve + 1 <= self.max_nfe)).nonzero(as_tuple=True)
            if not len(index):
                break
            generator = state.generator
            if isinstance(generator, Sequence):
                generator = [generator[i] for i in index.tolist()]
            used[index] += 2
            index = index.to(device)
            now, here = t[index], u[index]
            size = torch.minimum(h[index], now - sde.t_min)
            z = randn(here.shape, generator, u.dtype, device)
            simple = here + self._euler(sde, here, state.at(here, now, index), now, size, z)
            then = (now - size).clamp_min(sde.t_min)
            improved = here + self._euler(sde, simple, state.at(simple, then, index), then, size, z)
            better = 0.5 * (simple + improved)
            tolerance = torch.maximum(simple.abs(), previous[index].abs()).mul(self.rtol).clamp_min(self.atol)
            error = float64(((simple - better) / tolerance).square().flatten(1).mean(1).sqrt())
            accepted = error <= 1
            kept = index[accepted]
            u[kept], previous[kept], t[kept] = better[accepted], simple[accepted], then[accepted]
            h[index] = self.safety * size * error.clamp_min(1e-10) ** -self.power
            if progress is not None:
                progress(int(99 * (1 - float((t.max() / sde.t_min).log()) / way)), 100)
        late = (t > sde.t_min).nonzero(as_tuple=True)[0]
        if len(late):
            u[late] = self._home(state, u[late], t[late], late, reserve)
            used[late.cpu()] += reserve
        state.calls = int(used.max()) + 1
        x = state.at(u, torch.full_like(t, sde.t_min))
        if progress is not None:
            progress(100, 100)
        return x

    def _home(self, state: SamplingState, u: Tensor, t: Tensor, index: Tensor, steps: int) -> Tensor:
        """The states at t_min from those at t (B,), in `steps` steps of DDIM, equal in the log-SNR."""
        sde = state.denoiser.sde
        high, low = sde.kernel(t).snr.log(), sde.kernel(torch.full_like(t, sde.t_min)).snr.log()
        for k in range(steps):
            now, then = (sde.time((high + (low - high) * (k + j) / steps).exp()) for j in (0, 1))
            a, A = ddim_coefficients(sde.kernel(now), sde.kernel(then))
            u = embed_waveform(a, state.at(u, now, index)) + apply(A, u)
        return u


class ProbabilityFlow(Sampler):
    """The probability-flow ODE, du = [F u - ½ g gᵀ ∇ log p] dt, by a black-box solver of torchdiffeq.

    Each sound is solved by itself, so that its steps are its own. In log t, in which most processes run evenly.
    Source: Song et al. 2021, eq. 13 and appendix D.

    Args:
        method: torchdiffeq's solver: dopri5, dopri8, bosh3, adaptive_heun, ...
        rtol: relative tolerance.
        atol: absolute tolerance, in units of the state.
    """

    def __init__(self, method: str = "dopri5", rtol: float = 1e-5, atol: float = 1e-5):
        positive(rtol=rtol, atol=atol)
        self.method, self.rtol, self.atol = method, rtol, atol

    def _flow(self, state: SamplingState, u: Tensor, row: int, start: float, end: float) -> tuple[Tensor, int]:
        """The state (1, S, C, T) at `end` from u at `start`, and the calls that it took."""
        sde, count = state.denoiser.sde, 0
        index = torch.tensor([row], device=u.device)

        def slope(log_t: Tensor, v: Tensor) -> Tensor:
            nonlocal count
            count += 1
            t = log_t.exp()[None]
            kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
            gg = 0.5 * g[:, :, None] * g[:, None, :]
            A, a = (F + gg @ kernel.precision) * t, -(gg @ kernel.matched[:, :, None]).squeeze(-1) * t
            return embed_waveform(a, state.at(v, t, index)) + apply(A, v)

        span = float64(torch.tensor([start, end], device=u.device)).log()
        options = {"dtype": span.dtype}
        # It needs scipy, which takes a second to import.
        from torchdiffeq import odeint

        solution = odeint(slope, u, span, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        return solution[-1], count

    def _each(self, state: SamplingState, u: Tensor, start: float, end: float, progress: Progress | None) -> Tensor:
        ends, counts = [], []
        for row in range(len(u)):
            end_state, count = self._flow(state, u[row : row + 1], row, start, end)
            ends.append(end_state)
            counts.append(count)
            if progress is not None:
                progress(row + 1, len(u) + 1)
        state.calls += max(counts)
        return torch.cat(ends)

    def solve(self, state: SamplingState, u: Tensor, progress: Progress | None) -> Tensor:
        sde = state.denoiser.sde
        u = self._each(state, u, sde.t_max, sde.t_min, progress)
        state.calls += 1
        x = state.at(u, float64(torch.full((len(u),), sde.t_min, device=u.device)))
        if progress is not None:
            progress(len(u) + 1, len(u) + 1)
        return x

    @torch.no_grad()
    def encode(
        self, denoiser: BaseDenoiser, x: Tensor, condition: Condition | None = None, progress: Progress | None = None
    ) -> Tensor:
        """The states (B, S, C, T) at t_max that lead to the sounds x (B, C, T): what `__call__` decodes."""
        sde, state = denoiser.sde, SamplingState(denoiser, condition, None)
        start = sde.kernel(float64(torch.full((len(x),), sde.t_min, device=x.device)))
        u = self._each(state, embed_waveform(start.M, x), sde.t_min, sde.t_max, progress)
        self.nfe = state.calls
        return u
