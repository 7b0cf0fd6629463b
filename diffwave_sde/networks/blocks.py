"""The parts of a 1-D U-Net: FiLM-conditioned residual blocks, mixing across time, embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class Conv(nn.Conv1d):
    """A convolution over frames.

    prepacked: whether its weights are kept in the order in which oneDNN multiplies them, for who only listens on a CPU;
        else they are put in that order at every call, which for one sound takes longer than the products.
    """

    prepacked: bool = False
    _packed: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, N) -> (B, channels, N')."""
        if not self.prepacked:
            return super().forward(x)
        x = x.to(self.weight.dtype)[:, :, None]
        options = (0, *self.padding), (1, *self.stride), (1, *self.dilation), self.groups
        if self._packed is None or self._packed[0] != x.shape[-1]:
            # The order depends on the number of frames: in that of another one the products take ten times as long.
            plain = self.weight[:, :, None].to_mkldnn()
            self._packed = x.shape[-1], torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *options, x.shape)
        return torch.mkldnn_convolution(x, self._packed[1], self.bias, *options)[:, :, 0]


class FrameNorm(nn.Module):
    """Normalises the channels of each frame by themselves: a loud attack does not scale the features of a quiet tail.

    Source: Ba et al. 2016, over the channels of a frame.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels, 1)), nn.Parameter(torch.zeros(channels, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, N) -> the same shape."""
        variance, mean = torch.var_mean(x.float(), 1, correction=0, keepdim=True)
        scale = (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias, (x - mean.to(x)) * scale.to(x), self.weight)


