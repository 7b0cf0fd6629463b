"""What every source of sounds is made of: items that can be loaded, each on its own, as a window for the store."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch

from diffwave_sde import audio
from diffwave_sde.data.copies import envelope


class Clip(NamedTuple):
    """One sound, ready for the store."""

    window: np.ndarray  # (length,), int16
    label: str
    seconds: float  # of the source, before it was cut
    rate: int  # of the source, Hz
    digest: str  # 32 hex digits of the sound's own content, whatever its file or window
    parameters: dict[str, float]
    envelope: list[float]  # of the window, for `copies`, dB; none of a built-in sound, which is a copy of no other


def digest(*parts: bytes) -> str:
    """32 hex digits (BLAKE2b)."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def pack(x: torch.Tensor) -> np.ndarray:
    """16 bits, rounded and not dithered.

    Dither would keep a decay's end free of distortion at the price of hiss at -93 dBFS everywhere. Companding
    raises what is near silence by 33 dB, so a network would learn that hiss; and silence must stay exactly 0.
    """
    return np.clip(np.rint(x.numpy() * 32768.0), -32768, 32767).astype("<i2")


def clip_of(x: torch.Tensor, rate: int, label: str, length: int) -> Clip:
    """A recording (T,) at `rate` Hz as a window of `length` samples."""
    # of the decoded sound: a WAV and its FLAC copy must not fall into two splits
    content = digest(str(rate).encode(), np.rint(x.numpy() * 2.0**23).astype("<i4").tobytes())
    window = pack(audio.window(audio.resample(x, rate), length))
    levels = [round(level, 2) for level in envelope(window, audio.RATE).tolist()]
    return Clip(window, label, len(x) / rate, rate, content, {}, levels)
