"""Wrappers, Denoiser to Denoiser: they change D, and no sampler knows about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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

    @abstractmethod
    def change(self, D: Tensor) -> Tensor:
        """The new D for D (B, C, T), example by example."""

    @property
    def sde(self) -> SDE:
        return self.denoiser.sde

    @property
    def sigma_data(self) -> Tensor:
        return self.denoiser.sigma_data

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


class StaticClip(Wrapper):
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


class DynamicThreshold(Wrapper):
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


CLIPS: dict[str, type[Wrapper]] = {"static": StaticClip, "dynamic": DynamicThreshold}
