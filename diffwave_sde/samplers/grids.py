"""Time grids: where a sampler calls the network.

A grid of N steps has N + 1 ends: N times from t_max down to t_min, and the clean sound, which the last, noise-free step
reaches. A grid gives the N times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

import torch
import yaml
from torch import Tensor

from diffwave_sde.bounds import positive
from diffwave_sde.sde import SDE


class Grid(ABC):
    """A rule for the times of a sampler.

    Attributes:
        flexible: whether it has times for any number of steps.
        fewest: the least number of steps.
    """

    flexible: bool = True
    fewest: int = 2

    @abstractmethod
    def _times(self, sde: SDE, steps: int) -> Tensor:
        """`steps` times, falling from t_max to t_min."""

    @final
    def __call__(self, sde: SDE, steps: int) -> Tensor:
        """The times (steps,), float64, strictly falling from the process's t_max to its t_min (or near it).

        Raises:
            ValueError: if `steps` is less than 2, where it jumps to the sound less than 1, or the times do not fall.
        """
        if steps < self.fewest:
            ends = "one at t_max, one at t_min" if self.fewest > 1 else "at t_max"
            raise ValueError(f"steps = {steps}: a sampler needs at least {self.fewest} ({ends})")
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


class QuadraticGrid(Grid):
    """Equal steps of √t: short ones at low noise. Source: Song, Meng and Ermon 2021, appendix D.2."""

    def _times(self, sde: SDE, steps: int) -> Tensor:
        root = torch.linspace(sde.t_max**0.5, sde.t_min**0.5, steps, dtype=torch.float64)
        return _ends(sde, root.square())


class CosineGrid(Grid):
    """Equal steps of the angle arctan σ, σ = 1 / √snr: where α² + σ² = 1, equal steps of α = cos, σ = sin."""

    def _times(self, sde: SDE, steps: int) -> Tensor:
        high, low = _snr(sde).rsqrt().atan().tolist()
        return _ends(sde, sde.time(torch.linspace(high, low, steps, dtype=torch.float64).tan() ** -2))


class CrashGrid(Grid):
    """Equal steps of t that end one step before t_min, with the jump to the sound. Source: Rouard 2021, their code."""

    def _times(self, sde: SDE, steps: int) -> Tensor:
        return torch.linspace(sde.t_max, sde.t_min, steps + 1, dtype=torch.float64)[:-1]


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
        positive(rho=rho)
        self.rho = rho

    def _times(self, sde: SDE, steps: int) -> Tensor:
        high, low = (_snr(sde) ** (-0.5 / self.rho)).tolist()
        sigma = torch.linspace(high, low, steps, dtype=torch.float64) ** self.rho
        return _ends(sde, sde.time(sigma**-2))


class LogNormalGrid(Grid):
    """Equal steps of the quantile of log σ ~ N(mean, std²), σ = 1 / √snr: short steps around e^mean, long ones far off.

    As a training may draw its times (LogNormalSigma), so a sampler may spend its calls: where sounds are decided.

    Args:
        mean: of log σ.
        std: of log σ; the larger, the more alike are the steps of the log-SNR.
    """

    def __init__(self, mean: float = -3.0, std: float = 5.0):
        positive(std=std)
        self.mean, self.std = mean, std

    def _times(self, sde: SDE, steps: int) -> Tensor:
        high, low = torch.special.ndtr((_snr(sde).rsqrt().log() - self.mean) / self.std).tolist()
        quantile = torch.linspace(high, low, steps, dtype=torch.float64)
        sigma = (self.mean + self.std * torch.special.ndtri(quantile)).exp()
        return _ends(sde, sde.time(sigma**-2))


class JumpGrid(Grid):
    """The times of another grid without its last, from which a sampler jumps to the sound: for a few calls.

    A call at t_min, where hardly anything is left to be done, is one of fifty, but not one of four.

    Args:
        grid: the other grid, of one step more; KarrasGrid by default.
    """

    fewest = 1

    def __init__(self, grid: Grid | None = None):
        self.grid = grid or KarrasGrid()
        if not self.grid.flexible:
            raise ValueError(f"{type(self.grid).__name__} has times of its own: leave JumpGrid out, and the last time")

    def _times(self, sde: SDE, steps: int) -> Tensor:
        return self.grid(sde, steps + 1)[:-1]


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
        chain = self.chain or sde.steps or 1000
        if steps > chain:
            raise ValueError(f"steps = {steps}: the chain has {chain}; take at most as many")
        # Of DDPM and NCSN t_min is 1 / N, so these are their own times i / N.
        i = torch.linspace(chain - 1, 0, steps, dtype=torch.float64).round()
        return _ends(sde, sde.t_min + (sde.t_max - sde.t_min) * i / (chain - 1))


class TimesGrid(Grid):
    """Times given one by one, for instance learned ones.

    Args:
        times: falling times in (0, t_max]; as many as the sampler has steps.
    """

    flexible = False
    fewest = 1

    def __init__(self, times: list[float]):
        self.times = times

    def _times(self, sde: SDE, steps: int) -> Tensor:
        if len(self.times) != steps:
            raise ValueError(f"the grid holds {len(self.times)} times: set steps to {len(self.times)}, not {steps}")
        return torch.tensor(self.times, dtype=torch.float64)


class LearnedGrid(Grid):
    """Times learned for a model by `diffwave-sde schedule`. Source: Watson et al. 2021.

    Args:
        file: the YAML file that it wrote, with a list of times for each number of steps.
    """

    flexible = False

    def __init__(self, file: str):
        try:
            self.grids = {int(k): [float(t) for t in v] for k, v in yaml.safe_load(Path(file).read_text()).items()}
        except FileNotFoundError:
            raise FileNotFoundError(f"no grids at {file}: make them with `diffwave-sde schedule --ckpt ...`") from None
        except (AttributeError, TypeError, ValueError, yaml.YAMLError):
            raise ValueError(f"{file} holds no grids: make them with `diffwave-sde schedule --ckpt ...`") from None
        self.file = file

    def _times(self, sde: SDE, steps: int) -> Tensor:
        if steps not in self.grids:
            known = ", ".join(map(str, sorted(self.grids)))
            raise ValueError(f"{self.file} has grids of {known} steps, not of {steps}: set steps, or learn that too")
        return torch.tensor(self.grids[steps], dtype=torch.float64)
