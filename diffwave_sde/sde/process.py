"""What all processes share: the SDE, and the process of one block that is given by its mean and its noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.bounds import ordered
from diffwave_sde.random import Generator, randn
from diffwave_sde.sde.kernel import Kernel, apply, cholesky, float64, triangular


class SDE(nn.Module, ABC):
    """A linear forward process on t in [0, 1].

    blocks: S, the number of blocks of the state.
    t_min, t_max: the times between which networks are trained and samplers run; 0 < t_min < t_max.
    stationary: variances of the blocks in the law that the process keeps, where it has one and runs in it backwards as
        forwards, but for the sign of the velocity; else None.
    steps: N of a process that is given by N steps, t = i / N; else None.
    """

    blocks: int = 1
    steps: int | None = None
    stationary: tuple[float, ...] | None = None
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

    def mean0(self, like: Tensor) -> Tensor:
        """E[u_0 | x] in units of x, one for each entry of `like` (B,) and in its type: (B, S). e₁: x itself."""
        first = torch.ones_like(like)
        return torch.stack([first, *[torch.zeros_like(like)] * (self.blocks - 1)], -1)

    def adapt(self, diameter: Callable[[], float]) -> None:
        """Before training: the largest distance between two sounds of the data is `diameter()`, if it is asked for."""

    def observe(self, losses: Tensor) -> None:
        """In training: the losses (B,) at the times (B,) of the kernels since, before the backward pass."""

    @final
    def kernel(self, t: Tensor) -> Kernel:
        """The perturbation kernel at t (B,): M = Φ mean0 and L Lᵀ = Φ cov0 Φᵀ + Q, with Φ and Q from 0 to t."""
        t = float64(t)
        phi, Q = self.transition(torch.zeros_like(t), t)
        start = phi @ self.cov0(t).sqrt()
        return Kernel((phi @ self.mean0(t).unsqueeze(-1)).squeeze(-1), triangular(torch.cat((start, cholesky(Q)), -1)))

    @final
    def posterior(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(K, a, C) of u_s | u_t, x ~ N(K u_t + a x, C), for s < t (B,): (B, S, S), (B, S), (B, S, S), float64.

        Source: Ho et al. 2020, eq. 7, for a scalar process; Kalman's smoother for any other.
        """
        early, late, (phi, Q) = self.kernel(s), self.kernel(t), self.transition(s, t)
        cov = early.L @ early.L.mT
        gain = cov @ phi.mT @ late.precision
        signal = early.M - (gain @ late.M.unsqueeze(-1)).squeeze(-1)
        # Joseph's form, a sum of squares: the difference C = Σ - K Φ Σ would lose a short step's digits.
        rest = torch.eye(self.blocks, dtype=cov.dtype, device=cov.device) - gain @ phi
        return gain, signal, rest @ cov @ rest.mT + gain @ Q @ gain.mT

    @final
    @torch.no_grad()
    def time(self, snr: Tensor) -> Tensor:
        """The times at which the SNR is `snr` (B,), clamped to [t_min, t_max]; float64."""
        return self.invert_log_snr(float64(snr).log().clamp(-700, 700)).clamp(self.t_min, self.t_max)

    def invert_log_snr(self, target: Tensor) -> Tensor:
        """The times (B,) at which log SNR is `target` (B,), float64; a process that has a formula for it gives that.

        The SNR of a diffusion never rises: a table encloses the time, and the Illinois method finds it, in log t, in
        which most SNRs are nearly powers. A fixed number of rounds, so that nothing waits for a GPU; but a thousand
        small operations, which take a GPU longer than the step of a small network.
        """
        edges = torch.linspace(
            math.log(self.t_min), math.log(self.t_max), 257, dtype=target.dtype, device=target.device
        )
        table = self.kernel(edges.exp()).snr.log()
        target = target.clamp(table[-1], table[0])
        right = torch.searchsorted(-table, -target).clamp(1, len(edges) - 1)
        a, fa = edges[right - 1], table[right - 1] - target
        b, fb = edges[right], table[right] - target
        for _ in range(16):
            step = torch.where(fa == fb, 0.0, fb * (b - a) / (fb - fa))
            c = b - step
            fc = self.kernel(c.exp()).snr.log() - target
            crossed = fc * fb < 0
            a, fa = torch.where(crossed, b, a), torch.where(crossed, fb, fa / 2)
            b, fb = c, fc
        return b.exp()

    @final
    @torch.no_grad()
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
    """A process of one block, given by p(u_t | x) = N(m(t) x, σ²(t)); F and g follow by differentiation.

    F = d log m / dt and g² = dσ²/dt - 2 F σ², so m may not rise, nor m / σ.
    """

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
    def mean0(self, like: Tensor) -> Tensor:
        return self.log_mean(torch.zeros_like(like)).exp()[:, None]

    @final
    def cov0(self, like: Tensor) -> Tensor:
        return self.sigma(torch.zeros_like(like)).square()[:, None, None]


class MeanSigma(ScalarSDE):
    """Any process of one block: m(t) and σ(t) as two functions of a tensor of times (B,), float64, in [0, 1].

    By default the straight line m = 1 - t, σ = t of rectified flow (Liu et al. 2023; Lipman et al. 2023).

    Args:
        mean: m(t), positive on [0, t_max], never rising; on the command line an import path.
        sigma: σ(t), positive on (0, t_max].
        t_min: the smallest time of training and sampling.
        t_max: the largest.

    Raises:
        ValueError: if the functions are no diffusion: a mean that is not positive, or an SNR that rises.
    """

    def __init__(
        self,
        mean: Callable | None = None,
        sigma: Callable | None = None,
        t_min: float = 1e-3,
        t_max: float = 0.999,
    ):
        super().__init__()
        ordered(t_min=t_min, t_max=t_max)
        if t_max > 1:
            raise ValueError(f"t_max = {t_max:g} must be at most 1")
        self._mean, self._sigma = mean or _line, sigma or _identity
        self.t_min, self.t_max = t_min, t_max
        t = torch.linspace(t_min, t_max, 1001, dtype=torch.float64, device="cpu")
        m, s = self._mean(t), self._sigma(t)
        for name, values in {"mean": m, "sigma": s}.items():
            wrong = ~(values.isfinite() & (values > 0))
            if wrong.any():
                i = int(wrong.nonzero()[0])
                raise ValueError(f"{name}({t[i]:.3g}) = {values[i]:g} must be positive: move t_min or t_max")
        falls = (m / s).diff() < 0
        if not falls.all():
            at = float(t[int((~falls).nonzero()[0])])
            raise ValueError(f"mean / sigma does not fall after t = {at:.3g}: no diffusion does that")

    def log_mean(self, t: Tensor) -> Tensor:
        return self._mean(t).log()

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)


def _line(t: Tensor) -> Tensor:
    return 1 - t


def _identity(t: Tensor) -> Tensor:
    return t
