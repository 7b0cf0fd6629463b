"""Wrappers that keep D within full scale."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.bounds import positive
from diffwave_sde.denoiser import BaseDenoiser, OutputWrapper


class Clip(OutputWrapper):
    """A wrapper that keeps D within full scale."""


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