def normalise(channels: int, kind: str = "group") -> nn.Module:
    """Normalisation in up to 32 groups of at least 4 channels over all frames, or "frame" by frame."""
    if kind == "frame":
        return FrameNorm(channels)
    groups = max(g for g in range(1, 33) if channels % g == 0 and channels // g >= min(4, channels))
    return nn.GroupNorm(groups, channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer that starts at zero, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def add(x: Tensor, y: Tensor, rescale: bool) -> Tensor:
    """x + y, or (x + y) / √2, which keeps the variance of independent terms. Source: Karras et al. 2018; NCSN++."""
    return (x + y) * math.sqrt(0.5) if rescale else x + y


class ResBlock(nn.Module):
    """Residual block of two convolutions; a FiLM scale and shift carries the noise level and the class.

    With `resample` it is BigGAN's block between two levels: both branches change their rate, the residual one between
    its first activation and its first convolution, the other one before a convolution of one tap.

    Source: He et al. 2016 (pre-activation); Perez et al. 2018 (FiLM); Brock et al. 2019, app. B (BigGAN).

    Args:
        inputs, channels: width of the input and of the output.
        embedding: width of the embedding.
        kernel: kernel size of the convolutions, frames; odd.
        dilations: dilations of the two convolutions.
        dropout: share of activations dropped in training.
        rescale: whether the sum is divided by √2.
        resample: a change of rate without weights; null for none.
        norm: kind of the normalisation (`normalise`).
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        embedding: int,
        kernel: int,
        dilations: tuple[int, int],
        dropout: float,
        rescale: bool = False,
        resample: nn.Module | None = None,
        norm: str = "group",
    ):
        super().__init__()
        self.rescale = rescale
        first, second = dilations
        change = [] if resample is None else [resample]
        self.before = nn.Sequential(
            normalise(inputs, norm),
            nn.SiLU(),
            *change,
            Conv(inputs, channels, kernel, padding=first * (kernel // 2), dilation=first),
        )
        self.norm = normalise(channels, norm)
        self.film = zeroed(nn.Linear(embedding, 2 * channels))
        last = Conv(channels, channels, kernel, padding=second * (kernel // 2), dilation=second)
        self.after = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(last))
        if change:
            self.skip = nn.Sequential(*change, Conv(inputs, channels, 1))
        else:
            self.skip = Conv(inputs, channels, 1) if inputs != channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, N), embedding (B, E) -> (B, channels, N), or as many frames as `resample` makes of N."""
        scale, shift = self.film(embedding)[:, :, None].chunk(2, 1)
        return add(self.skip(x), self.after(self.norm(self.before(x)) * (1 + scale) + shift), self.rescale)


class Attention(nn.Module):
    """Self-attention across time. Source: Vaswani et al. 2017."""

    def __init__(self, channels: int, heads: int, rescale: bool = False):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads = {heads} does not divide the {channels} channels of the bottleneck")
        self.heads, self.rescale = heads, rescale
        self.norm = normalise(channels)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.out = zeroed(Conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, N) -> the same shape."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv h c) n -> qkv b h n c", qkv=3, h=self.heads)
        # With the channels in a row: the fast kernels, which never hold all N² weights, refuse any other order.
        mixed = functional.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return add(x, self.out(rearrange(mixed, "b h n c -> b (h c) n")), self.rescale)


class Fourier(nn.Module):
    """FNet: the real part of the 2-D DFT over time and channels, then a feed-forward layer. Source: Lee-Thorp 2021."""

    def __init__(self, channels: int, heads: int, rescale: bool = False):
        super().__init__()
        self.rescale = rescale
        self.norm, self.norm2 = normalise(channels), normalise(channels)
        self.feed = nn.Sequential(Conv(channels, 2 * channels, 1), nn.GELU(), zeroed(Conv(2 * channels, channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, N) -> the same shape."""
        # In float32, since half-precision FFTs take powers of two alone; orthonormal, so that the level stays.
        mixed = torch.fft.fft2(self.norm(x).float(), norm="ortho").real.to(x.dtype)
        x = add(x, mixed, self.rescale)
        return add(x, self.feed(self.norm2(x)), self.rescale)


MIXERS = {"attention": (Attention,), "fnet": (Fourier,), "both": (Fourier, Attention), "none": ()}


class NoiseEmbedding(nn.Module):
    """Features of the noise level, of the class, and of the weight of guidance.

    Args:
        size: width of the embedding.
        features: "fourier", random frequencies (Song et al. 2021), or "sinusoidal", geometric ones (Vaswani 2017).
        classes: number of classes; there is one more row for "no class".
        guidance: whether the weight of guidance is taken, in features of its logarithm; at first it changes nothing.
    """

    frequencies: Tensor

    def __init__(self, size: int, features: str, classes: int, guidance: bool = False):
        super().__init__()
        half = 32
        if features == "fourier":
            # Seeded on its own, so that two networks of one layout share their features.
            frequencies = 2 * math.pi * torch.randn(half, generator=torch.Generator().manual_seed(0))
        elif features == "sinusoidal":
            frequencies = 100.0 ** torch.linspace(0, 1, half)
        else:
            raise ValueError(f"features = {features!r}: choose fourier or sinusoidal")
        self.register_buffer("frequencies", frequencies)
        self.mlp = nn.Sequential(nn.Linear(2 * half, size), nn.SiLU(), nn.Linear(size, size))
        self.classes = classes
        self.label = nn.Embedding(classes + 1, size) if classes else None
        self.guidance = zeroed(nn.Linear(2 * half, size)) if guidance else None

    def forward(self, noise: Tensor, label: Tensor | None, guidance: Tensor | None = None) -> Tensor:
        """noise (B,), label (B,) long, negative for none, or None, guidance (B,), or None for 1 -> (B, size)."""
        out = self.mlp(self._phases(noise))
        if self.guidance is not None:
            # From 1/16 on, since there is no logarithm of 0.
            weight = torch.ones_like(noise) if guidance is None else guidance.to(noise)
            out = out + self.guidance(self._phases(weight.clamp_min(1 / 16).log()))
        if self.label is not None:
            if label is None:
                label = torch.full((noise.shape[0],), -1, device=noise.device)
            out = out + self.label(torch.where(label < 0, self.classes, label))
        return functional.silu(out)

    def _phases(self, x: Tensor) -> Tensor:
        phase = x[:, None] * self.frequencies.to(x)
        return torch.cat((phase.sin(), phase.cos()), 1)


def compressed(x: Tensor) -> Tensor:
    """asinh x, in float32 to 1e-6.

    On a CPU by a logarithm of the size, which PyTorch vectorises as it does not asinh: in a third of the time. At 0
    itself its gradient is 0, not 1.
    """
    if x.device.type != "cpu":
        return x.asinh()
    size = x.abs()
    return x.sign() * (size + (size.square() + 1).sqrt()).log()


def relative_gain(noise: Tensor) -> Tensor:
    """What makes u / σ of an input of unit variance, (B, 1, 1), float32, from noise = -log(SNR σ_d²) / 8, (B,).

    Where m = 1 noise = ¼ log(σ / σ_d), and c_in u √(1 + σ_d² / σ²) = u / σ.
    """
    return (1 + (-8 * noise.float()).clamp(max=40).exp()).sqrt()[:, None, None]


def position_features(frames: int, hop: int, count: int, like: Tensor) -> Tensor:
    """(count, frames): e^(-τ / τ_k), τ the time since the start, τ_k geometric from 32 samples to 2¹⁶.

    One-shots begin at their onset, so this is where in its decay a sound is; absolute, so that any length may follow.
    """
    time = (torch.arange(frames, device=like.device, dtype=torch.float32) + 0.5) * hop
    constants = 32 * 2048.0 ** torch.linspace(0, 1, count, device=like.device)
    return (-time / constants[:, None]).exp().to(like.dtype) * 2 - 1


def circular_features(frames: int, count: int, turn: Tensor | None, like: Tensor) -> Tensor:
    """(1 or B, count, frames): sine and cosine of 1, 2, ... turns a window, from where the loop begins.

    Args:
        frames: N.
        count: even.
        turn: share of its length by which the loop is turned, (B,); null where it begins with the window.
        like: of whose device and dtype they are.
    """
    turns = torch.arange(1, count // 2 + 1, device=like.device, dtype=torch.float32)
    place = ((torch.arange(frames, device=like.device) + 0.5) / frames)[None, None]
    if turn is not None:
        place = place - turn.to(place)[:, None, None]
    angle = 2 * math.pi * turns[:, None] * place
    return torch.cat((angle.sin(), angle.cos()), 1).to(like.dtype)


def harmonic_features(z: Tensor, octaves: Sequence[int]) -> Tensor:
    """z (B, C, T) -> (B, 2 C octaves, T): sin(2ⁿ π z) for every n, then cos(2ⁿ π z). Source: Kingma et al. 2021.

    In float32 at least: in bfloat16 2⁸ π z is off by radians.
    """
    phase = torch.cat([2.0**n * math.pi * z.float() for n in octaves], 1)
    return torch.cat((phase.sin(), phase.cos()), 1).to(z.dtype)
