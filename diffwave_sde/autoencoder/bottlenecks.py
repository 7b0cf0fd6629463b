"""Bottlenecks: what a latent may be, so that little goes through it, or what does follows a law that is easy to draw.

Quantisers are those of vector-quantize-pytorch: codes that follow the mean of what is mapped to them (EMA), start from
k-means of the first batch, and are put elsewhere where nothing is mapped to them any more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffwave_sde.bounds import positive
from diffwave_sde.random import Generator, randn


def library(name: str) -> ModuleType:
    """A package that only autoencoders need.

    Raises:
        ModuleNotFoundError: if it is not installed; it says how to get it.
    """
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"autoencoders need {name.replace('_', '-')}: pip install 'diffwave-sde[latents]'", name=name
        ) from error


class Bottled(NamedTuple):
    """What comes out of a bottleneck in training.

    z: latents (B, C, N).
    loss: what the bottleneck adds to the loss of each example, (B,).
    codes: the row of each codebook that was taken, (B, N, Q) long; None where nothing is quantised.
    """

    z: Tensor
    loss: Tensor
    codes: Tensor | None = None


class Bottleneck(nn.Module, ABC):
    """Between encoder and decoder.

    channels: C, numbers of a latent frame.
    codes: rows of each codebook; empty where nothing is quantised.
    """

    channels: int
    codes: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that the encoder gives for a frame."""
        return self.channels

    @abstractmethod
    def forward(self, h: Tensor, generator: Generator = None) -> Bottled:
        """h (B, width, N), as the encoder gives it -> latents, loss and codes."""

    def latent(self, h: Tensor) -> Tensor:
        """The latent of h, without chance and before it is quantised: (B, width, N) -> (B, C, N)."""
        return h

    def settle(self, z: Tensor) -> Tensor:
        """What the decoder is given of a latent z (B, C, N), which may be a model's: quantised where it has to be."""
        return z

    def synchronize(self) -> None:
        """Let what follows the batches without gradients follow those of all processes; once, before training."""


class Identity(Bottleneck):
    """Latents that may be anything.

    Args:
        channels: numbers of a latent frame.
    """

    def __init__(self, channels: int = 32):
        super().__init__()
        positive(channels=channels)
        self.channels = channels

    def forward(self, h: Tensor, generator: Generator = None) -> Bottled:
        return Bottled(h, h.new_zeros(len(h)))


class KL(Bottleneck):
    """A variational autoencoder's: latents N(μ, σ²), kept near N(0, 1).

    Source: Kingma and Welling 2014; Rombach et al. 2022 (with little weight, as what a diffusion is to learn).

    Args:
        channels: numbers of a latent frame.
        weight: what the divergence from N(0, 1), in nats per number of the latent, is multiplied by.
    """

    def __init__(self, channels: int = 32, weight: float = 0.01):
        super().__init__()
        positive(channels=channels)
        if weight < 0:
            raise ValueError(f"weight = {weight:g} of the divergence must be at least 0")
        self.channels, self.weight = channels, weight

    @property
    def width(self) -> int:
        return 2 * self.channels

    @staticmethod
    def moments(h: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, 2 C, N) -> mean and log variance, (B, C, N) each."""
        mean, log_variance = h.chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    @staticmethod
    def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(μ, σ²) ‖ N(0, 1)) in nats per number of the latent, (B,). Source: Kingma and Welling 2014, app. B."""
        return (0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).flatten(1).mean(1)

    def forward(self, h: Tensor, generator: Generator = None) -> Bottled:
        mean, log_variance = self.moments(h)
        z = mean + (0.5 * log_variance).exp() * randn(mean.shape, generator, mean.dtype, mean.device)
        return Bottled(z, self.weight * self.divergence(mean, log_variance))

    def latent(self, h: Tensor) -> Tensor:
        return self.moments(h)[0]


