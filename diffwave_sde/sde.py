r"""Forward processes: linear SDEs on a state u of S blocks, each of the waveform's own shape.

    du = F(t) u dt + g(t) dw,    t in [0, 1],    noise enters the last block,    u[:, 0] is the waveform

A process is fixed by its transition, u_t | u_s ~ N(Φ u_s, Q), and by cov0 = Cov(u_0 | x). Everything else follows:

    p(u_t | x) = N(M x, L Lᵀ),   M = first column of Φ(0, t),   L Lᵀ = Φ cov0 Φᵀ + Q

Scalar processes (S = 1) give m(t) and σ(t); F = d log m / dt and g² = dσ²/dt - 2 F σ² are derived.
All of it is computed in float64 and cast once, where it meets the waveform.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from diffwave_sde.random import Generator, randn


def pad(a: Tensor, x: Tensor) -> Tensor:
    """`a` in the type and on the device of `x`, with as many trailing axes of length 1 as `x` has more."""
    return a.to(device=x.device, dtype=x.dtype).reshape(a.shape + (1,) * (x.ndim - a.ndim))


def float64(t: Tensor) -> Tensor:
    """`t` in float64: on its device, or on the CPU where the device has no float64."""
    return t.double() if t.device.type != "mps" else t.cpu().double()


def dot(a: Tensor, u: Tensor) -> Tensor:
    """Combine the blocks of a state: a (B, S), u (B, S, C, T) -> (B, C, T)."""
    return (pad(a, u) * u).sum(1)


def apply(A: Tensor, u: Tensor) -> Tensor:
    """Apply a matrix to the blocks of a state: A (B, S, S), u (B, S, C, T) -> (B, S, C, T)."""
    if u.shape[1] == 1:
        return pad(A[:, :, 0], u) * u
    return (pad(A, u.unsqueeze(1)) * u.unsqueeze(1)).sum(2)


def lift(a: Tensor, x: Tensor) -> Tensor:
    """Put a waveform into the blocks of a state: a (B, S), x (B, C, T) -> (B, S, C, T)."""
    x = x.unsqueeze(1)
    return pad(a, x) * x


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[[a, b], [c, d]], (..., 2, 2)."""
    return torch.stack((torch.stack((a, b), -1), torch.stack((c, d), -1)), -2)


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
    return _matrix(first, zero, cross, last)


def cholesky(Q: Tensor) -> Tensor:
    """The lower factor of covariances Q (..., S, S), S <= 2, in closed form; zero where Q is zero."""
    first = Q[..., 0, 0].clamp_min(0).sqrt()
    if Q.shape[-1] == 1:
        return first[..., None, None]
    cross = torch.where(first > 0, Q[..., 1, 0] / first.clamp_min(torch.finfo(Q.dtype).tiny), 0.0)
    last = (Q[..., 1, 1] - cross.square()).clamp_min(0).sqrt()
    zero = torch.zeros_like(first)
    return _matrix(first, zero, cross, last)


@dataclass(frozen=True)
class Kernel:
    """The perturbation kernel p(u_t | x) = N(M x, L Lᵀ), one for each example.

    M: (B, S); L: (B, S, S), lower triangular; float64.
    """

    M: Tensor
    L: Tensor

    def sample(self, x: Tensor, eps: Tensor) -> Tensor:
        """u = M x + L ε for waveforms x (B, C, T) and ε (B, S, C, T); returns (B, S, C, T) in the type of x."""
        return lift(self.M, x) + apply(self.L, eps.to(x.dtype))

    @cached_property
    def inverse(self) -> Tensor:
        """L⁻¹, (B, S, S)."""
        first = 1 / self.L[..., 0, 0]
        if self.L.shape[-1] == 1:
            return first[..., None, None]
        last = 1 / self.L[..., 1, 1]
        cross = -self.L[..., 1, 0] * first * last
        zero = torch.zeros_like(first)
        return _matrix(first, zero, cross, last)

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


