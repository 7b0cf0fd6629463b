r"""Deterministic samplers.

Given x, a state is u_t = M x + L ε with ε fixed along its path; averaged over x this is a flow with the marginals of
the process, whatever smooth factor L is taken. With D = E[x | u] for x it reads, in whitened coordinates w = L⁻¹ u,

    dw = D(u, t) dh,    h = L⁻¹ M

for scalar and Langevin processes alike. Where S = 1 it is the probability-flow ODE (Song et al. 2021, eq. 13).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers.base import Call, Sampler
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import SDE, Kernel, apply, lift


def _transfer(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """(a (N - 1, S), A (N - 1, S, S)) of u' = a D + A u, steps of constant D and ε between the times of `kernel`."""
    A = kernel.L[1:] @ kernel.inverse[:-1]
    return kernel.M[1:] - (A @ kernel.M[:-1, :, None]).squeeze(-1), A


class DDIM(Sampler):
    """Denoising diffusion implicit models: D and ε constant over a step. One call a step, order 1.

    Where S = 1 it is Song, Meng and Ermon 2021, eq. 12 and 16; the same formula takes a state of two blocks.

    Args:
        steps: steps, and network calls.
        grid: where the steps lie.
        eta: share of fresh noise, from 0 (deterministic) to 1 (that of ancestral sampling).
    """

    def __init__(self, steps: int = 50, grid: Grid | None = None, eta: float = 0.0):
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta:g} must lie between 0 and 1")
        self.eta = eta

    def plan(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = sde.kernel(times)
        # Eq. 16: the fresh part of the noise has the variance η² (1 - snr_t / snr_s) of the whole.
        fresh = self.eta * (1 - kernel.snr[:-1] / kernel.snr[1:]).clamp(0, 1).sqrt()
        kept = (1 - fresh.square()).sqrt()
        A = kept[:, None, None] * kernel.L[1:] @ kernel.inverse[:-1]
        a = kernel.M[1:] - (A @ kernel.M[:-1, :, None]).squeeze(-1)
        return list(zip(a[:, None], A[:, None], (fresh[:, None, None] * kernel.L[1:])[:, None], strict=True))

    def step(self, call: Call, u: Tensor, i: int, coefficients: tuple[Tensor, ...], generator: Generator) -> Tensor:
        a, A, fresh = coefficients
        u = lift(a, call(u, i)) + apply(A, u)
        return u + apply(fresh, randn(u.shape, generator, u.dtype, u.device)) if self.eta > 0 else u


class Heun(Sampler):
    """Karras's second-order method: two calls a step, order 2. Source: Karras et al. 2022, algorithm 1.

    Exactly that algorithm where S = 1. In general the correction is ½ √(snr_s / snr_t) L_s (h_s - h_t) (D_s - D_t).

    Args:
        steps: steps; the last needs one call, so there are 2 steps - 1 in all.
        grid: where the steps lie.
    """

    order = 2

    def __init__(self, steps: int = 18, grid: Grid | None = None):
        super().__init__(steps, grid)

    def plan(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        kernel = sde.kernel(times)
        a, A = _transfer(kernel)
        ratio = (kernel.snr[1:] / kernel.snr[:-1]).sqrt()
        change = (kernel.L[1:] @ kernel.whitened.diff(dim=0)[..., None]).squeeze(-1)
        correction = 0.5 * ratio[:, None] * change
        if not bool(torch.isfinite(correction).all()):
            raise ValueError(f"Heun cannot start {type(sde).__name__} at an SNR of zero: lower its t_max, or take DDIM")
        return list(zip(a[:, None], A[:, None], correction[:, None], strict=True))

    def step(self, call: Call, u: Tensor, i: int, coefficients: tuple[Tensor, ...], generator: Generator) -> Tensor:
        a, A, correction = coefficients
        first = call(u, i)
        predicted = lift(a, first) + apply(A, u)
        return predicted + lift(correction, call(predicted, i + 1) - first)
