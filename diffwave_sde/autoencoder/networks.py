"""Strided convolutions down to a latent and up again.

Source: Kumar et al. 2023 (descript-audio-codec): snake activations, residual units, strides one after the other; here
with one dilation by default, and the first stride right at the waveform, which one core can train.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.autoencoder.bottlenecks import KL, Bottled, Bottleneck
from diffwave_sde.networks.blocks import zeroed
from diffwave_sde.random import Generator


class _Snake(torch.autograd.Function):
    """y = x + (1 - cos 2αx) / 2α. Autograd's own way keeps six tensors of the size of x, which takes twice as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        half = 0.5 / alpha
        y = (x * (2 * alpha)).cos_().mul_(-half).add_(x).add_(half)
        ctx.save_for_backward(x, alpha, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha, y = ctx.saved_tensors
        grad = torch.addcmul(g, (x * (2 * alpha)).sin_(), g)  # g (1 + sin 2αx)
        # ∂y/∂α = (x sin 2αx - (y - x)) / α
        return grad, ((x * grad).addcmul_(g, y, value=-1).sum((0, 2)) / alpha[:, 0])[:, None]


class Snake(nn.Module):
    """x + sin²(α x) / α, α learnt for each channel: periodic where a sound is. Source: Ziyin et al. 2020, eq. 3."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, N) -> the same shape."""
        # Away from 0, where it is the identity all the same.
        return _Snake.apply(x, torch.where(self.alpha.abs() < 1e-4, 1e-4, self.alpha))


class ResidualUnit(nn.Module):
    """Snake, a dilated convolution, snake, one of one tap; zero at the start beside the identity."""

    def __init__(self, channels: int, kernel: int, dilation: int):
        super().__init__()
        self.branch = nn.Sequential(
            Snake(channels),
            nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation),
            Snake(channels),
            zeroed(nn.Conv1d(channels, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, N) -> the same shape."""
        return x + self.branch(x)


class Autoencoder(nn.Module, ABC):
    """Waveforms as latents, and back.

    channels: C, numbers of a latent frame.
    ratio: samples of a latent frame.
    measured: whether its latents are to be brought to zero mean and unit deviation before they are diffused.
    codes: rows of each codebook; empty where nothing is quantised.
    """

    channels: int
    ratio: int
    measured: bool = True
    codes: tuple[int, ...] = ()

    @property
    def exported(self) -> nn.Module:
        """Whose weights an export holds, by the names of a checkpoint."""
        return nn.ModuleDict({"autoencoder": self})

    def bitrate(self, rate: float) -> float:
        """Bits a second of sounds at `rate`, Hz, as rows of codebooks; infinite where nothing is quantised."""
        return sum(map(math.log2, self.codes)) * rate / self.ratio if self.codes else math.inf

    def frames(self, length: int) -> int:
        """Latent frames of a sound of `length` samples."""
        return -(-length // self.ratio)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The latents, without chance and before they are quantised: x (B, 1, T) -> (B, C, N); any T."""

    @abstractmethod
    def decode(self, z: Tensor, length: int) -> Tensor:
        """The waveforms of latents that may be a model's: z (B, C, N) -> (B, 1, length), length at most N · ratio."""

    def synchronize(self) -> None:
        """Let what follows the batches without gradients follow those of all processes; once, before training."""


class IdentityAutoencoder(Autoencoder):
    """A waveform that is its own latent: what is true of any autoencoder is tested with it."""

    channels, ratio, measured = 1, 1, False

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor, length: int) -> Tensor:
        return z[..., :length]


class ConvAutoencoder(Autoencoder):
    """Strided convolutions down, a bottleneck, and up again.

    Args:
        bottleneck: what a latent may be; KL by default.
        widths: channels of each level, from the outermost in.
        strides: samples, then frames, of each level for one of the next; one for each width.
        kernel: kernel size of the residual units' convolutions, frames; odd.
        dilations: of the residual units of each level, one a unit.

    Raises:
        ValueError: if the layout contradicts itself.
    """

    def __init__(
        self,
        bottleneck: Bottleneck | None = None,
        widths: Sequence[int] = (32, 64, 128),
        strides: Sequence[int] = (5, 3, 4),
        kernel: int = 3,
        dilations: Sequence[int] = (1,),
    ):
        super().__init__()
        if len(widths) != len(strides) or not strides:
            raise ValueError(f"widths has {len(widths)} entries and strides {len(strides)}: need one width a stride")
        if min(strides) < 2 or min(widths) < 2 or min(dilations, default=1) < 1:
            raise ValueError(
                f"strides = {list(strides)} and widths = {list(widths)} must be at least 2, dilations = "
                f"{list(dilations)} at least 1"
            )
        if kernel % 2 == 0 or kernel < 1:
            raise ValueError(f"kernel = {kernel} must be odd, so that frames stay in place")
        self.bottleneck = bottleneck or KL()
        self.channels, self.codes = self.bottleneck.channels, self.bottleneck.codes
        self.ratio = math.prod(strides)

        def units(width: int) -> list[nn.Module]:
            return [ResidualUnit(width, kernel, dilation) for dilation in dilations]

        down: list[nn.Module] = []
        for before, width, stride in zip((1, *widths), widths, strides, strict=False):
            down += [*([Snake(before)] if down else []), _down(before, width, stride), *units(width)]
        inner = widths[-1]
        self.encoder = nn.Sequential(*down, Snake(inner), nn.Conv1d(inner, self.bottleneck.width, 3, padding=1))
        up: list[nn.Module] = [nn.Conv1d(self.channels, inner, 3, padding=1)]
        last = widths[0] // 2
        for width, after, stride in zip(widths[::-1], (*widths[-2::-1], last), strides[::-1], strict=True):
            up += [*units(width), Snake(width), _up(width, after, stride)]
        self.decoder = nn.Sequential(*up, Snake(last), nn.Conv1d(last, 1, 7, padding=3))

    def _features(self, x: Tensor) -> Tensor:
        return self.encoder(functional.pad(x, (0, -x.shape[-1] % self.ratio)))

    def encode(self, x: Tensor) -> Tensor:
        return self.bottleneck.latent(self._features(x))

    def decode(self, z: Tensor, length: int) -> Tensor:
        return self.decoder(self.bottleneck.settle(z))[..., :length]

    def synchronize(self) -> None:
        self.bottleneck.synchronize()

    def forward(self, x: Tensor, generator: Generator = None) -> tuple[Tensor, Bottled]:
        """What training sees: x (B, 1, T) -> its reconstruction (B, 1, T), and what came out of the bottleneck."""
        bottled = self.bottleneck(self._features(x), generator)
        return self.decoder(bottled.z)[..., : x.shape[-1]], bottled

    def codes_of(self, x: Tensor) -> Tensor | None:
        """The rows of the codebooks that x (B, 1, T) is written by, (B, N, Q); None where nothing is quantised."""
        return self.bottleneck(self._features(x)).codes if self.codes else None


def _down(inputs: int, channels: int, stride: int) -> nn.Conv1d:
    # Kernels twice as long as the stride overlap: disjoint ones sing at their own rate.
    return nn.Conv1d(inputs, channels, 2 * stride + stride % 2, stride, (stride + 1) // 2)


def _up(inputs: int, channels: int, stride: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(inputs, channels, 2 * stride, stride, (stride + 1) // 2, stride % 2)
