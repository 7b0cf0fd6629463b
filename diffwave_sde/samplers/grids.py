"""Time grids: where a sampler calls the network.

A grid of N steps has N + 1 ends: N times from t_max down to t_min, and the clean sound, which the last, noise-free step
reaches. A grid gives the N times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from diffwave_sde.sde import SDE


class Grid(ABC):
    """A rule for the times of a sampler."""

    @abstractmethod
    def _times(self, sde: SDE, steps: int) -> Tensor:
        """`steps` times, falling from t_max to t_min."""

    @final
    def __call__(self, sde: SDE, steps: int) -> Tensor:
        """The times (steps,), float64, strictly falling from the process's t_max to its t_min.

        Raises:
            ValueError: if `steps` is less than 2, or the times do not fall.
        """
        if steps < 2:
            raise ValueError(f"steps = {steps}: a sampler needs at least 2 (one at t_max, one at t_min)")
        times = self._times(sde, steps)
        if len(times) != steps or not bool((times.diff() < 0).all()):
            raise ValueError(f"{type(self).__name__} gives {times.tolist()}: need {steps} falling times")
        if not bool(torch.isfinite(times).all()) or times[-1] <= 0 or times[0] > sde.t_max:
            raise ValueError(f"{type(self).__name__} leaves the times (0, {sde.t_max:g}] of {type(sde).__name__}")
        return times


def _snr(sde: SDE) -> Tensor:
    """The SNR at t_max and at t_min, (2,)."""
    return sde.kernel(torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)).snr


def _ends(sde: SDE, times: Tensor) -> Tensor:
    """`times` with both ends set to exactly t_max and t_min."""
    return torch.cat((times.new_tensor([sde.t_max]), times[1:-1], times.new_tensor([sde.t_min])))


class UniformGrid(Grid):
    """Equal steps of t."""

    def _times(self, sde: SDE, steps: int) -> Tensor:
        return torch.linspace(sde.t_max, sde.t_min, steps, dtype=torch.float64)


class LogSNRGrid(Grid):
    """Equal steps of the log-SNR."""

    def _times(self, sde: SDE, steps: int) -> Tensor:
        low, high = _snr(sde).log().tolist()
        return _ends(sde, sde.time(torch.linspace(low, high, steps, dtype=torch.float64).exp()))


class KarrasGrid(Grid):
    """Equal steps of σ^(1/ρ), where σ = 1 / √snr. Source: Karras et al. 2022, eq. 5.

    Args:
        rho: ρ; the larger, the more of the steps lie at low noise.
    """

    def __init__(self, rho: float = 7.0):
        if rho <= 0:
            raise ValueError(f"rho = {rho:g} must be positive")
        self.rho = rho

    def _times(self, sde: SDE, steps: int) -> Tensor:
        high, low = (_snr(sde) ** (-0.5 / self.rho)).tolist()
        sigma = torch.linspace(high, low, steps, dtype=torch.float64) ** self.rho
        return _ends(sde, sde.time(sigma**-2))


class DiscreteGrid(Grid):
    """Steps of a discrete chain of N equal ones, evenly strided. Source: Nichol and Dhariwal 2021, § 4.

    Args:
        chain: N; null for that of a discrete process, and 1000 for others.
    """

    def __init__(self, chain: int | None = None):
        if chain is not None and chain < 2:
            raise ValueError(f"chain = {chain}: a chain has at least 2 steps")
        self.chain = chain

    def _times(self, sde: SDE, steps: int) -> Tensor:
        chain = self.chain or getattr(sde, "steps", 1000)
        if steps > chain:
            raise ValueError(f"steps = {steps}: the chain has {chain}; take at most as many")
        # Of DDPM and NCSN t_min is 1 / N, so these are their own times i / N.
        i = torch.linspace(chain - 1, 0, steps, dtype=torch.float64).round()
        return _ends(sde, sde.t_min + (sde.t_max - sde.t_min) * i / (chain - 1))


class TimesGrid(Grid):
    """Times given one by one, for instance learnt ones.

    Args:
        times: falling times in (0, t_max]; as many as the sampler has steps.
    """

    def __init__(self, times: list[float]):
        self.times = times

    def _times(self, sde: SDE, steps: int) -> Tensor:
        if len(self.times) != steps:
            raise ValueError(f"the grid holds {len(self.times)} times: set steps to {len(self.times)}, not {steps}")
        return torch.tensor(self.times, dtype=torch.float64)