class Quantizer(Bottleneck):
    """A bottleneck whose latents are rows of codebooks, by way of a quantiser of vector-quantize-pytorch."""

    quantizer: nn.Module

    @abstractmethod
    def _quantise(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """frames (B, N, C) -> quantised (B, N, C), codes (B, N, Q), loss ()."""

    def forward(self, h: Tensor, generator: Generator = None) -> Bottled:
        with torch.autocast(h.device.type, enabled=False):  # distances of near codes are lost in half precision
            z, codes, loss = self._quantise(h.mT.float())
        # h.shape[0], which an export leaves open, and not len(h), a number.
        return Bottled(z.mT.to(h), loss.expand(h.shape[0]), codes)

    def settle(self, z: Tensor) -> Tensor:
        return self(z).z


class ResidualVQ(Quantizer):
    """Codebooks one after the other, each for what those before have left. With one of them it is a VQ-VAE's.

    Source: van den Oord et al. 2017 (VQ-VAE); Zeghidour et al. 2021, section III.C (residual, k-means, dead codes).

    Args:
        channels: numbers of a latent frame.
        quantizers: codebooks.
        codes: rows of each.
        dim: numbers of a row, to which a frame is projected; null for `channels`.
        decay: share of its old place that a code keeps at a step.
        restart: a code to which fewer frames of a batch are mapped, in the moving mean, is put on one of them.
        commitment: weight of the squared distance from a frame to its code.
    """

    def __init__(
        self,
        channels: int = 32,
        quantizers: int = 4,
        codes: int = 256,
        dim: int | None = None,
        decay: float = 0.98,
        restart: float = 2.0,
        commitment: float = 0.25,
    ):
        super().__init__()
        positive(channels=channels, quantizers=quantizers, codes=codes)
        if dim is not None:
            positive(dim=dim)
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay:g} of the codes must be at least 0 and below 1")
        if restart < 0 or commitment < 0:
            raise ValueError(f"restart = {restart:g} and commitment = {commitment:g} must be at least 0")
        self.channels, self.codes = channels, (codes,) * quantizers
        self._make = partial(
            library("vector_quantize_pytorch").ResidualVQ,
            dim=channels,
            num_quantizers=quantizers,
            codebook_size=codes,
            codebook_dim=dim,
            decay=decay,
            threshold_ema_dead_code=restart,
            commitment_weight=commitment,
            kmeans_init=True,
            rotation_trick=True,
        )
        # The package asks for a group of processes here, which Lightning makes later.
        self.quantizer = self._make(sync_codebook=False)

    @property
    def codebooks(self) -> Tensor:
        """The codebooks, (Q, codes, dim)."""
        return torch.stack([layer.codebook for layer in self.quantizer.layers])

    def synchronize(self) -> None:
        alone, self.quantizer = self.quantizer, self._make(sync_codebook=True)
        self.quantizer.load_state_dict(alone.state_dict())
        self.quantizer.to(next(alone.buffers()).device).train(alone.training)

    def _quantise(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, codes, loss = self.quantizer(frames)
        return z, codes, loss.sum()

    def settle(self, z: Tensor) -> Tensor:
        """The nearest codes, as the quantiser finds them when it does not learn, in tensors alone: a graph holds it."""
        with torch.autocast(z.device.type, enabled=False):
            left = self.quantizer.project_in(z.mT.float())
            found = torch.zeros_like(left)
            for book in self.codebooks:
                # ‖r - c‖² without ‖r‖², which all codes have in common.
                row = book[(book.square().sum(-1) - 2 * left @ book.mT).argmin(-1)]
                left, found = left - row, found + row
            return self.quantizer.project_out(found).mT.to(z)


class VectorQuantizer(ResidualVQ):
    """One codebook: the bottleneck of a VQ-VAE.

    Source: van den Oord et al. 2017, section 3 and appendix A.1 (codes that follow the mean).

    Args:
        channels: numbers of a latent frame.
        codes: rows of the codebook.
        dim: numbers of a row, to which a frame is projected; null for `channels`.
        decay: share of its old place that a code keeps at a step.
        restart: a code to which fewer frames of a batch are mapped, in the moving mean, is put on one of them.
        commitment: weight of the squared distance from a frame to its code.
    """

    def __init__(
        self,
        channels: int = 32,
        codes: int = 1024,
        dim: int | None = None,
        decay: float = 0.98,
        restart: float = 2.0,
        commitment: float = 0.25,
    ):
        super().__init__(channels, 1, codes, dim, decay, restart, commitment)


class FSQ(Quantizer):
    """Finite scalar quantisation: each number of a frame is rounded to one of a few levels; no code can die.

    Source: Mentzer et al. 2023.

    Args:
        channels: numbers of a latent frame, which are projected to as many as there are levels.
        levels: of each number.
    """

    def __init__(self, channels: int = 32, levels: Sequence[int] = (8, 5, 5, 5)):
        super().__init__()
        positive(channels=channels)
        if not levels or min(levels) < 2:
            raise ValueError(f"levels = {list(levels)}: give some, each at least 2")
        self.channels, self.codes = channels, (math.prod(levels),)
        self.quantizer = library("vector_quantize_pytorch").FSQ(levels=list(levels), dim=channels)

    def _quantise(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, codes = self.quantizer(frames)
        return z, codes[..., None].long(), frames.new_zeros(())
