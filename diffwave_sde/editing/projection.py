"""D made to agree with what is known of a sound: some of its samples, bounds of others, or some of its spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, OutputWrapper


class Projected(OutputWrapper):
    """A denoiser whose D is taken to the nearest sound that agrees with what is known.

    Cheap, and exact for the known part; the rest is drawn beside a known part that is as noisy as itself, so that on
    Gaussian data it is not exactly of the conditional law. `samplers.RePaint` comes nearer, `LinearPosterior` is exact.

    Source: Lugmayr et al. 2022, eq. 8, as a wrapper: D of a known sample is the sample, and every sampler then brings
    its state along. No state needs to be replaced.

    Args:
        denoiser: what is wrapped.
        project: D (B, C, T) -> the new D.
    """

    def __init__(self, denoiser: BaseDenoiser, project: Callable[[Tensor], Tensor]):
        super().__init__(denoiser)
        self.project = project

    def change(self, D: Tensor) -> Tensor:
        return self.project(D)


@dataclass(frozen=True)
class KnownSamples:
    """A wrapper: samples (T,) of x (T,) are known where `free` (T,) is false."""

    x: Tensor
    free: Tensor

    def __call__(self, denoiser: BaseDenoiser) -> Projected:
        return Projected(denoiser, self.project)

    def project(self, D: Tensor) -> Tensor:
        return torch.where(self.free.to(D.device), D, self.x.to(D))


def between(low: Tensor, high: Tensor) -> Callable[[Tensor], Tensor]:
    """A projection: each sample lies between those of `low` and `high`, (T,) each; infinite where there is no bound."""
    return lambda D: torch.minimum(torch.maximum(D, low.to(D)), high.to(D))


def known_band(x: Tensor, cutoff: float) -> Callable[[Tensor], Tensor]:
    """A projection: the spectrum of x (T,) is known up to `cutoff`, a share of the sampling rate, 0 to 0.5."""

    def project(D: Tensor) -> Tensor:
        bins = torch.fft.rfftfreq(D.shape[-1], device=D.device) <= cutoff
        spectrum = torch.where(bins, torch.fft.rfft(x.to(D)), torch.fft.rfft(D))
        return torch.fft.irfft(spectrum, D.shape[-1])

    return project
