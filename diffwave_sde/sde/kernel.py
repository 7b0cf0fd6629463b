"""The perturbation kernel, and the small matrices that act on the blocks of a state. In float64, cast where they meet
the waveform."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


def broadcast_like(a: Tensor, x: Tensor) -> Tensor:
    """`a` in the type and on the device of `x`, with as many trailing axes of length 1 as `x` has more."""
    return a.to(device=x.device, dtype=x.dtype).reshape(a.shape + (1,) * (x.ndim - a.ndim))


def float64(t: Tensor) -> Tensor:
    """`t` in float64: on its device, or on the CPU where the device has no float64."""
    return t.double() if t.device.type != "mps" else t.cpu().double()


def dot(a: Tensor, u: Tensor) -> Tensor:
    """Combine the blocks of a state: a (B, S), u (B, S, C, T) -> (B, C, T)."""
    return (broadcast_like(a, u) * u).sum(1)


def apply(A: Tensor, u: Tensor) -> Tensor:
    """Apply a matrix to the blocks of a state: A (B, S, S), u (B, S, C, T) -> (B, S, C, T)."""
    if u.shape[1] == 1:
        return broadcast_like(A[:, :, 0], u) * u
    return (broadcast_like(A, u.unsqueeze(1)) * u.unsqueeze(1)).sum(2)


def embed_waveform(a: Tensor, x: Tensor) -> Tensor:
    """Put a waveform into the blocks of a state: a (B, S), x (B, C, T) -> (B, S, C, T)."""
    x = x.unsqueeze(1)
    return broadcast_like(a, x) * x


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[[a, b], [c, d]], (..., 2, 2)."""
    return torch.stack((torch.stack((a, b), -1), torch.stack((c, d), -1)), -2)


class Constant:
    """Numbers in float64 that a device is given but once: copying them at every call would make the host wait."""

    def __init__(self, values):
        self.values = np.asarray(values, dtype=np.float64)
        self._on: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers on `device`."""
        if device not in self._on:
            with torch.inference_mode(False):
                self._on[device] = torch.tensor(self.values, device=device)
        return self._on[device]


def triangular(R: Tensor) -> Tensor:
    """The lower L with L Lᵀ = R Rᵀ, for R (..., S, K), S <= 2.

    Works on the factor, not on the covariance: L[1, 1] comes from the 2 x 2 minors of R (Cauchy-Binet), a sum of
    squares, so that a nearly singular covariance keeps its digits. No Cholesky call, so nothing waits for a GPU.
    """
    blocks = R.shape[-2]
    if blocks > 2:
        raise ValueError(f"a process of {blocks} blocks: kernels have closed forms for one or two")
    first = R[..., 0, :].norm(dim=-1)
    if blocks == 1:
        return first[..., None, None]
    a, b = R[..., 0, :], R[..., 1, :]
    safe = first.clamp_min(torch.finfo(R.dtype).tiny)
    cross = (a * b).sum(-1) / safe
    minors = a.unsqueeze(-1) * b.unsqueeze(-2) - a.unsqueeze(-2) * b.unsqueeze(-1)
    last = minors.square().sum((-1, -2)).div(2).sqrt() / safe
    # Where the first row vanishes (no time has passed) only the second block can hold noise.
    last = torch.where(first > 0, last, b.norm(dim=-1))
    zero = torch.zeros_like(first)
    return matrix(first, zero, cross, last)


def cholesky(Q: Tensor) -> Tensor:
    """The lower factor of covariances Q (..., S, S), S <= 2, in closed form; zero where Q is zero."""
    first = Q[..., 0, 0].clamp_min(0).sqrt()
    if Q.shape[-1] == 1:
        return first[..., None, None]
    cross = torch.where(first > 0, Q[..., 1, 0] / first.clamp_min(torch.finfo(Q.dtype).tiny), 0.0)
    last = (Q[..., 1, 1] - cross.square()).clamp_min(0).sqrt()
    zero = torch.zeros_like(first)
    return matrix(first, zero, cross, last)


@dataclass(frozen=True)
class Kernel:
    """The perturbation kernel p(u_t | x) = N(M x, L Lᵀ), one for each example.

    M: (B, S); L: (B, S, S), lower triangular; float64.
    """

    M: Tensor
    L: Tensor

    def sample(self, x: Tensor, eps: Tensor) -> Tensor:
        """u = M x + L ε for waveforms x (B, C, T) and ε (B, S, C, T); returns (B, S, C, T) in the type of x."""
        return embed_waveform(self.M, x) + apply(self.L, eps.to(x.dtype))

    @cached_property
    def inverse(self) -> Tensor:
        """L⁻¹, (B, S, S)."""
        first = 1 / self.L[..., 0, 0]
        if self.L.shape[-1] == 1:
            return first[..., None, None]
        last = 1 / self.L[..., 1, 1]
        cross = -self.L[..., 1, 0] * first * last
        zero = torch.zeros_like(first)
        return matrix(first, zero, cross, last)

    @cached_property
    def whitened(self) -> Tensor:
        """h = L⁻¹ M, (B, S): the signal in units of the noise; |h|² is the SNR."""
        return (self.inverse @ self.M.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def precision(self) -> Tensor:
        """Σ⁻¹, (B, S, S)."""
        return self.inverse.mT @ self.inverse

    @cached_property
    def matched(self) -> Tensor:
        """Σ⁻¹ M, (B, S): the matched filter. matched·u / snr is x plus noise of variance 1 / snr."""
        return (self.inverse.mT @ self.whitened.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def snr(self) -> Tensor:
        """Mᵀ Σ⁻¹ M, (B,): α² / σ² where S = 1."""
        return self.whitened.square().sum(-1)
