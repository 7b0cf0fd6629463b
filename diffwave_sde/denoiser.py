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

import torch
from torch import Tensor, nn

from diffwave_sde.sde import SDE, Kernel, apply, broadcast_like, dot, embed_waveform, float64


@dataclass(frozen=True)
class Condition:
    """What a sound is asked to be.

    label: class of each example, (B,), long; negative where it has none. Or None.
    audio: a sound to go by, (B, C', T). Or None.
    """

    label: Tensor | None = None
    audio: Tensor | None = None

    def to(self, device: torch.device | str) -> Condition:
        """The same on `device`."""
        fields = {k: None if v is None else v.to(device) for k, v in vars(self).items()}
        return replace(self, **fields)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """The same for some of the examples."""
        fields = {k: None if v is None else v[rows] for k, v in vars(self).items()}
        return replace(self, **fields)


class Parametrization(ABC):
    """What the network's output stands for: (skip, out) in D = skip · u + out · net."""

    @abstractmethod
    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        """(skip (B, S), out (B,)), float64, at the kernel's times, for data of standard deviation `sigma_data`."""


class X0(Parametrization):
    """The network gives the clean waveform itself. Source: Ho et al. 2020, section 3.2."""

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(kernel.M), torch.ones_like(kernel.snr)


class Epsilon(Parametrization):
    """The network gives the noise of the block that noise enters: ε where S = 1, ε_v in Langevin dynamics.

    Where the signal in that block has no mean (L⁻¹ M passes zero there, as it does in underdamped Langevin dynamics),
    ε_v says nothing of x and no denoiser follows from it: choose another.

    Source: Ho et al. 2020, eq. 12; Dockhorn et al. 2022, section 3.2.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # ε_S = r·(u - M x), r the last row of L⁻¹, solved for x.
        row = kernel.inverse[..., -1, :]
        signal = kernel.whitened[..., -1]
        return row / signal[..., None], -1 / signal


class Score(Parametrization):
    """The network gives the score in the block that noise enters, ∇ log p(u_t); the same reserve as for Epsilon.

    Source: Song et al. 2021, eq. 7.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        matched = kernel.matched[..., -1]
        return kernel.precision[..., -1, :] / matched[..., None], 1 / matched


class MixedScore(Parametrization):
    """The network gives what the noise ε of the last block has beyond that of Gaussian data of the same power.

    The score is -u / Var(u) of the last block, less net / L_SS: at high noise, where the velocity is all but normal,
    nothing is left to learn. The same reserve as for Epsilon. Source: Dockhorn et al. 2022, section 3.2, "mixed score".
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # ε_S = r·(u - M x) = u_S L_SS / Var(u_S) + net, solved for x.
        row, signal = kernel.inverse[..., -1, :], kernel.whitened[..., -1]
        variance = kernel.M[..., -1].square() * sigma_data.square() + kernel.L[..., -1, :].square().sum(-1)
        normal = kernel.L[..., -1, -1] / variance
        rest = torch.cat((row[..., :-1], (row[..., -1] - normal)[..., None]), -1)
        return rest / signal[..., None], -1 / signal


class V(Parametrization):
    """The network gives v = α n - σ x, where α y is the matched statistic scaled to α² + σ² = 1.

    Source: Salimans and Ho 2022, appendix D.
    """

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        noise = 1 / (1 + kernel.snr)  # σ² = 1 / (1 + snr), α² = snr / (1 + snr), x = α (α y) - σ v
        return kernel.matched * noise[..., None], -noise.sqrt()


class Karras(Parametrization):
    """EDM's preconditioning: an output of unit variance with the least amplified error. Source: Karras 2022, eq. 7."""

    def __call__(self, kernel: Kernel, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        # c_skip y = σ_d² y / (σ² + σ_d²) with y = matched·u / snr and σ² = 1 / snr.
        total = 1 / sigma_data.square() + kernel.snr
        return kernel.matched / total[..., None], total.rsqrt()


class Denoiser(nn.Module):
    """A network read as D(u, t) = E[x | u_t = u].

    Args:
        net: net(u (B, S·C, T), noise (B,), condition) -> (B, C, T), or (B, 2 C, T) with a learned variance. Its input
            has unit variance; `noise` is -log(SNR) / 8, the SNR counted with the data's power (¼ log(σ/σ_data) where
            m = 1; Karras 2022, c_noise).
        sde: the forward process.
        parametrization: what the network's output stands for.
        sigma_data: standard deviation of the data, in units of the (companded) waveform.
        weak: a denoiser of the same process whose network has less in it, to be led away from (`guidance`); it has no
            part in D.
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

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """D: u (B, S, C, T), t (B,) -> (B, C, T)."""
        return self.predict(u, t, condition)[0]

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """D (B, C, T), and where the network has a second output the learned variance's place (B, C, T), else None.

        The variance of a reverse step is exp(v log β + (1 - v) log β̃); v = ½ (1 + output), so that it starts between.
        Source: Nichol and Dhariwal 2021, eq. 15.
        """
        return self._denoise(u, self._coefficients(self.sde.kernel(t)), condition)

    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """`predict` at fixed times (N,), with all that depends on them computed now: (u, index, condition).

        Args:
            times: in float64.
            like: a state of the type and on the device of those to come.
        """
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
        # Each block at unit variance: Var u_s = M_s² σ_d² + Σ_ss.
        scale = (kernel.M.square() * sigma_data.square() + kernel.L.square().sum(-1)).rsqrt()
        return skip, out, scale, -(kernel.snr * sigma_data.square()).log() / 8

    def _ask(self, u: Tensor, scale: Tensor, noise: Tensor, condition: Condition | None) -> tuple[Tensor, ...]:
        """The network's outputs, (B, C, T) each."""
        scaled = (broadcast_like(scale, u) * u).flatten(1, 2)
        # u.shape[0], which an export leaves open, and not len(u), a number.
        return self.net(scaled, noise.to(u).expand(u.shape[0]), condition).to(u.dtype).split(u.shape[2], 1)

    def score(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """∇ log p(u_t) = Σ⁻¹ (M D - u), (B, S, C, T). Source: Tweedie's formula, Efron 2011, eq. 2.8."""
        kernel = self.sde.kernel(t)
        return self._combine(-kernel.precision, -kernel.matched, u, kernel, condition)

    def eps(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[ε | u_t] = L⁻¹ (u - M D), (B, S, C, T)."""
        kernel = self.sde.kernel(t)
        return self._combine(kernel.inverse, kernel.whitened, u, kernel, condition)

    def _combine(self, A: Tensor, a: Tensor, u: Tensor, kernel: Kernel, condition: Condition | None) -> Tensor:
        """A u - a D, (B, S, C, T), for A (B, S, S) and a (B, S)."""
        # D and u differ by less than float32 can tell where the noise is quiet: what they have in common is taken out
        # in float64, and what the network adds keeps its digits.
        skip, out, *inside = self._coefficients(kernel)
        rest = A - a[..., :, None] * skip[..., None, :]
        return apply(rest, u) - embed_waveform(a * out[..., None], self._ask(u, *inside, condition)[0])
