"""Wrong files to plant among right ones, for the benchmarks of outliers and of the doctor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.data.items import Rendered, pack
from diffwave_sde.random import stream

RATE, LENGTH = audio.RATE, audio.LENGTH


def drum(index: int, seed: int = 77) -> tuple[Tensor, str]:
    """A built-in drum (T,) that the shipped model was not trained on, as 16 bits hold it, and its class."""
    clip = Rendered("drums", index, seed).load(LENGTH)
    return audio.from_int16(clip.window), clip.label


def voice(index: int) -> Tensor:
    """A vowel: pulses of a gliding pitch through three resonances, (T,)."""
    g = stream("voice", index)
    t = torch.arange(LENGTH, dtype=torch.float64) / RATE
    pitch = 90 + 140 * float(torch.rand(1, generator=g))
    phase = 2 * math.pi * torch.cumsum(pitch * (1 + 0.1 * (2 * math.pi * 3 * t).sin() - 0.2 * t), 0) / RATE
    formants = [
        (300 + 500 * float(torch.rand(1, generator=g)), 80.0),
        (900 + 1400 * float(torch.rand(1, generator=g)), 120.0),
    ]
    formants.append((2600 + 400 * float(torch.rand(1, generator=g)), 180.0))
    out = torch.zeros_like(t)
    for k in range(1, int(5000 / pitch)):
        level = sum(1 / (1 + ((k * pitch - f) / w) ** 2) for f, w in formants) / k**0.5
        out += level * (k * phase).sin()
    return out * (1 - (-t / 0.03).exp()) * (1 - ((t - 0.42) / 0.03).sigmoid())


def window(x: Tensor) -> Tensor:
    """As a file of it would lie in a store."""
    return audio.from_int16(pack(audio.window(x.float(), LENGTH)))


def clipped(x: Tensor) -> Tensor:
    return window((4 * x).clamp(-1, 1))


def eight_bit(x: Tensor) -> Tensor:
    return window((x * 127).round() / 127)


def reversed_(x: Tensor) -> Tensor:
    keep = int((x.abs() > 1e-3).nonzero()[-1]) + 1
    return window(x[:keep].flip(0))


KINDS = ("voice", "mislabelled", "clipped", "8-bit", "reversed")


def plant(kind: str, index: int, labels: tuple[str, ...]) -> tuple[Tensor, str]:
    """A wrong file of this kind: its window (T,), and the class that it claims."""
    x, label = drum(1000 + index)
    if kind == "voice":
        return window(voice(index)), labels[index % len(labels)]
    if kind == "mislabelled":
        return x, labels[(labels.index(label) + 1 + index % 2) % len(labels)]
    return {"clipped": clipped, "8-bit": eight_bit, "reversed": reversed_}[kind](x), label
