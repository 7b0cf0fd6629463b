"""Wrappers, Denoiser to Denoiser: they change D, and no sampler knows about them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from diffwave_sde.bounds import positive
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
        """As that of a denoiser: the new D, and the learned variance's place, at fixed times (N,)."""


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
        positive(limit=limit)
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


class Led(Wrapper):
    """A denoiser that is led away from a worse answer at some noise levels: D + (w - 1) (D - the worse one).

    Args:
        denoiser: what is wrapped.
        weight: w; 1 leaves D as it is.
        low: noise level, σ = 1 / √snr, from which on it acts.
        high: the one up to which it acts.
    """

    def __init__(self, denoiser: Denoiser | Wrapper, weight: float = 1.5, low: float = 0.0, high: float = math.inf):
        super().__init__(denoiser)
        _check(weight=weight, low=low, high=high)
        self.weight, self.low, self.high = weight, low, high

    def acts(self, t: Tensor) -> Tensor:
        """Whether it acts at each of the times (N,)."""
        sigma = self.sde.kernel(t).snr.rsqrt()
        return (sigma >= self.low) & (sigma <= self.high) & (self.weight != 1)

    def away(self, D: Tensor, worse: Tensor) -> Tensor:
        """The new D (B, C, T)."""
        return D + (self.weight - 1) * (D - worse)


def _check(**options: float) -> None:
    """Raises a ValueError of one line if a weight and two noise levels, by name, contradict each other."""
    (weight, w), (first, low), (last, high) = options.items()
    if w < 0:
        raise ValueError(f"{weight} = {w:g} must be at least 0; 1 is no guidance")
    if not 0 <= low < high:
        raise ValueError(f"{first} = {low:g} and {last} = {high:g} are noise levels: 0 <= {first} < {last}")


class ClassifierFree(Led):
    """D led away from what it would be without a class: D + (w - 1) (D - D without the class).

    It takes a second pass of the network wherever it acts; both are made in one call, of twice the batch. Where nothing
    is asked for, nothing changes. The network must be trained with some of the classes hidden.

    Source: Ho and Salimans 2022, eq. 6 (their w is ours less 1); at some noise levels alone: Kynkäänniemi et al. 2024.
    """

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        if not self._asked(condition):
            return self.denoiser(u, t, condition)
        acts = self.acts(t)[:, None, None].to(u.device)
        D, without = self.denoiser(torch.cat((u, u)), torch.cat((t, t)), _and_without(condition)).chunk(2)
        return torch.where(acts, self.away(D, without), D)

    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        inner, acts = self.denoiser.nodes(times, like), self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            if not acts[i] or not self._asked(condition):
                return inner(u, i, condition)
            both, share = inner(torch.cat((u, u)), i, _and_without(condition))
            return self.away(*both.chunk(2)), None if share is None else share[: len(u)]

        return at

    def _asked(self, condition: Condition | None) -> bool:
        return self.weight != 1 and condition is not None and condition.label is not None


class AutoGuidance(Led):
    """D led away from what a weaker network says of the same: D + (w - 1) (D - D of the weaker one).

    Both err in the same places, the weaker one more: the difference points away from the errors. It takes a pass of the
    weaker network wherever it acts.

    Source: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", section 3.

    Args:
        denoiser: what is wrapped.
        weak: a denoiser for the same process, of a network with less in it or less trained.
        weight, low, high: as of `Led`.
    """

    def __init__(
        self,
        denoiser: Denoiser | Wrapper,
        weak: Denoiser,
        weight: float = 1.5,
        low: float = 0.0,
        high: float = math.inf,
    ):
        super().__init__(denoiser, weight, low, high)
        self.weak = weak

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        D = self.denoiser(u, t, condition)
        if self.weight == 1:
            return D
        return torch.where(self.acts(t)[:, None, None].to(u.device), self.away(D, self.weak(u, t, condition)), D)

    def nodes(self, times: Tensor, like: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        inner, weak = self.denoiser.nodes(times, like), self.weak.nodes(times, like)
        acts = self.acts(times).tolist()

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            D, share = inner(u, i, condition)
            return self.away(D, weak(u, i, condition)[0]) if acts[i] else D, share

        return at


def _and_without(condition: Condition) -> Condition:
    """The condition, and then again without its classes."""
    twice = {k: None if v is None else torch.cat((v, v)) for k, v in vars(condition).items()}
    return Condition(**{**twice, "label": torch.cat((condition.label, torch.full_like(condition.label, -1)))})


@dataclass(frozen=True)
class Guidance:
    """How far a model is led, and at which noise levels; what a configuration says.

    Args:
        weight: how far to the class that is asked for; 1 is not at all, more makes sounds clearer examples of their
            class, and more alike.
        low: noise level σ from which on that acts; each step that it acts at costs two passes of the network.
        high: noise level σ up to which it acts; .inf for all.
        auto: how far away from the errors of the model's weak network (autoguidance); 1 is not at all.
        auto_low: noise level σ from which on that acts; each step that it acts at costs a pass of the weak network.
        auto_high: noise level σ up to which it acts; .inf for all.

    Raises:
        ValueError: if they contradict each other.
    """

    weight: float = 1.5
    low: float = 0.0
    high: float = math.inf
    auto: float = 1.0
    auto_low: float = 0.0
    auto_high: float = math.inf

    def __post_init__(self) -> None:
        _check(weight=self.weight, low=self.low, high=self.high)
        _check(auto=self.auto, auto_low=self.auto_low, auto_high=self.auto_high)

    def by_class(self, denoiser: Denoiser | Wrapper) -> ClassifierFree:
        """The part that leads to a class."""
        return ClassifierFree(denoiser, self.weight, self.low, self.high)

    def by_weak(self, denoiser: Denoiser | Wrapper, weak: Denoiser) -> AutoGuidance:
        """The part that leads away from what a weaker denoiser says."""
        return AutoGuidance(denoiser, weak, self.auto, self.auto_low, self.auto_high)

    def on(self, denoiser: Denoiser) -> Guidance:
        """As much of it as a model has the means for: one of no two classes has none to be led to."""
        weight = self.weight if denoiser.net.classes > 1 else 1.0
        return replace(self, weight=weight, auto=1.0 if denoiser.weak is None else self.auto)

    def __call__(self, denoiser: Denoiser) -> Denoiser | Wrapper:
        """The denoiser, led as far as it has the means for."""
        own, led = self.on(denoiser), denoiser
        if own.weight != 1:
            led = own.by_class(led)
        if own.auto != 1:
            led = own.by_weak(led, denoiser.weak)
        return led

    def __str__(self) -> str:
        parts = [_told(self.weight, self.low, self.high)] if self.weight != 1 else []
        if self.auto != 1:
            parts.append(f"auto {_told(self.auto, self.auto_low, self.auto_high)}")
        return ", ".join(parts) or "none"


def _told(weight: float, low: float, high: float) -> str:
    levels = [f"from σ = {low:g}"] * (low > 0) + [f"up to σ = {high:g}"] * (high < math.inf)
    return " ".join([f"{weight:g}", *levels])
