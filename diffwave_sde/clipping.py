"""Wrappers that keep D within full scale."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from diffwave_sde.bounds import positive
from diffwave_sde.denoiser import BaseDenoiser, Condition, Nodes, Wrapper


class Clip(Wrapper):
    """A wrapper for which D alone counts."""

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


class StaticClip(Clip):
    """D kept to the range of a waveform, [-limit, limit]. Source: Saharia et al. 2022, § 2.3.

    Args:
        denoiser: what is wrapped.
        limit: in units of the (companded) waveform.
    """

    def __init__(self, denoiser: BaseDenoiser, limit: float = 1.0):
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

    def __init__(self, denoiser: BaseDenoiser, quantile: float = 0.995):
        super().__init__(denoiser)
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile:g} is a share: choose it above 0 and up to 1")
        self.quantile = quantile

    def change(self, D: Tensor) -> Tensor:
        level = torch.quantile(D.abs().flatten(1).float(), self.quantile, dim=1).clamp_min(1.0)
        level = level.to(D.dtype)[:, None, None]
        return D.clamp(-level, level) / level


CLIPS: dict[str, type[Clip]] = {"static": StaticClip, "dynamic": DynamicThreshold}