class SDE(nn.Module, ABC):
    """A linear forward process on t in [0, 1].

    blocks: S, the number of blocks of the state.
    t_min, t_max: the times between which networks are trained and samplers run; 0 < t_min < t_max.
    """

    blocks: int = 1
    t_min: float = 1e-5
    t_max: float = 1.0

    @abstractmethod
    def drift(self, t: Tensor) -> Tensor:
        """F(t): t (B,) -> (B, S, S), float64."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t): t (B,) -> (B, S), float64; zero but for the last block."""

    @abstractmethod
    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(Φ, Q) of u_t | u_s ~ N(Φ u_s, Q), for s <= t (B,): (B, S, S) each, float64."""

    @abstractmethod
    def cov0(self, like: Tensor) -> Tensor:
        """Cov(u_0 | x), diagonal, one for each entry of `like` (B,) and in its type: (B, S, S)."""

    @final
    def kernel(self, t: Tensor) -> Kernel:
        """The perturbation kernel at t (B,)."""
        t = float64(t)
        phi, Q = self.transition(torch.zeros_like(t), t)
        start = phi @ self.cov0(t).sqrt()
        return Kernel(phi[..., 0], triangular(torch.cat((start, cholesky(Q)), -1)))

    @final
    def time(self, snr: Tensor) -> Tensor:
        """The times at which the SNR is `snr` (B,), clamped to [t_min, t_max]; float64.

        The SNR of a diffusion never rises: a table encloses the time, and the Illinois method finds it, in log t, in
        which most SNRs are nearly powers. A fixed number of rounds, so that nothing waits for a GPU.
        """
        target = float64(snr).log()
        edges = torch.linspace(
            math.log(self.t_min), math.log(self.t_max), 257, dtype=target.dtype, device=target.device
        )
        table = self.kernel(edges.exp()).snr.log()
        target = target.clamp(table[-1], table[0])
        right = torch.searchsorted(-table, -target).clamp(1, len(edges) - 1)
        a, fa = edges[right - 1], table[right - 1] - target
        b, fb = edges[right], table[right] - target
        for _ in range(12):
            step = torch.where(fa == fb, 0.0, fb * (b - a) / (fb - fa))
            c = b - step
            fc = self.kernel(c.exp()).snr.log() - target
            crossed = fc * fb < 0
            a, fa = torch.where(crossed, b, a), torch.where(crossed, fb, fa / 2)
            b, fb = c, fc
        return b.exp().clamp(self.t_min, self.t_max)

    @final
    def prior(self, shape: tuple[int, int, int], generator: Generator = None, device="cpu") -> Tensor:
        """Draw u at t_max for waveforms of `shape` (B, C, T): (B, S, C, T), float32, by the kernel's own final law."""
        batch, channels, length = shape
        eps = randn((batch, self.blocks, channels, length), generator, device=device)
        return apply(self._terminal(eps).L, eps)

    @final
    def prior_log_prob(self, u: Tensor) -> Tensor:
        """log p(u) of the prior, in nats, for u (B, S, C, T): (B,), float64."""
        kernel = self._terminal(u)
        eps = float64(apply(kernel.inverse, u))
        log_det = kernel.L.diagonal(dim1=-2, dim2=-1).log().sum(-1) * u[0, 0].numel()
        return -0.5 * (eps.square() + math.log(2 * math.pi)).flatten(1).sum(1) - log_det

    def _terminal(self, u: Tensor) -> Kernel:
        return self.kernel(float64(torch.ones(1, device=u.device)) * self.t_max)


