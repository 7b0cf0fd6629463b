r"""What a network learns, always read as a denoiser: D(u, t) = E[x | u_t = u].

    D = skip · u + out · net(scale · u, noise, condition)

A parametrization is a choice of (skip, out). Whatever the process, all that u_t says of x is the matched statistic
y = Mᵀ Σ⁻¹ u / snr = x + n / √snr, so scalar and Langevin processes share every formula. Tweedie's formula gives the
score, Σ⁻¹ (M D - u), and ε = L⁻¹ (u - M D).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.parametrization import (  # noqa: F401  checkpoints name them by their old place
    X0,
    Epsilon,
    Karras,
    MixedScore,
    Parametrization,
    Score,
    V,
)
from diffwave_sde.sde import SDE, Kernel, apply, broadcast_like, dot, embed_waveform, float64


@dataclass(frozen=True)
class Condition:
    """What a sound is asked to be.

    label: class of each example, (B,), long; negative where it has none. Or None.
    audio: a sound to go by, (B, C', T'), companded as the data are. One that is silent throughout is none, for that
        example: so zeros hide it. Or None for none at all.
    guidance: weight of the classifier-free guidance that a network which takes it answers with, (B,). Or None, for 1.
    level: noise level σ of that sound, (B,). Or None.
    turn: share of its length by which a sound that is on a circle is turned, (B,), 0 to 1. Or None, for 0.
    """

    label: Tensor | None = None
    audio: Tensor | None = None
    guidance: Tensor | None = None
    level: Tensor | None = None
    turn: Tensor | None = None

    def to(self, device: torch.device | str) -> Condition:
        """The same on `device`."""
        fields = {k: None if v is None else v.to(device) for k, v in vars(self).items()}
        return replace(self, **fields)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """The same for some of the examples."""
        fields = {k: None if v is None else v[rows] for k, v in vars(self).items()}
        return replace(self, **fields)


class BaseDenoiser(nn.Module, ABC):
    """What samplers, editing and likelihood ask of a denoiser: of the network's own, and of one that wraps another.

    sde: the forward process.
    sigma_data: standard deviation of the data, a scalar.
    """

    sde: SDE
    sigma_data: Tensor

    @abstractmethod
    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """D, and the place of the learned variance where the network has one: u (B, S, C, T), t (B,) -> (B, C, T) each.

        The variance of a reverse step is exp(v log β + (1 - v) log β̃). Source: Nichol and Dhariwal 2021, eq. 15.
        """

    def combine(self, A: Tensor, a: Tensor, u: Tensor, t: Tensor, condition: Condition | None) -> Tensor:
        """A u - a D, (B, S, C, T), for A (B, S, S) and a (B, S); one that can keep more digits has its own."""
        return apply(A, u) - embed_waveform(a, self(u, t, condition))

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        """`predict` at fixed times (N,), float64: (u, index, condition).

        A denoiser that can compute beforehand what depends on time alone has its own.

        Args:
            times: in float64.
            like: a state (B, S, C, T) of the type and on the device of those to come.
        """
        clock = float64(times.to(like.device if like.device.type != "mps" else "cpu"))[:, None].unbind()
        return lambda u, i, condition=None: self.predict(u, clock[i].expand(len(u)), condition)

    @final
    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """D: u (B, S, C, T), t (B,) -> (B, C, T)."""
        return self.predict(u, t, condition)[0]

    @final
    def score(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """∇ log p(u_t) = Σ⁻¹ (M D - u), (B, S, C, T). Source: Tweedie's formula, Efron 2011, eq. 2.8."""
        kernel = self.sde.kernel(t)
        return self.combine(-kernel.precision, -kernel.matched, u, t, condition)

    @final
    def eps(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[ε | u_t] = L⁻¹ (u - M D), (B, S, C, T)."""
        kernel = self.sde.kernel(t)
        return self.combine(kernel.inverse, kernel.whitened, u, t, condition)


Nodes = Callable[..., tuple[Tensor, Tensor | None]]
"""`predict` at times that are fixed: (u, index of the time, condition)."""


class Wrapper(BaseDenoiser):
    """A denoiser that changes what another one says. Wrappers wrap one another in any order.

    Args:
        denoiser: the other one.
    """

    def __init__(self, denoiser: BaseDenoiser):
        super().__init__()
        self.denoiser = denoiser

    @property
    def sde(self) -> SDE:
        return self.denoiser.sde

    @property
    def sigma_data(self) -> Tensor:
        return self.denoiser.sigma_data

    @abstractmethod
    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        """As that of a denoiser: the new D, and the learned variance's place, at fixed times (N,)."""


class OutputWrapper(Wrapper):
    """A wrapper for which D alone counts, not the state nor the time."""

    @abstractmethod
    def change(self, D: Tensor) -> Tensor:
        """The new D for D (B, C, T), example by example."""

    @final
    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        D, share = self.denoiser.predict(u, t, condition)
        return self.change(D), share

    @final
    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner = self.denoiser.nodes(times, like)

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            D, share = inner(u, i, condition)
            return self.change(D), share

        return at


class Denoiser(BaseDenoiser):
    """A network read as D(u, t) = E[x | u_t = u].

    Args:
        net: net(u (B, S·C, T), noise (B,), condition) -> (B, C, T), or (B, 2 C, T) with a learned variance. Its input
            has unit variance; `noise` is -log(SNR) / 8, the SNR counted with the data's power (¼ log(σ/σ_data) where
            m = 1; Karras 2022, c_noise).
        sde: the forward process.
        parametrization: what the network's output stands for.
        sigma_data: standard deviation of the data, in units of the (companded) waveform.
        weak: a denoiser of the same process whose network has less in it, to be guided away from (`guidance`); it
            has no part in D.
    """

    def __init__(
        self,
        net: nn.Module,
        sde: SDE,
        parametrization: Parametrization | None = None,
        sigma_data: float = 0.5,
        weak: Denoiser | None = None,
    ):
        super().__init__()
        self.net, self.sde, self.weak = net, sde, weak
        self.parametrization = parametrization or Karras()
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        # v = ½ (1 + output), so that the learned variance starts between β and β̃.
        return self._denoise(u, self._coefficients(self.sde.kernel(t)), condition)

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        rows = [c.to(like).split(1) for c in self._coefficients(self.sde.kernel(times))]

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            return self._denoise(u, tuple(row[i] for row in rows), condition)

        return at

    def _denoise(
        self, u: Tensor, coefficients: tuple[Tensor, ...], condition: Condition | None
    ) -> tuple[Tensor, Tensor | None]:
        skip, out, *inside = coefficients
        inner, *rest = self._ask(u, *inside, condition)
        return dot(skip, u) + broadcast_like(out, inner) * inner, 0.5 * (1 + rest[0]) if rest else None

    def _coefficients(self, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(skip, out, scale, noise): D = skip · u + out · net(scale · u, noise), float64."""
        sigma_data = float64(self.sigma_data).to(kernel.M)
        skip, out = self.parametrization(kernel, sigma_data)
        # Each block at unit variance: Var u_s = M_s² σ_d² + Σ_ss; c_in of Karras et al. 2022, table 1, where m = 1.
        scale = (kernel.M.square() * sigma_data.square() + kernel.L.square().sum(-1)).rsqrt()
        return skip, out, scale, -(kernel.snr * sigma_data.square()).log() / 8

    def _ask(self, u: Tensor, scale: Tensor, noise: Tensor, condition: Condition | None) -> tuple[Tensor, ...]:
        """The network's outputs, (B, C, T) each."""
        scaled = (broadcast_like(scale, u) * u).flatten(1, 2)
        # u.shape[0], which an export leaves open, and not len(u), a number.
        return self.net(scaled, noise.to(u).expand(u.shape[0]), condition).to(u.dtype).split(u.shape[2], 1)

    def combine(self, A: Tensor, a: Tensor, u: Tensor, t: Tensor, condition: Condition | None) -> Tensor:
        # D and u differ by less than float32 can tell where the noise is quiet: what they have in common is taken out
        # in float64, and what the network adds keeps its digits.
        skip, out, *inside = self._coefficients(self.sde.kernel(t))
        rest = A - a[..., :, None] * skip[..., None, :]
        return apply(rest, u) - embed_waveform(a * out[..., None], self._ask(u, *inside, condition)[0])
