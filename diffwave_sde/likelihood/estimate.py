"""What all estimators of the likelihood share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import Generator
from diffwave_sde.sde import SDE

Progress = Callable[[int, int], None]
"""Called with (network calls done, calls in all); 0 in all where it is not known."""


@dataclass(frozen=True)
class Estimate:
    """Independent estimates of log p(x) for each sound.

    draws: nats, (B, P), float64.
    """

    draws: Tensor

    @property
    def nats(self) -> Tensor:
        """Their mean, (B,)."""
        return self.draws.mean(1)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean, (B,); 0 where nothing was drawn, NaN of a single draw."""
        count = self.draws.shape[1]
        if count == 0:
            raise ValueError("no draws to take a mean of")
        return self.draws.std(1) / math.sqrt(count) if count > 1 else torch.full_like(self.draws[:, 0], math.nan)


class Estimator(ABC):
    """A way to learn log p(x).

    takes_edges: whether it has a decoder, which reads a cell's probability.
    noisy: whether its estimates vary by chance about what they estimate.
    probes: estimates for each sound.
    """

    takes_edges: bool = False
    noisy: bool = False
    probes: int = 1

    @abstractmethod
    def kind(self, sde: SDE) -> str:
        """What its figures are of this process: density, bound, or proxy."""

    @abstractmethod
    def __call__(
        self,
        denoiser: BaseDenoiser,
        x: Tensor,
        condition: Condition | None = None,
        generator: Generator = None,
        edges: tuple[Tensor, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Estimate:
        """Estimates for the sounds x (B, C, T), as the denoiser sees them (companded).

        Args:
            denoiser: the model, which knows the process.
            condition: what the sounds are said to be; log p is given that.
            generator: one, or one for each sound.
            edges: where the values that round to x begin and end, (B, C, T) each: then of the probability of that
                cell, if the estimator has a decoder (`takes_edges`); else of the density at x.
            progress: told of network calls.
        """
