"""A 1-D U-Net on the samples, or on the frames of an orthonormal transform of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.networks.blocks import (
    MIXERS,
    NoiseEmbedding,
    ResBlock,
    normalise,
    position_features,
    zeroed,
)
from diffwave_sde.networks.fronts import Front, Waveform


class Network(nn.Module, ABC):
    """What a denoiser wraps.

    inputs: channels of its input, S·C.
    classes: classes that it can be asked for; 0 if none.
    """

    inputs: int
    classes: int

    @abstractmethod
    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        """u (B, inputs, T) of unit variance, noise (B,), condition with `label` (B,) -> (B, 1, T); any T."""


class UNet(Network):
    """A 1-D U-Net with FiLM conditioning, mixing across time at the bottleneck, and a sense of place.

    Three things that raw one-shots need and a picture network lacks:

    - `position`: how long ago the onset was; without it no envelope is learnt.
    - `compress`: asinh(u / σ) beside the scaled input. EDM's scaling hides the noise of quiet passages, where the
      network would have to supply a gain of 1 / σ itself.
    - `gate`: the output is b + Σ a · (u / σ, bounded): where nothing but noise is left, the network need only say so,
      with a smooth a, and not copy the noise through all its layers.

    Args:
        inputs: channels of the input: the blocks of the process; null to follow the process.
        classes: classes of sounds; null to follow the data, 0 for none.
        front: the view of the waveform in which the network works.
        channels: width of each level, from the outermost in; one more than there are factors.
        factors: downsampling between levels.
        blocks: residual blocks per level and side.
        kernel: kernel size of the convolutions, frames; odd.
        dilations: dilations of successive convolutions, in turn; a block has two.
        bottleneck: mixing across time at the innermost level.
        mixers: mixing layers at the bottleneck.
        heads: attention heads.
        embedding: width of the embedding of noise level and class.
        features: how the noise level is embedded.
        position: number of features of the time since the onset; 0 for none.
        compress: whether asinh(u / σ) is a second view of the input.
        gate: whether the output may pass on u / σ directly.
        dropout: share of activations dropped in training.
    """

    def __init__(
        self,
        inputs: int | None = None,
        classes: int | None = None,
        front: Front | None = None,
        channels: Sequence[int] = (64, 128, 256),
        factors: Sequence[int] = (2, 5),
        blocks: int = 2,
        kernel: int = 3,
        dilations: Sequence[int] = (1,),
        bottleneck: Literal["attention", "fnet", "none"] = "attention",
        mixers: int = 1,
        heads: int = 4,
        embedding: int = 256,
        features: Literal["fourier", "sinusoidal"] = "fourier",
        position: int = 12,
        compress: bool = True,
        gate: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(channels) != len(factors) + 1:
            raise ValueError(
                f"channels has {len(channels)} entries and factors {len(factors)}: need one more width than factors"
            )
        if kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel} must be odd, so that frames stay in place")
        self.inputs, self.classes = inputs or 1, classes or 0
        self.front = front or Waveform()
        self.position, self.compress, self.gate = position, compress, gate
        self.stride = math.prod(factors)
        bands = self.front.bands
        self.embed = NoiseEmbedding(embedding, features, self.classes)

        def dilate(block: int) -> tuple[int, int]:
            return dilations[2 * block % len(dilations)], dilations[(2 * block + 1) % len(dilations)]

        def stack(inputs: int, width: int) -> nn.ModuleList:
            widths = [inputs] + [width] * (blocks - 1)
            return nn.ModuleList(
                ResBlock(w, width, embedding, kernel, dilate(i), dropout) for i, w in enumerate(widths)
            )

        views = self.inputs * bands * (2 if compress else 1) + position
        self.stem = nn.Conv1d(views, channels[0], kernel, padding=kernel // 2)
        self.down, self.shrink, self.grow, self.up = (nn.ModuleList() for _ in range(4))
        for width, deeper, factor in zip(channels, channels[1:], factors, strict=False):
            self.down.append(stack(width, width))
            # Kernels twice as long as the stride overlap: disjoint ones sing at their own rate.
            self.shrink.append(
                nn.Conv1d(width, deeper, 2 * factor + factor % 2, stride=factor, padding=(factor + 1) // 2)
            )
            self.grow.append(nn.Conv1d(deeper, width, kernel, padding=kernel // 2))
            self.up.append(stack(2 * width, width))
        inner = channels[-1]
        self.inward, self.outward = stack(inner, inner), stack(inner, inner)
        layers = mixers if bottleneck != "none" else 0
        self.mix = nn.ModuleList(MIXERS[bottleneck](inner, heads) for _ in range(layers))
        outputs = bands * (1 + (self.inputs if gate else 0))
        self.head = nn.Sequential(
            normalise(channels[0]),
            nn.SiLU(),
            zeroed(nn.Conv1d(channels[0], outputs, kernel, padding=kernel // 2)),
        )

    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        length = u.shape[-1]
        hop = self.front.hop
        coefficients = self.front.analyse(functional.pad(u, (0, -length % hop)))
        # u / σ from the input of unit variance: noise = ¼ log(σ / σ_d), c_in u √(1 + σ_d² / σ²) = u / σ.
        gain = (1 + (-8 * noise.float()).clamp(max=40).exp()).sqrt()[:, None, None]
        relative = coefficients.float() * gain
        views = [coefficients]
        if self.compress:
            views.append(relative.asinh().to(coefficients.dtype))
        frames = coefficients.shape[-1]
        if self.position:
            place = position_features(frames, hop, self.position, coefficients)
            views.append(place.expand(len(u), -1, -1))
        embedding = self.embed(noise, getattr(condition, "label", None))

        x = torch.cat(views, 1)
        x = self.stem(functional.pad(x, (0, -frames % self.stride)))
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:
                x = block(x, embedding)
            skips.append(x)
            x = shrink(x)
        for block in self.inward:
            x = block(x, embedding)
        for mix in self.mix:
            x = mix(x)
        for block in self.outward:
            x = block(x, embedding)
        for blocks, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            skip = skips.pop()
            x = torch.cat((grow(functional.interpolate(x, size=skip.shape[-1])), skip), 1)
            for block in blocks:
                x = block(x, embedding)
        y = self.head(x)[..., :frames].float()
        if self.gate:
            y, *gates = y.chunk(1 + self.inputs, 1)
            for a, view in zip(gates, relative.chunk(self.inputs, 1), strict=True):
                # Bounded, since far above the noise the network's own output is the finer one; but at 6, which noise
                # does not exceed: of 21,000 numbers one is beyond 4, and was left behind as a blip.
                y = y + a * view.clamp(-6, 6)
        return self.front.synthesise(y)[..., :length]
