"""A sound, noised or not, as a few numbers: the way down of a U-Net, and what there is of it at any time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.networks.blocks import (
    MIXERS,
    Conv,
    NoiseEmbedding,
    ResBlock,
    compressed,
    normalise,
    position_features,
    relative_gain,
    zeroed,
)
from diffwave_sde.networks.fronts import Front, Waveform
from diffwave_sde.networks.resample import Downsample


class Encoder(nn.Module):
    """The downward half and the bottleneck of a U-Net, pooled over time.

    It sees what a `UNet` sees: the frames, asinh of them over the noise, and the time since the onset. Each feature is
    pooled twice, to its mean over time and to a mean that weighs the frames as it finds them worth (attention pooling);
    a linear layer, zero at the start, makes the outputs of them.

    Source: Dhariwal and Nichol 2021, section 4 and appendix H (the downsampling trunk of the U-Net as a classifier).

    Args:
        outputs: numbers that come out; null to follow the data's classes.
        inputs: channels of the sound.
        front: the view of the waveform in which the network works.
        channels: width of each level, from the outermost in; one more than there are factors.
        factors: downsampling between levels.
        blocks: residual blocks per level.
        kernel: kernel size of the convolutions, frames; odd.
        bottleneck: mixing across time at the innermost level; "both" is an FNet layer and then one of attention.
        heads: attention heads, and means over time that weigh the frames.
        embedding: width of the embedding of the noise level.
        features: how the noise level is embedded.
        position: number of features of the time since the onset; 0 for none.
        compress: whether asinh(u / σ) is a second view of the input.
        dropout: share of activations dropped in training.
        norm: normalisation of the features: "group" over all frames, or "frame" by frame.

    Raises:
        ValueError: if the layout contradicts itself.
    """

    def __init__(
        self,
        outputs: int | None = None,
        inputs: int = 1,
        front: Front | None = None,
        channels: Sequence[int] = (64, 128, 192),
        factors: Sequence[int] = (3, 4),
        blocks: int = 1,
        kernel: int = 3,
        bottleneck: Literal["attention", "fnet", "both", "none"] = "attention",
        heads: int = 4,
        embedding: int = 128,
        features: Literal["fourier", "sinusoidal"] = "fourier",
        position: int = 12,
        compress: bool = True,
        dropout: float = 0.0,
        norm: Literal["group", "frame"] = "group",
    ):
        super().__init__()
        if len(channels) != len(factors) + 1:
            raise ValueError(
                f"channels has {len(channels)} entries and factors {len(factors)}: need one more width than factors"
            )
        if kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel} must be odd, so that frames stay in place")
        if blocks < 1:
            raise ValueError(f"blocks = {blocks}: at least one for each level")
        self.inputs, self.outputs = inputs, outputs or 2
        self.front, self.position, self.compress = front or Waveform(), position, compress
        self.stride = math.prod(factors)
        self.embed = NoiseEmbedding(embedding, features, 0)

        def stack(width: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResBlock(width, width, embedding, kernel, (1, 1), dropout, norm=norm) for _ in range(blocks)
            )

        views = inputs * self.front.bands * (1 + compress) + position
        self.stem = Conv(views, channels[0], kernel, padding=kernel // 2)
        self.down = nn.ModuleList(stack(width) for width in channels[:-1])
        self.downsample = nn.ModuleList(
            Downsample(width, deeper, kernel, factor, "strided")
            for width, deeper, factor in zip(channels, channels[1:], factors, strict=False)
        )
        inner = channels[-1]
        self.mid_in, self.mid_out = stack(inner), stack(inner)
        self.mix = nn.ModuleList(mixer(inner, heads) for mixer in MIXERS[bottleneck])
        self.last = nn.Sequential(normalise(inner, norm), nn.SiLU())
        self.worth = Conv(inner, heads, 1)
        self.width = inner * (1 + heads)
        self.head = zeroed(nn.Linear(self.width, self.outputs))

    def forward(self, u: Tensor, noise: Tensor) -> Tensor:
        """u (B, inputs, T) of unit variance, noise (B,), of any length T -> (B, outputs)."""
        return self.head(self.pooled(u, noise))

    def pooled(self, u: Tensor, noise: Tensor) -> Tensor:
        """The features that the outputs are made of: (B, width)."""
        coefficients = self.front.analyse(functional.pad(u, (0, -u.shape[-1] % self.front.hop)))
        frames = coefficients.shape[-1]
        views = [coefficients]
        if self.compress:
            views.append(compressed(coefficients.float() * relative_gain(noise)).to(coefficients.dtype))
        if self.position:
            place = position_features(frames, self.front.period, self.position, coefficients)
            views.append(place.expand(u.shape[0], -1, -1))
        x = self.stem(functional.pad(torch.cat(views, 1), (0, -frames % self.stride)))
        embedding = self.embed(noise, None)
        for blocks, downsample in zip(self.down, self.downsample, strict=True):
            for block in blocks:
                x = block(x, embedding)
            x = downsample(x, embedding)
        for block in self.mid_in:
            x = block(x, embedding)
        for mix in self.mix:
            x = mix(x)
        for block in self.mid_out:
            x = block(x, embedding)
        # The frames that the stride was filled up with are not of the sound.
        x = self.last(x)[..., : -(-frames // self.stride)]
        weighed = torch.einsum("bcn,bhn->bhc", x, self.worth(x).softmax(-1).to(x))
        return torch.cat((x.mean(-1), weighed.flatten(1)), 1)
