r"""Sounds given what was observed of them: posterior sampling, by a correction of D.

For an observation z = A x + n, n ~ N(0, R), of a sound x the denoiser of p(x | z) is E[x | u_t, z]. With p(x | u_t)
taken as Gaussian, of mean D and covariance C,

    D' = D + C Aᵀ (A C Aᵀ + R)⁻¹ (z - A D)

By Tweedie's second-order formula C is the slope of D: C = ∂D/∂y / snr, y = Mᵀ Σ⁻¹ u / snr the matched statistic; for
every linear process C v = Mᵀ ∇_u ⟨D, v⟩ / snr, one backward pass. On Gaussian data all of this is exact.

Three ways, from exact to cheap:

    exact       C as it is, the inverse by conjugate gradients    Rozet et al. 2024, § 4 (MMPS)
    isotropic   C ≈ r² I within the inverse alone                 Song et al. 2023, eq. 7 (ΠGDM)
    gradient    D' = D + C ∇ log p(z | x = D), its length kept    Chung et al. 2023, algorithm 1 (DPS)

The last takes any likelihood. Source of the idea: Song et al. 2021, appendix I.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition, Nodes, Wrapper
from diffwave_sde.sde import Kernel, broadcast_like, dot


class Likelihood(ABC):
    """p(z | x) of what was observed, z, for a sound x."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(z | x) in nats, up to a constant, for waveforms x (B, C, T): (B,); differentiable."""


class LinearGaussian(Likelihood):
    """z = A x + n with n ~ N(0, noise² I).

    Args:
        operator: A, linear, (B, C, T) -> (B, ...), by torch's functions.
        observed: z, (B, ...) or (1, ...).
        noise: standard deviation of n, in units of the waveform; 0 for an observation that holds exactly.
    """

    def __init__(self, operator: Callable[[Tensor], Tensor], observed: Tensor, noise: float = 0.0):
        if noise < 0:
            raise ValueError(f"noise = {noise:g} is a standard deviation: at least 0")
        self.operator, self.observed, self.noise = operator, observed, noise

    def residual(self, x: Tensor) -> Tensor:
        """z - A x."""
        return self.observed.to(x) - self.operator(x)

    def log_prob(self, x: Tensor) -> Tensor:
        scale = max(self.noise, 1e-3)  # an exact observation has no density: that of one at -60 dBFS
        return -0.5 * (self.residual(x) / scale).square().flatten(1).sum(1)


class _Posterior(Wrapper):
    """A denoiser of sounds given an observation."""

    @abstractmethod
    def correct(self, D: Tensor, slope: Callable[[Tensor, Tensor], Tensor], snr: Tensor) -> Tensor:
        """The new D (B, C, T).

        Args:
            D: (B, C, T), with its graph to the state.
            slope: (f, v) -> C (∂f/∂D)ᵀ v for a function f of D and v of its shape: one backward pass.
            snr: (B, 1, 1).
        """

    @final
    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        return self._corrected(u, self.sde.kernel(t), lambda v: self.denoiser.predict(v, t, condition))

    @final
    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner = self.denoiser.nodes(times, like)
        kernels = [self.sde.kernel(t[None]) for t in times]

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            return self._corrected(u, kernels[i], lambda v: inner(v, i, condition))

        return at

    def _corrected(self, u: Tensor, kernel: Kernel, predict: Callable) -> tuple[Tensor, Tensor | None]:
        # Within another wrapper of this kind, which will ask for the slope of what is returned here.
        within = torch.is_grad_enabled() and u.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            v = (
                u if within else u.detach().clone().requires_grad_()
            )  # a copy: inference mode's tensors have no gradients
            D, share = predict(v)
            snr = broadcast_like(kernel.snr, D)

            def slope(f: Tensor, direction: Tensor) -> Tensor:
                (gradient,) = torch.autograd.grad(f, v, direction, retain_graph=True, create_graph=within)
                return dot(kernel.M, gradient) / snr

            with torch.set_grad_enabled(within):
                new = self.correct(D, slope, snr)
            return new, share if within or share is None else share.detach()


