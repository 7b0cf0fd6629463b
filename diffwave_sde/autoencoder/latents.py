"""Latents as the sequences that a diffusion is of: a process, its losses and samplers know nothing of them.

The C channels of N frames lie in one sequence of C N numbers, frame after frame, each channel with the mean of its
training clips taken away and over their standard deviation. A network takes such a sequence in frames of C bands by a
front end that folds it (`networks.Fold`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diffwave_sde.autoencoder.networks import Autoencoder

CLIPS = 256
"""Training clips by which the moments of the latents are measured."""


class Latents(nn.Module):
    """An autoencoder that has learned, and the moments of its latents; it learns nothing more.

    Args:
        autoencoder: what makes them.
    """

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(autoencoder.channels))
        self.register_buffer("deviation", torch.ones(autoencoder.channels))
        self.eval()

    def train(self, mode: bool = True) -> Latents:
        """Nothing: in training a codebook would move."""
        return super().train(False)

    def length(self, samples: int) -> int:
        """Numbers that stand for a sound of so many samples."""
        return self.autoencoder.channels * self.autoencoder.frames(samples)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Waveforms (B, 1, T) -> (B, 1, length(T))."""
        with torch.autocast(x.device.type, enabled=False):  # what is noised has all of its digits
            z = (self.autoencoder.encode(x) - self.mean[:, None]) / self.deviation[:, None]
        return z.mT.reshape(len(x), 1, -1)

    @torch.no_grad()
    def decode(self, y: Tensor, length: int) -> Tensor:
        """Sequences (B, 1, length(length)) -> waveforms (B, 1, length)."""
        z = y.unflatten(-1, (-1, self.autoencoder.channels))[:, 0].mT
        with torch.autocast(y.device.type, enabled=False):
            return self.autoencoder.decode(z * self.deviation[:, None] + self.mean[:, None], length)

    @torch.no_grad()
    def measure(self, clips: Iterable[Tensor]) -> None:
        """Measure the moments of each channel; of an autoencoder that wants none of it they stay 0 and 1.

        Args:
            clips: waveforms (n, T), in pieces.
        """
        if not self.autoencoder.measured:
            return
        total, square, count = 0.0, 0.0, 0
        for piece in clips:
            z = self.autoencoder.encode(piece[:, None].to(self.mean)).double()
            total, square = total + z.sum((0, 2)), square + z.square().sum((0, 2))
            count += z.shape[0] * z.shape[2]
        mean = total / count
        self.mean.copy_(mean)
        # A channel that says nothing would divide by nothing.
        self.deviation.copy_((square / count - mean.square()).clamp_min(1e-12).sqrt())


@dataclass
class LatentSounds:
    """The data as a diffusion of latents takes them.

    data: the data module.
    latents: of them, measured.
    """

    data: Any
    latents: Latents

    @property
    def length(self) -> int:
        """Numbers of a latent."""
        return self.latents.length(self.data.length)

    @property
    def sigma_data(self) -> float:
        """Standard deviation: 1 by the measure; of latents that are not measured that of the sounds."""
        return 1.0 if self.latents.autoencoder.measured else self.data.sigma_data

    @cached_property
    def diameter(self) -> float:
        """The largest Euclidean distance between the latents of two training clips, of up to `CLIPS`."""
        pieces = (piece[:, None].to(self.latents.mean) for piece in self.data.subsample(CLIPS))
        z = torch.cat([self.latents.encode(piece)[:, 0] for piece in pieces]).double()
        return float(torch.cdist(z, z).max())
