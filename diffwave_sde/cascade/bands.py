r"""Orthonormal splits of a waveform into bands: what each stage of a cascade adds.

The waveform of a stage of M samples is made of the lowest M of the N coefficients of an orthonormal cosine transform,
transformed back at the length M. Nothing is scaled: a stage has the energy of its band, white noise of a standard
deviation stays white noise of that standard deviation at every rate, and so one noise level means one thing in all
stages. The price is that amplitudes at M samples are √(N / M) times those of the recording.

Source: Ahmed, Natarajan and Rao 1974 (the transform); Makhoul 1980 (by an FFT of the same length).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def _turn(length: int, like: Tensor) -> Tensor:
    """e^(-iπk / 2N) for k = 0 .. N / 2, scaled so that the transform is orthonormal."""
    # The angles in float64: of k up to 10,000 float32 keeps too few digits.
    k = torch.arange(length // 2 + 1, dtype=torch.float64)
    turn = torch.polar(torch.full_like(k, math.sqrt(2 / length)), -math.pi * k / (2 * length))
    turn[0] = math.sqrt(1 / length)
    return turn.to(like.device, torch.complex128 if like.dtype == torch.float64 else torch.complex64)


def dct(x: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of x (..., N), of its dtype, at least float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = x.shape[-1]
    folded = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1)
    turned = torch.fft.rfft(folded) * _turn(length, x)
    # X_k = Re, X_(N-k) = -Im. Source: Makhoul 1980.
    return torch.cat((turned.real, -turned.imag[..., 1 : (length + 1) // 2].flip(-1)), -1)


def idct(y: Tensor) -> Tensor:
    """The inverse of `dct`, (..., N)."""
    length = y.shape[-1]
    half = length // 2 + 1
    real = y[..., :half]
    imaginary = torch.cat((torch.zeros_like(y[..., :1]), -y[..., length - half + 1 :].flip(-1)), -1)
    turn = _turn(length, y)
    folded = torch.fft.irfft(torch.complex(real, imaginary) / turn, n=length)
    odd = folded[..., (length + 1) // 2 :].flip(-1)
    x = torch.empty_like(folded)
    x[..., ::2], x[..., 1::2] = folded[..., : (length + 1) // 2], odd
    return x


def fitted(y: Tensor, length: int) -> Tensor:
    """Coefficients y (..., M) cut, or filled up with zeros, to `length` of them."""
    return torch.nn.functional.pad(y, (0, length - y.shape[-1]))


def handed(length: int) -> int:
    """How many coefficients of a stage of `length` samples are handed over: the lowest nine tenths of them.

    The frames of a lapped transform alias at their own Nyquist frequency, so what a network makes of the last ones is
    worse than nothing. The next stage hears that band in its middle, and makes it anew.
    """
    return length - length // 10


def resize(x: Tensor, length: int) -> Tensor:
    """x (..., N) at another rate, (..., length): its lowest coefficients alone, or all of them and silence above.

    Up is an isometry, down its adjoint: down after up is the identity.
    """
    return x if x.shape[-1] == length else idct(fitted(dct(x), length))


def split(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """What each stage adds to x (..., N): first the lowest band, then what the stage before lacks of each rate.

    The sum of their energies is that of x. `join` puts them together again.

    Args:
        x: waveforms.
        lengths: of the stages, samples, rising, the last N.

    Raises:
        ValueError: if the lengths do not rise to N.
    """
    check_lengths(lengths, x.shape[-1])
    y, parts, before = dct(x), [], 0
    for length in lengths:
        band = y[..., :length].clone()
        band[..., :before] = 0
        parts.append(idct(band))
        before = length
    return parts


def join(parts: Sequence[Tensor]) -> Tensor:
    """The waveform (..., N) of what `split` gave."""
    whole = parts[0]
    for part in parts[1:]:
        whole = resize(whole, part.shape[-1]) + part
    return whole


def check_lengths(lengths: Sequence[int], total: int) -> None:
    """Raise a ValueError of one line if the lengths of the stages do not rise to `total`."""
    rising = all(a < b for a, b in pairwise(lengths))
    if not lengths or not rising or lengths[0] < 1 or lengths[-1] != total:
        raise ValueError(f"stages of {', '.join(map(str, lengths))} samples: the lengths must rise to {total}")