class LinearPosterior(_Posterior):
    """D of sounds given a linear observation. Source: the module's equation.

    Args:
        denoiser: what is wrapped.
        likelihood: the observation.
        method: "exact", or "isotropic", which takes one backward pass in place of `iterations` + 1.
        iterations: steps of conjugate gradients, for the inverse; as many as there are observed samples are exact.
        damping: variance that what is observed has at the least, over that of the level's noise. The inverse needs it.
            The slope of a learned D is no covariance: it takes 0.1 and few iterations, or what is made may be of any
            loudness. 1e-6 for an exact one.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        likelihood: LinearGaussian,
        method: str = "exact",
        iterations: int = 3,
        damping: float = 0.1,
    ):
        super().__init__(denoiser)
        if method not in ("exact", "isotropic"):
            raise ValueError(f"method = {method!r}: choose exact or isotropic")
        if iterations < 1:
            raise ValueError(f"iterations = {iterations} of conjugate gradients: at least 1")
        if damping <= 0:
            raise ValueError(f"damping = {damping:g} must be positive")
        self.likelihood, self.method, self.iterations, self.damping = likelihood, method, iterations, damping

    def correct(self, D: Tensor, slope: Callable[[Tensor, Tensor], Tensor], snr: Tensor) -> Tensor:
        with torch.enable_grad():
            observed = self.likelihood.operator(D)
        residual = self.likelihood.observed.to(D) - observed
        shape = (-1,) + (1,) * (residual.ndim - 1)
        variance = self.likelihood.noise**2 + self.damping / snr.reshape(shape)
        if self.method == "exact":

            def system(v: Tensor) -> Tensor:
                return self.likelihood.operator(slope(observed, v)) + variance * v

        else:
            # r² of Song et al. 2023: the variance of x given u_t, for data of the variance σ_d².
            r2 = (1 / (snr + 1 / self.sigma_data_squared(D))).reshape(shape)
            zero = torch.zeros_like(D)

            def system(v: Tensor) -> Tensor:
                _, pulled = torch.autograd.functional.vjp(self.likelihood.operator, zero, v)
                return r2 * self.likelihood.operator(pulled) + variance * v

        v = conjugate_gradients(system, residual, self.iterations)
        return D + slope(observed, v)

    def sigma_data_squared(self, like: Tensor) -> Tensor:
        """σ_d², as a tensor like D."""
        return torch.as_tensor(self.sigma_data).to(like).square()


class GradientPosterior(_Posterior):
    """D moved along C ∇ log p(z | x = D), for any likelihood. Source: Chung et al. 2023, algorithm 1.

    The plain gradient of a sharp likelihood would leap across it. So the move is no longer than `scale` times the
    standard deviation of x given u_t, which shrinks with the noise; where the gradient is shorter it is taken as it is.
    Biased, as its authors' is: on Gaussian data the law sampled is narrower than the conditional one.

    Args:
        denoiser: what is wrapped.
        likelihood: of what was observed.
        scale: longest move, in standard deviations of a sample given u_t.
    """

    def __init__(self, denoiser: BaseDenoiser, likelihood: Likelihood, scale: float = 1.0):
        super().__init__(denoiser)
        if scale <= 0:
            raise ValueError(f"scale = {scale:g} must be positive")
        self.likelihood, self.scale = likelihood, scale

    def correct(self, D: Tensor, slope: Callable[[Tensor, Tensor], Tensor], snr: Tensor) -> Tensor:
        with torch.enable_grad():
            log_prob = self.likelihood.log_prob(D)
        move = slope(log_prob, torch.ones_like(log_prob))
        variance = 1 / (snr + 1 / torch.as_tensor(self.sigma_data).to(D).square())
        rms = move.flatten(1).square().mean(1).sqrt().reshape(-1, 1, 1)
        longest = self.scale * variance.sqrt()
        return D + move * (longest / rms.clamp_min(torch.finfo(D.dtype).tiny)).clamp_max(1.0)


def conjugate_gradients(system: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with `system`(x) ≈ b, example by example, for a symmetric positive operator on (B, ...).

    Source: Hestenes and Stiefel 1952.
    """

    def inner(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).reshape(-1, *(1,) * (p.ndim - 1))

    tiny = torch.finfo(b.dtype).tiny
    x, r = torch.zeros_like(b), b.clone()
    p, size = r, inner(r, r)
    first, going = size, torch.ones_like(size, dtype=torch.bool)
    for _ in range(iterations):
        Ap = system(p)
        curvature = inner(p, Ap)
        # An example that has arrived stays, for rounding would lead it away; so does one whose operator is not positive
        # in this direction, as the slope of a guided or a learned D need not be.
        going = going & (size > 1e-24 * first) & (curvature > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        x, r = x + step * p, r - step * Ap
        new = inner(r, r)
        p, size = r + (new / size.clamp_min(tiny)) * p, new
    return x
