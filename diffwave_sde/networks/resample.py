r"""Changes of rate by an integer factor f: plain ones, and anti-aliased ones by a fixed low-pass.

The low-pass h is a Kaiser-windowed sinc g of 6f + 1 taps, run through a moving mean of f:

    h = 1/f 1_f * g,   g_n ∝ sinc(0.7 n / f) · Kaiser(β = 3),   Σ h = 1,   7f taps

The mean puts zeros of h at every multiple of the new rate, so that each of the f phases of h sums to 1/f and constants
stay constant both ways. With N = 0.5 / f, the new Nyquist frequency, and measured for f = 2 to 7: -3 dB at 0.55 N,
-32 dB at N, below -41 dB from 1.1 N on. White noise that goes down has 44 dB less of aliases than of itself;
StyleGAN2's and NCSN++'s four taps (1, 3, 3, 1) leave them at 15 dB.

Frames stay in place: the f samples of one frame are centred on it, as those of nearest-neighbour upsampling are.

Source: Zhang 2019 (anti-aliased networks); Karras et al. 2020 (StyleGAN2); Song et al. 2021 (NCSN++), appendix H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.networks.blocks import Conv


def lowpass(factor: int) -> Tensor:
    """h (7f,), symmetric, in float64, of sum 1; for f = 1 the one tap that changes nothing."""
    if factor == 1:
        return torch.ones(1, dtype=torch.float64)
    reach = 3 * factor
    n = torch.arange(-reach, reach + 1, dtype=torch.float64)
    window = torch.kaiser_window(2 * reach + 1, periodic=False, beta=3.0, dtype=torch.float64)
    g = torch.sinc(0.7 * n / factor) * window
    h = functional.conv1d(g[None, None], torch.ones(1, 1, factor, dtype=torch.float64), padding=factor - 1)[0, 0]
    return h / h.sum()


class Decimate(nn.Module):
    """Low-pass h, then every f-th sample: x (B, C, N f) -> (B, C, N); no weights.

    Args:
        factor: f, frames in for one out.
    """

    kernel: Tensor

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor
        self.register_buffer("kernel", lowpass(factor).float()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, pad = x.shape[1], (self.kernel.shape[-1] - self.factor) // 2
        weight = self.kernel.to(x).expand(channels, -1, -1)
        with torch.autocast(x.device.type, enabled=False):  # in the precision that x has
            return functional.conv1d(x, weight, stride=self.factor, padding=pad, groups=channels)


class Interpolate(nn.Module):
    """f - 1 zeros after every sample, then f h: f times the adjoint of `Decimate`. x (B, C, N) -> (B, C, N f).

    Args:
        factor: f, frames out for one in.
    """

    kernel: Tensor

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor
        self.register_buffer("kernel", (factor * lowpass(factor)).float()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, pad = x.shape[1], (self.kernel.shape[-1] - self.factor) // 2
        weight = self.kernel.to(x).expand(channels, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            return functional.conv_transpose1d(x, weight, stride=self.factor, padding=pad, groups=channels)


class Repeat(nn.Module):
    """Every sample f times, the nearest neighbour: x (B, C, N) -> (B, C, N f)."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, size=self.factor * x.shape[-1])


# Changes of rate without weights, by the name of the option.
DOWN = {"strided": nn.AvgPool1d, "fir": Decimate}
UP = {"strided": Repeat, "fir": Interpolate}


class Downsample(Conv):
    """To the level below: a strided convolution, or a decimation and then a convolution.

    Args:
        inputs, channels: width of this level and of the next.
        kernel: kernel size of the convolution at the lower rate, frames; odd.
        factor: frames in for one out.
        resample: "strided" or "fir".
    """

    def __init__(self, inputs: int, channels: int, kernel: int, factor: int, resample: str):
        if resample == "fir":
            super().__init__(inputs, channels, kernel, padding=kernel // 2)
            self.lower = Decimate(factor)
        else:
            # Kernels twice as long as the stride overlap: disjoint ones sing at their own rate.
            super().__init__(inputs, channels, 2 * factor + factor % 2, stride=factor, padding=(factor + 1) // 2)
            self.lower = nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, N f) -> (B, channels, N); the embedding is not used."""
        return super().forward(self.lower(x))


class Upsample(Conv):
    """To the level above: repetition and then a convolution, or a convolution and then an interpolation.

    The filter comes last, since the convolution is f times cheaper before it and they commute.

    Args:
        inputs, channels: width of this level and of the next.
        kernel: kernel size of the convolution, frames; odd.
        factor: frames out for one in.
        resample: "strided" or "fir".
    """

    def __init__(self, inputs: int, channels: int, kernel: int, factor: int, resample: str):
        super().__init__(inputs, channels, kernel, padding=kernel // 2)
        fir = resample == "fir"
        self.before = nn.Identity() if fir else Repeat(factor)
        self.after = Interpolate(factor) if fir else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, N) -> (B, channels, N f); the embedding is not used."""
        return self.after(super().forward(self.before(x)))
