"""What a network hears beside the noised sound: a context that it is conditioned on.

A context that is silent throughout is none. So it may be hidden by zeros, row by row, and a network that is told of
none answers as one that hears silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.networks.blocks import Conv, compressed, normalise, zeroed
from diffwave_sde.networks.fronts import MDCT

ROUTES = ("none", "concat", "attention", "both")


def context_views(coefficients: Tensor) -> Tensor:
    """A context's frames as a network sees them, (B, C, N) -> (B, 2 C, N): as they are, and compressed.

    0.25 is about the level of music, and -60 dBFS still 0.2 of the compressed view. Zero stays zero.
    """
    return torch.cat((4 * coefficients, compressed(1000 * coefficients.float()).to(coefficients) / 4), 1)


def time_features(frames: int, hop: int, like: Tensor, count: int = 16) -> Tensor:
    """(2 count, frames): sines and cosines of the time of each frame, periods geometric from 2⁸ to 2²⁰ samples.

    Source: Vaswani et al. 2017, section 3.5, with samples in place of places.
    """
    time = torch.arange(frames, device=like.device, dtype=torch.float32) * hop
    periods = 2.0 ** torch.linspace(8, 20, count, device=like.device)
    phase = 2 * math.pi * time / periods[:, None]
    return torch.cat((phase.sin(), phase.cos())).to(like.dtype)


class ContextEncoder(nn.Module):
    """A context as a few tokens, at a rate of its own: an MDCT, then strided convolutions.

    Args:
        width: channels of a token.
        bands: of the MDCT, which is also its hop, samples.
        factors: of the strided convolutions.
        channels: of the context.
    """

    def __init__(self, width: int, bands: int = 120, factors: Sequence[int] = (2, 2), channels: int = 1):
        super().__init__()
        self.front, self.hop = MDCT(bands, "kbd"), bands * math.prod(factors)
        self.stem = Conv(2 * channels * bands, width, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(normalise(width), nn.SiLU(), Conv(width, width, 2 * f + 1, stride=f, padding=f))
            for f in factors
        )

    def forward(self, context: Tensor) -> Tensor:
        """context (B, channels, T), any T -> tokens (B, width, N), the n-th about sample n · hop."""
        context = functional.pad(context, (0, -context.shape[-1] % self.front.hop))
        x = self.stem(context_views(self.front.analyse(context)))
        for layer in self.layers:
            x = layer(x)
        return x


class CrossAttention(nn.Module):
    """Attention from frames to the tokens of a context; zero at the start, and where the context is silence.

    Queries and keys know their time, so that what sounds at the same moment can be found, at whatever rates.

    Source: Vaswani et al. 2017; Rombach et al. 2022, section 3.3, for its place in a denoiser.
    """

    def __init__(self, channels: int, width: int, heads: int, count: int = 16):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads = {heads} does not divide the {channels} channels of the bottleneck")
        self.heads, self.count = heads, count
        self.norm, self.norm_context = normalise(channels), normalise(width)
        self.query, self.key = Conv(channels, channels, 1), Conv(width, channels, 1)
        self.query_time, self.key_time = (Conv(2 * count, channels, 1, bias=False) for _ in range(2))
        self.value, self.out = Conv(width, channels, 1), zeroed(Conv(channels, channels, 1))

    def forward(self, x: Tensor, hop: int, tokens: Tensor, token_hop: int, present: Tensor) -> Tensor:
        """x (B, channels, N) in frames of `hop` samples; tokens (B, width, M); present (B, 1, 1), 0 or 1."""
        here, there = (time_features(a.shape[-1], h, x, self.count)[None] for a, h in ((x, hop), (tokens, token_hop)))
        tokens = self.norm_context(tokens)
        q = self.query(self.norm(x)) + self.query_time(here)
        k, v = self.key(tokens) + self.key_time(there), self.value(tokens)
        q, k, v = (rearrange(a, "b (h c) n -> b h n c", h=self.heads).contiguous() for a in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return x + present * self.out(rearrange(mixed, "b h n c -> b (h c) n"))


def aligned(context: Tensor, length: int) -> Tensor:
    """A context padded with silence, or cut, to `length` samples."""
    return functional.pad(context, (0, length - context.shape[-1]))


def presence(context: Tensor) -> Tensor:
    """Which contexts are any, (B, 1, 1): 1, or 0 where all is silence."""
    return (context != 0).any(2, keepdim=True).any(1, keepdim=True).to(context.dtype)
