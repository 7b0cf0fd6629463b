"""Discrete processes: N given steps, t = i / N, and a continuous process that passes through them exactly.

Between two of its steps the logarithm of its mean (DDPM) or of its noise (NCSN) is a straight line; so every sampler,
loss and likelihood for continuous time takes them, and on the grid i / N they are the published chains to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffwave_sde.sde.kernel import Constant
from diffwave_sde.sde.ve import Exploding
from diffwave_sde.sde.vp import CosineVP, Preserving


class _Line:
    """A function of t that is straight between its N + 1 values at i / N."""

    def __init__(self, values: np.ndarray):
        self.constant, self.steps = Constant(values), len(values) - 1

    def __call__(self, t: Tensor) -> Tensor:
        values = self.constant.on(t.device)
        position = t * self.steps
        i = position.floor().clamp(0, self.steps - 1).long()
        return values[i] + (values[i + 1] - values[i]) * (position - i)


class DDPM(Preserving):
    """Denoising diffusion: u_i = √(1 - β_i) u_{i-1} + √β_i ε, i = 1 ... N, at t = i / N. Source: Ho et al. 2020, eq. 2.

    Args:
        steps: N.
        schedule: "linear", β from 1e-4 to 0.02 as published for 1000 steps, and scaled by 1000 / N for others;
            "cosine", that of Nichol and Dhariwal 2021, eq. 17, with β at most 0.999.
        betas: the β_i themselves, in (0, 1), in place of both.
    """

    def __init__(
        self,
        steps: int = 1000,
        schedule: Literal["linear", "cosine"] = "linear",
        betas: Sequence[float] | None = None,
    ):
        super().__init__()
        if betas is not None:
            beta = np.asarray(betas, dtype=np.float64)
        elif steps < 2:
            raise ValueError(f"steps = {steps}: a discrete process has at least 2")
        elif schedule == "linear":
            beta = np.linspace(1e-4, 0.02, steps) * 1000 / steps
        elif schedule == "cosine":
            log_mean = CosineVP().log_mean(torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps).numpy()
            beta = np.minimum(-np.expm1(2 * np.diff(log_mean)), 0.999)
        else:
            raise ValueError(f"schedule = {schedule!r}: choose linear or cosine")
        if len(beta) < 2 or not ((beta > 0) & (beta < 1)).all():
            raise ValueError("betas must be at least two numbers between 0 and 1; a short linear chain exceeds 1")
        self.steps, self.t_min = len(beta), 1 / len(beta)
        self.beta = beta
        self._line = _Line(np.concatenate(([0.0], 0.5 * np.log1p(-beta).cumsum())))

    def log_mean(self, t: Tensor) -> Tensor:
        return self._line(t)


class NCSN(Exploding):
    """Noise-conditional score networks: u_i = x + σ_i ε, i = 1 ... N, at t = i / N. Source: Song and Ermon 2019, § 4.2.

    Args:
        sigma_min: σ_1, in units of the waveform.
        sigma_max: σ_N.
        steps: N, geometrically spaced.
        sigmas: the σ_i themselves, rising, in place of the three.
    """

    def __init__(
        self,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        steps: int = 1000,
        sigmas: Sequence[float] | None = None,
    ):
        super().__init__()
        if sigmas is None and (steps < 2 or not 0 < sigma_min < sigma_max):
            raise ValueError(
                f"sigma_min = {sigma_min:g}, sigma_max = {sigma_max:g}, steps = {steps}: "
                "need 0 < sigma_min < sigma_max and at least 2 steps"
            )
        sigma = np.geomspace(sigma_min, sigma_max, steps) if sigmas is None else np.asarray(sigmas, dtype=np.float64)
        if len(sigma) < 2 or sigma[0] <= 0 or not (np.diff(sigma) > 0).all():
            raise ValueError("sigmas must be at least two rising positive numbers")
        self.steps, self.t_min = len(sigma), 1 / len(sigma)
        # One step before the first, by the same ratio: what t = 0 stands for.
        self._line = _Line(np.log(np.concatenate(([sigma[0] ** 2 / sigma[1]], sigma))))

    def sigma(self, t: Tensor) -> Tensor:
        return self._line(t).exp()
