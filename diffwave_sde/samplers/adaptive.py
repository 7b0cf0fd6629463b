"""Samplers that choose their own steps, each sound for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.random import randn
from diffwave_sde.samplers.base import Progress, Run, Sampler
from diffwave_sde.samplers.ode import transfer
from diffwave_sde.sde import SDE, apply, float64, lift, pad


class GottaGoFast(Sampler):
    """Stochastic improved Euler with a step size of each sound's own. Source: Jolicoeur-Martineau et al. 2021, alg. 1.

    Euler's step is compared with one that also looks at its end; the difference, over a mixed tolerance, accepts the
    step (which ends at the mean of the two, "extrapolation") and sets the size of the next.

    Args:
        absolute: absolute tolerance, in units of the waveform; the paper's is one step of 8 bits on [-1, 1], 0.0078.
        relative: relative tolerance; the paper's range is 0.01 (careful) to 0.5 (fast).
        safety: θ: share of the step that the error would allow.
        power: r: how strongly the error moves the step, 0.5 to 1.
        first: the first step, in t.
        calls: network calls that a sound may take. A sound that has not arrived by then is brought home without fresh
            noise, by DDIM, for which up to ten of them are kept back.
    """

    def __init__(
        self,
        absolute: float = 0.0078,
        relative: float = 0.05,
        safety: float = 0.9,
        power: float = 0.9,
        first: float = 0.01,
        calls: int = 1000,
    ):
        positive = {"absolute": absolute, "relative": relative, "safety": safety, "power": power, "first": first}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} = {value:g} must be positive")
        if calls < 4:
            raise ValueError(f"calls = {calls}: a step, the way home and the last call take 4")
        self.absolute, self.relative, self.safety, self.power = absolute, relative, safety, power
        self.first, self.calls = first, calls

    def _euler(self, sde: SDE, u: Tensor, D: Tensor, t: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """What a step h of the reverse-time SDE adds, by the coefficients at t."""
        kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
        gg = g[:, :, None] * g[:, None, :]
        A, a = -(F + gg @ kernel.precision), (gg @ kernel.matched[:, :, None]).squeeze(-1)
        step = lift(a * h[:, None], D) + apply(A * h[:, None, None], u)
        return step + pad(g * h.sqrt()[:, None], z) * z

    def solve(self, run: Run, u: Tensor, progress: Progress | None) -> Tensor:
        sde, device = run.denoiser.sde, u.device
        u, previous = u.clone(), u.clone()
        t = float64(torch.full((len(u),), sde.t_max, device=device))
        h = torch.full_like(t, min(self.first, sde.t_max - sde.t_min))
        used = torch.zeros(len(u), dtype=torch.long)
        reserve = min(10, max(1, (self.calls - 1) // 4))
        way = math.log(sde.t_max / sde.t_min)
        while True:
            on_the_way = (t > sde.t_min).cpu()
            (index,) = (on_the_way & (used + 2 + reserve + 1 <= self.calls)).nonzero(as_tuple=True)
            if not len(index):
                break
            generator = run.generator
            if isinstance(generator, Sequence):
                generator = [generator[i] for i in index.tolist()]
            used[index] += 2
            index = index.to(device)
            now, state = t[index], u[index]
            size = torch.minimum(h[index], now - sde.t_min)
            z = randn(state.shape, generator, u.dtype, device)
            simple = state + self._euler(sde, state, run.at(state, now, index), now, size, z)
            then = (now - size).clamp_min(sde.t_min)
            improved = state + self._euler(sde, simple, run.at(simple, then, index), then, size, z)
            better = 0.5 * (simple + improved)
            tolerance = torch.maximum(simple.abs(), previous[index].abs()).mul(self.relative).clamp_min(self.absolute)
            error = float64(((simple - better) / tolerance).square().flatten(1).mean(1).sqrt())
            accepted = error <= 1
            kept = index[accepted]
            u[kept], previous[kept], t[kept] = better[accepted], simple[accepted], then[accepted]
            h[index] = self.safety * size * error.clamp_min(1e-10) ** -self.power
            if progress is not None:
                progress(int(99 * (1 - float((t.max() / sde.t_min).log()) / way)), 100)
        late = (t > sde.t_min).nonzero(as_tuple=True)[0]
        if len(late):
            u[late] = self._home(run, u[late], t[late], late, reserve)
            used[late.cpu()] += reserve
        run.calls = int(used.max()) + 1
        x = run.at(u, torch.full_like(t, sde.t_min))
        if progress is not None:
            progress(100, 100)
        return x

    def _home(self, run: Run, u: Tensor, t: Tensor, index: Tensor, steps: int) -> Tensor:
        """The states at t_min from those at t (B,), in `steps` steps of DDIM, equal in the log-SNR."""
        sde = run.denoiser.sde
        high, low = sde.kernel(t).snr.log(), sde.kernel(torch.full_like(t, sde.t_min)).snr.log()
        for k in range(steps):
            now, then = (sde.time((high + (low - high) * (k + j) / steps).exp()) for j in (0, 1))
            a, A = transfer(sde.kernel(now), sde.kernel(then))
            u = lift(a, run.at(u, now, index)) + apply(A, u)
        return u


class ProbabilityFlow(Sampler):
    """The probability-flow ODE, du = [F u - ½ g gᵀ ∇ log p] dt, by a black-box solver of torchdiffeq.

    Each sound is solved by itself, so that its steps are its own. In log t, in which most processes run evenly.
    Source: Song et al. 2021, eq. 13 and appendix D.

    Args:
        method: torchdiffeq's solver: dopri5, dopri8, bosh3, adaptive_heun, ...
        relative: relative tolerance.
        absolute: absolute tolerance, in units of the state.
    """

    def __init__(self, method: str = "dopri5", relative: float = 1e-5, absolute: float = 1e-5):
        if relative <= 0 or absolute <= 0:
            raise ValueError(f"relative = {relative:g} and absolute = {absolute:g}: tolerances must be positive")
        self.method, self.relative, self.absolute = method, relative, absolute

    def _flow(self, run: Run, u: Tensor, row: int, start: float, end: float) -> tuple[Tensor, int]:
        """The state (1, S, C, T) at `end` from u at `start`, and the calls that it took."""
        sde, count = run.denoiser.sde, 0
        index = torch.tensor([row], device=u.device)

        def slope(log_t: Tensor, state: Tensor) -> Tensor:
            nonlocal count
            count += 1
            t = log_t.exp()[None]
            kernel, F, g = sde.kernel(t), sde.drift(t), sde.diffusion(t)
            gg = 0.5 * g[:, :, None] * g[:, None, :]
            A, a = (F + gg @ kernel.precision) * t, -(gg @ kernel.matched[:, :, None]).squeeze(-1) * t
            return lift(a, run.at(state, t, index)) + apply(A, state)

        span = float64(torch.tensor([start, end], device=u.device)).log()
        options = {"dtype": span.dtype}
        # It needs scipy, which takes a second to import.
        from torchdiffeq import odeint

        solution = odeint(slope, u, span, rtol=self.relative, atol=self.absolute, method=self.method, options=options)
        return solution[-1], count

    def _each(self, run: Run, u: Tensor, start: float, end: float, progress: Progress | None) -> Tensor:
        states, counts = [], []
        for row in range(len(u)):
            state, count = self._flow(run, u[row : row + 1], row, start, end)
            states.append(state)
            counts.append(count)
            if progress is not None:
                progress(row + 1, len(u) + 1)
        run.calls += max(counts)
        return torch.cat(states)

    def solve(self, run: Run, u: Tensor, progress: Progress | None) -> Tensor:
        sde = run.denoiser.sde
        u = self._each(run, u, sde.t_max, sde.t_min, progress)
        run.calls += 1
        x = run.at(u, float64(torch.full((len(u),), sde.t_min, device=u.device)))
        if progress is not None:
            progress(len(u) + 1, len(u) + 1)
        return x

    @torch.no_grad()
    def encode(
        self, denoiser: Denoiser, x: Tensor, condition: Condition | None = None, progress: Progress | None = None
    ) -> Tensor:
        """The states (B, S, C, T) at t_max that lead to the sounds x (B, C, T): what `__call__` decodes."""
        sde, run = denoiser.sde, Run(denoiser, condition, None)
        start = sde.kernel(float64(torch.full((len(x),), sde.t_min, device=x.device)))
        u = self._each(run, lift(start.M, x), sde.t_min, sde.t_max, progress)
        self.nfe = run.calls
        return u
