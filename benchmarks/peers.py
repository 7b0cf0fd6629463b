"""audio-diffusion-pytorch's U-Net as a network of ours, so that it is trained and heard by the same means.

    diffwave-sde fit --model.net=peers.AudioDiffusion --model.net.inputs=1 ...      (with benchmarks/ on PYTHONPATH)

It is of the size that their README gives, for one channel, and told its time as they tell it: the angle of a
variance-preserving process, between 0 and 1. Their U-Net knows no classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from diffwave_sde.networks import Network

# The outer seven levels of audio-diffusion-pytorch's U-Net: 40 M weights where all nine have 217 M.
SMALL = {
    "channels": [8, 32, 64, 128, 256, 512, 512],
    "factors": [1, 4, 4, 4, 2, 2, 2],
    "items": [1, 2, 2, 2, 2, 2, 2],
    "attentions": [0, 0, 0, 0, 0, 1, 1],
}


class AudioDiffusion(Network):
    """The U-Net of audio-diffusion-pytorch 0.1, by default as in its README.

    Args:
        inputs: channels of the input; null to follow the process.
        classes: of no use to it.
        channels: width of each level.
        factors: downsampling before each level.
        items: blocks of each level.
        attentions: attention layers in each block of a level.
        heads: attention heads.
        features: width of a head.
    """

    def __init__(
        self,
        inputs: int | None = None,
        classes: int | None = None,
        channels: tuple[int, ...] = (8, 32, 64, 128, 256, 512, 512, 1024, 1024),
        factors: tuple[int, ...] = (1, 4, 4, 4, 2, 2, 2, 2, 2),
        items: tuple[int, ...] = (1, 2, 2, 2, 2, 2, 2, 4, 4),
        attentions: tuple[int, ...] = (0, 0, 0, 0, 0, 1, 1, 1, 1),
        heads: int = 8,
        features: int = 64,
    ):
        super().__init__()
        from audio_diffusion_pytorch import UNetV0

        self.inputs, self.classes, self.stride = inputs or 1, classes or 0, math.prod(factors)
        self.net = UNetV0(
            dim=1,
            in_channels=self.inputs,
            out_channels=1,
            channels=channels,
            factors=factors,
            items=items,
            attentions=attentions,
            attention_heads=heads,
            attention_features=features,
        )

    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        length = u.shape[-1]
        u = functional.pad(u, (0, -length % self.stride))
        # noise = ¼ log(σ / α), and theirs is σ = sin(½ π time), α = cos(½ π time).
        time = torch.atan(torch.exp(4 * noise)) * (2 / math.pi)
        return self.net(u, time)[..., :length]
