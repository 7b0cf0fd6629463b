r"""Mu-law companding.

    y = sign(x) log(1 + mu |x|) / log(1 + mu),        mu = 255

A decaying tail 60 dB below the attack is audible: on the companded scale it is 0.04, not 0.001.

Source: ITU-T G.711, without its quantisation
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def compress(x: Tensor, mu: float = 255.0) -> Tensor:
    """Compands a waveform with the continuous mu-law.

    Args:
        x: waveform in [-1, 1], any shape
        mu: strength of the companding; 0 is the identity

    Returns:
        y in [-1, 1], of x's shape and dtype

    Raises:
        ValueError: if mu is negative

    Source: ITU-T G.711, without its quantisation
    """
    if mu < 0:
        raise ValueError(f"mu must be 0 (no companding) or positive, not {mu}")
    return x if mu == 0 else x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)


def expand(y: Tensor, mu: float = 255.0) -> Tensor:
    """Inverts `compress`; y is clamped to [-1, 1] first, since y = 1.1 would expand to 1.74."""
    if mu < 0:
        raise ValueError(f"mu must be 0 (no companding) or positive, not {mu}")
    if mu == 0:
        return y
    y = y.clamp(-1.0, 1.0)
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu
