"""Wrappers, Denoiser to Denoiser: they change D, and no sampler knows about them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.sde import SDE


class Wrapper(nn.Module, ABC):
    """A denoiser that changes what another one says.

    Args:
        denoiser: the other one; itself a wrapper, if you like.
    """

    def __init__(self, denoiser: Denoiser | Wrapper):
        super().__init__()
        self.denoiser = denoiser

    @property
    def sde(self) -> SDE:
        return self.denoiser.sde

    @property
    def sigma_data(self) -> Tensor:
        return self.denoiser.sigma_data

    @abstractmethod
    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """The new D: u (B, S, C, T), t (B,) -> (B, C, T)."""

    @abstractmethod
    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """As that of a denoiser: the new D, and the learnt variance's place, at fixed times (N,)."""


class Clip(Wrapper):
    """A wrapper for which D alone counts."""

    @abstractmethod
    def change(self, D: Tensor) -> Tensor:
        """The new D for D (B, C, T), example by example."""

    @final
    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self.change(self.denoiser(u, t, condition))

    @final
    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        inner = self.denoiser.nodes(times, like)

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            D, share = inner(u, i, condition)
            return self.change(D), share

        return at


class StaticClip(Clip):
    """D kept to the range of a waveform, [-limit, limit]. Source: Saharia et al. 2022, § 2.3.

    Args:
        denoiser: what is wrapped.
        limit: in units of the (companded) waveform.
    """

    def __init__(self, denoiser: Denoiser | Wrapper, limit: float = 1.0):
        super().__init__(denoiser)
        if limit <= 0:
            raise ValueError(f"limit = {limit:g} must be positive")
        self.limit = limit

    def change(self, D: Tensor) -> Tensor:
        return D.clamp(-self.limit, self.limit)


class DynamicThreshold(Clip):
    """D clipped at a quantile of its own absolute values, where that exceeds full scale, and brought back to it.

    Source: Saharia et al. 2022, § 2.3.

    Args:
        denoiser: what is wrapped.
        quantile: share of the samples of a sound that are left as they are, 0 to 1.
    """

    def __init__(self, denoiser: Denoiser | Wrapper, quantile: float = 0.995):
        super().__init__(denoiser)
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile:g} is a share: choose it above 0 and up to 1")
        self.quantile = quantile

    def change(self, D: Tensor) -> Tensor:
        level = torch.quantile(D.abs().flatten(1).float(), self.quantile, dim=1).clamp_min(1.0)
        level = level.to(D.dtype)[:, None, None]
        return D.clamp(-level, level) / level


CLIPS: dict[str, type[Clip]] = {"static": StaticClip, "dynamic": DynamicThreshold}


class ClassifierFree(Wrapper):
    """D led away from what it would be without a class: D + (w - 1) (D - D without the class).

    It takes a second pass of the network wherever it acts; both are made in one call, of twice the batch. Where nothing
    is asked for, nothing changes.

    Source: Ho and Salimans 2022, eq. 6 (their w is ours less 1); at some noise levels alone: Kynkäänniemi et al. 2024.

    Args:
        denoiser: what is wrapped; trained with some of the classes hidden.
        weight: w; 1 leaves D as it is.
        low: noise level, σ = 1 / √snr, from which on it acts.
        high: the one up to which it acts.
    """

    def __init__(self, denoiser: Denoiser | Wrapper, weight: float = 1.5, low: float = 0.0, high: float = math.inf):
        super().__init__(denoiser)
        if weight < 0:
            raise ValueError(f"weight = {weight:g} must be at least 0; 1 is no guidance")
        if not 0 <= low < high:
            raise ValueError(f"low = {low:g} and high = {high:g} are noise levels: 0 <= low < high")
        self.weight, self.low, self.high = weight, low, high

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        if not self._asked(condition):
            return self.denoiser(u, t, condition)
        acts = self.acts(t)[:, None, None].to(u.device)
        both = self.denoiser(torch.cat((u, u)), torch.cat((t, t)), _and_without(condition))
        return torch.where(acts, self._led(both), both[: len(u)])

    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            if not acts[i] or not self._asked(condition):
                return inner(u, i, condition)
            both, share = inner(torch.cat((u, u)), i, _and_without(condition))
            return self._led(both), None if share is None else share[: len(u)]

        return at

    def acts(self, t: Tensor) -> Tensor:
        """Whether it acts at each of the times (N,)."""
        sigma = self.sde.kernel(t).snr.rsqrt()
        return (sigma >= self.low) & (sigma <= self.high)

    def _asked(self, condition: Condition | None) -> bool:
        return self.weight != 1 and condition is not None and condition.label is not None

    def _led(self, both: Tensor) -> Tensor:
        D, without = both.chunk(2)
        return D + (self.weight - 1) * (D - without)


def _and_without(condition: Condition) -> Condition:
    """The condition, and then again without its classes."""
    twice = {k: None if v is None else torch.cat((v, v)) for k, v in vars(condition).items()}
    return Condition(**{**twice, "label": torch.cat((condition.label, torch.full_like(condition.label, -1)))})


@dataclass(frozen=True)
class Guidance:
    """How far a model is led to the class that it is asked for, and at which noise levels; what a configuration says.

    Args:
        weight: 1 is no guidance; more makes sounds clearer examples of their class, and more alike.
        low: noise level σ from which on it acts; each step that it acts at costs two passes of the network.
        high: noise level σ up to which it acts.

    Raises:
        ValueError: if they contradict each other.
    """

    weight: float = 1.5
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        self(nn.Identity())

    def __call__(self, denoiser: Denoiser | Wrapper) -> ClassifierFree:
        return ClassifierFree(denoiser, self.weight, self.low, self.high)

    def __str__(self) -> str:
        if self.weight == 1:
            return "none"
        levels = [f"from σ = {self.low:g}"] * (self.low > 0) + [f"up to σ = {self.high:g}"] * (self.high < math.inf)
        return " ".join([f"{self.weight:g}", *levels])