def _derivative(f, t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and f'(t), elementwise, also where autograd is switched off."""
    with torch.inference_mode(False):
        return torch.func.jvp(f, (t.clone(),), (torch.ones_like(t),))


class ScalarSDE(SDE):
    """A process of one block, given by p(u_t | x) = N(m(t) x, σ²(t)) with m(0) = 1."""

    @abstractmethod
    def log_mean(self, t: Tensor) -> Tensor:
        """log m(t), for t (B,) in float64."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """σ(t), for t (B,) in float64."""

    @final
    def drift(self, t: Tensor) -> Tensor:
        return _derivative(self.log_mean, float64(t))[1][:, None, None]

    @final
    def diffusion(self, t: Tensor) -> Tensor:
        # Off zero by less than anything: σ ~ √t has no slope there, though σ² has.
        t = float64(t).clamp_min(1e-200)
        rate = _derivative(self.log_mean, t)[1]
        variance, slope = _derivative(lambda s: self.sigma(s).square(), t)
        return (slope - 2 * rate * variance).clamp_min(0).sqrt()[:, None]

    @final
    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, t = float64(s), float64(t)
        phi = (self.log_mean(t) - self.log_mean(s)).exp()
        before, after = phi * self.sigma(s), self.sigma(t)
        Q = ((after - before) * (after + before)).clamp_min(0)
        return phi[:, None, None], Q[:, None, None]

    @final
    def cov0(self, like: Tensor) -> Tensor:
        return self.sigma(torch.zeros_like(like)).square()[:, None, None]


class VE(ScalarSDE):
    """Variance exploding: m = 1, σ(t) = σ_min (σ_max / σ_min)ᵗ. Source: Song et al. 2021, eq. 30.

    Args:
        sigma_min: noise level at t = 0, in units of the waveform.
        sigma_max: noise level at t = 1; about the largest distance between two sounds.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        super().__init__()
        _ordered(sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def log_mean(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()


class EDM(ScalarSDE):
    """m = 1 and σ proportional to time, σ(t) = σ_max t. Source: Karras et al. 2022, table 1.

    Args:
        sigma_min: noise level at which training and sampling stop, in units of the waveform.
        sigma_max: noise level at t = 1.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__()
        _ordered(sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_max = sigma_max
        self.t_min = sigma_min / sigma_max

    def log_mean(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t


class LinearBeta(ScalarSDE):
    """What VP and sub-VP share: m² = exp(-∫β), with β(t) = β_min + (β_max - β_min) t. Source: Song et al. 2021, eq. 33.

    Args:
        beta_min: noise rate β at t = 0.
        beta_max: noise rate β at t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        _ordered(beta_min=beta_min, beta_max=beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    @final
    def log_mean(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square())


class VP(LinearBeta):
    """Variance preserving with linear β: σ² = 1 - m². Source: Song et al. 2021, eq. 11."""

    def sigma(self, t: Tensor) -> Tensor:
        # expm1: 1 - exp(-x) loses its digits at small t.
        return (-torch.expm1(2 * self.log_mean(t))).sqrt()


class SubVP(LinearBeta):
    """sub-VP with linear β: m as in VP, σ = 1 - m². Source: Song et al. 2021, eq. 29."""

    t_min = 1e-3

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_mean(t))


class CLD(SDE):
    r"""Langevin dynamics on the waveform x and a velocity v. Source: Dockhorn et al. 2022, eq. 5.

        dx = β v / M dt,    dv = -β (x + Γ v / M) dt + √(2 Γ β) dw

    In the time b = ∫β it is du = A u db + G dw with constant A, so Φ = exp(A b), and its stationary law is
    N(0, diag(1, M)).

    Args:
        mass: M, the variance of the velocity at t = 1.
        friction: Γ; null for critical damping, Γ² = 4 M. Below it the waveform oscillates, above it it creeps: far
            from it β must be larger, or the sound is still there at t = 1.
        gamma: γ; the velocity starts with variance γ M.
        beta_min: noise rate β at t = 0.
        beta_max: noise rate β at t = 1.
        epsilon: variance added to the waveform at t = 0 for numerical safety; 1e-12 is -120 dBFS.
    """

    blocks = 2
    # At t = 1e-3 the noise left in the waveform is -55 dBFS; below it float32 states cannot hold the velocity's digits.
    t_min = 1e-3

    def __init__(
        self,
        mass: float = 0.25,
        friction: float | None = None,
        gamma: float = 0.04,
        beta_min: float = 4.0,
        beta_max: float = 4.0,
        epsilon: float = 1e-12,
    ):
        super().__init__()
        if beta_max < beta_min:
            raise ValueError(f"beta_max = {beta_max:g} must be at least beta_min = {beta_min:g}")
        for name, value in {"mass": mass, "gamma": gamma, "beta_min": beta_min, "friction": friction}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} = {value:g} must be positive")
        if epsilon < 0:
            raise ValueError(f"epsilon = {epsilon:g} must not be negative")
        self.mass, self.gamma, self.epsilon = mass, gamma, epsilon
        self.friction = 2 * math.sqrt(mass) if friction is None else friction
        self.beta_min, self.beta_max = beta_min, beta_max

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def drift(self, t: Tensor) -> Tensor:
        beta = self._beta(float64(t))
        return _matrix(torch.zeros_like(beta), beta / self.mass, -beta, -beta * self.friction / self.mass)

    def diffusion(self, t: Tensor) -> Tensor:
        noise = (2 * self.friction * self._beta(float64(t))).sqrt()
        return torch.stack((torch.zeros_like(noise), noise), -1)

    def cov0(self, like: Tensor) -> Tensor:
        zero = torch.zeros_like(like)
        return _matrix(zero + self.epsilon, zero, zero, zero + self.gamma * self.mass)

    def _flow(self, b: Tensor) -> Tensor:
        """exp(A b), (..., 2, 2): e^(-kb) [cosh(ωb) I + sinh(ωb)/ω (A + k I)], k = Γ / 2M, ω² = k² - 1/M."""
        k = self.friction / (2 * self.mass)
        square = k * k - 1 / self.mass
        r = (math.sqrt(abs(square)) * b).clamp_min(1e-9)  # |ωb|; sinh(r)/r is 1 to rounding from there down
        if square > 0:  # exponents joined, so that neither factor overflows
            cosh = 0.5 * ((r - k * b).exp() + (-r - k * b).exp())
            sinhc = -0.5 * (r - k * b).exp() * torch.expm1(-2 * r) / r
        else:
            decay = (-k * b).exp()
            cosh, sinhc = decay * r.cos(), decay * r.sin() / r
        sinh = sinhc * b
        return _matrix(cosh + k * sinh, sinh / self.mass, -sinh, cosh - k * sinh)

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, t = float64(s), float64(t)
        # ∫β from s to t as a product, so that a short step keeps its digits.
        b = (t - s) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (s + t))
        phi = self._flow(b)
        # Entry by entry, here and above: a matrix of constants would have to be copied to the device and waited for.
        x, v = phi.unbind(-2)
        stationary = torch.stack((torch.ones_like(b), torch.full_like(b, self.mass)), -1)
        cross = -(x * v * stationary).sum(-1)
        long = _matrix(1 - (x * x * stationary).sum(-1), cross, cross, self.mass - (v * v * stationary).sum(-1))
        # Q_xx ~ b³ cancels in that difference when b is short; there ∫ Φ G Gᵀ Φᵀ by Gauss and Legendre is exact to
        # rounding.
        nodes, weights = _legendre(b.device)
        column = self._flow(b[..., None] * (nodes + 1) / 2)[..., 1]
        column = column * (self.friction * b[..., None] * weights).clamp_min(0).sqrt()[..., None]
        short = column.mT @ column
        rate = 1 + self.friction / self.mass + 1 / math.sqrt(self.mass)
        return phi, torch.where((rate * b < 1)[..., None, None], short, long)


_NODES = np.stack(np.polynomial.legendre.leggauss(8))


@cache
def _legendre(device: torch.device) -> Tensor:
    """The nodes in (-1, 1) and weights of Gauss and Legendre, (2, 8); copied to a device but once."""
    with torch.inference_mode(False):
        return torch.tensor(_NODES, device=device)


def _ordered(**bounds: float) -> None:
    (low_name, low), (high_name, high) = bounds.items()
    if not 0 < low < high:
        raise ValueError(f"{low_name} = {low:g} and {high_name} = {high:g}: need 0 < {low_name} < {high_name}")
