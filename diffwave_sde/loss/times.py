"""Laws of the times at which a network is trained, as quantile functions."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffwave_sde.bounds import positive
from diffwave_sde.sde import SDE, float64


class TimeSampler(nn.Module, ABC):
    """The law of the times at which a network is trained; it is part of the objective.

    invariant: whether a process that keeps its ends may run between them as it likes, and the mean of a loss that is
        weighted by the likelihood stays: so it is with times uniform in t.
    learns: whether the law moves with the losses, for which those of all processes are gathered at every step.
    discrete: whether the times are those of a grid, whose size `count` gives.
    """

    invariant: bool = False
    learns: bool = False
    discrete: bool = False

    @abstractmethod
    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        """The times (B,), float64, at the quantiles (B,) in [0, 1) of the law."""

    @property
    def law(self) -> TimeSampler:
        """The law that the objective means: itself, unless it is only a means to less variance."""
        return self

    def correction(self, sde: SDE, t: Tensor) -> Tensor:
        """The factor (B,) of the loss at t (B,): other than 1 where the law is only a means to less variance."""
        return torch.ones_like(float64(t))

    def observe(self, sde: SDE, t: Tensor, losses: Tensor) -> None:
        """Take the losses (B,) of all processes at the times t (B,), not corrected; nothing where the law is given."""

    def count(self, sde: SDE) -> int:
        """Times on the grid of a discrete law.

        Raises:
            TypeError: if the law has none.
        """
        raise TypeError(f"{type(self).__name__} draws from no grid of times: take DiscreteTime")


class UniformTime(TimeSampler):
    """t uniform between the process's t_min and t_max."""

    invariant = True

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        return sde.t_min + float64(quantile) * (sde.t_max - sde.t_min)


class DiscreteTime(TimeSampler):
    """t uniform on the grid i t_max / N, i = 1 ... N. Source: Ho et al. 2020, algorithm 1.

    Args:
        steps: N; null for that of a discrete process, and 1000 for others.
    """

    discrete = True

    def __init__(self, steps: int | None = None):
        super().__init__()
        if steps is not None and steps < 2:
            raise ValueError(f"steps = {steps}: a grid of times has at least 2")
        self.steps = steps

    def count(self, sde: SDE) -> int:
        """N for this process."""
        return self.steps or sde.steps or 1000

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        steps = self.count(sde)
        i = (float64(quantile) * steps).floor().clamp(0, steps - 1) + 1
        return (i / steps * sde.t_max).clamp_min(sde.t_min)


class LogNormalSigma(TimeSampler):
    """log σ normal, where σ = 1 / √snr is the noise level relative to the signal. Source: Karras et al. 2022, table 1.

    Args:
        mean: mean of log σ, in nepers; -1.2 is Karras's choice for pictures.
        std: standard deviation of log σ, in nepers.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        super().__init__()
        positive(std=std)
        self.mean, self.std = mean, std

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(float64(quantile).clamp(1e-12, 1 - 1e-12))
        return sde.time((-2 * log_sigma).exp())


class ImportanceTime(TimeSampler):
    """Times in proportion to √E[L²], and the loss corrected for it: the objective of `base`, with less variance.

    The losses of the last steps are averaged in `buckets` equal parts of the law `base`; until every part has seen
    `history` of them, `base` itself is drawn. Source: Nichol and Dhariwal 2021, § 3.3, eq. 18.

    Args:
        base: the law that the objective means.
        buckets: parts that are told apart.
        history: losses that an average looks back on, in number for each part.
        uniform: share of draws that stay with `base`, so that no part is ever forgotten; above 0, to 1.
    """

    learns = True

    second: Tensor
    mass: Tensor
    seen: Tensor

    def __init__(self, base: TimeSampler | None = None, buckets: int = 64, history: int = 10, uniform: float = 0.01):
        super().__init__()
        if buckets < 2 or history < 1:
            raise ValueError(f"buckets = {buckets} must be at least 2 and history = {history} at least 1")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform = {uniform:g} is a share: choose it above 0 and up to 1")
        self.base = base or UniformTime()
        self.invariant = self.base.invariant
        self.buckets, self.history, self.uniform = buckets, history, uniform
        for name in ("second", "mass", "seen"):
            self.register_buffer(name, torch.zeros(buckets))

    @property
    def law(self) -> TimeSampler:
        return self.base

    def probabilities(self) -> Tensor:
        """The share of draws of each part, (buckets,), float64."""
        root = (float64(self.second) / float64(self.mass).clamp_min(1e-12)).sqrt()
        even = torch.full_like(root, 1 / self.buckets)
        sharp = torch.where(root.sum() > 0, root / root.sum().clamp_min(1e-300), even)
        known = (self.seen >= self.history).all()
        return torch.where(known, (1 - self.uniform) * sharp + self.uniform * even, even)

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        p = self.probabilities().to(quantile.device)
        ends = p.cumsum(0)
        q = float64(quantile).to(p) * ends[-1]
        part = torch.searchsorted(ends, q, right=True).clamp_max(self.buckets - 1)
        within = ((q - (ends - p)[part]) / p[part]).clamp(0, 1 - 1e-12)
        return self.base(sde, (part + within) / self.buckets)

    def _part(self, sde: SDE, t: Tensor) -> Tensor:
        """Which part of the base law t (B,) is in."""
        edges = self.base(sde, torch.arange(1, self.buckets, device=t.device, dtype=t.dtype) / self.buckets)
        return torch.searchsorted(edges, t, right=True)

    def correction(self, sde: SDE, t: Tensor) -> Tensor:
        t = float64(t)
        return 1 / (self.buckets * self.probabilities().to(t.device)[self._part(sde, t)])

    @torch.no_grad()
    def observe(self, sde: SDE, t: Tensor, losses: Tensor) -> None:
        part = self._part(sde, float64(t)).to(self.second.device)
        zeros = torch.zeros_like(self.second)
        count = zeros.index_add(0, part, torch.ones_like(part, dtype=zeros.dtype))
        square = losses.detach().to(zeros).square().nan_to_num(0, 0, 0)  # a spike is not to steer what comes after
        mean = zeros.index_add(0, part, square) / count.clamp_min(1)
        kept = (1 - 1 / self.history) ** count if self.history > 1 else (count == 0).to(zeros)
        self.second.mul_(kept).add_((1 - kept) * mean)
        self.mass.mul_(kept).add_(1 - kept)
        self.seen.add_(count)
