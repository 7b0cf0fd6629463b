"""Embeddings: a sound as a few hundred numbers, near one another where sounds are alike to the ear."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from diffwave_sde import audio


class Embedding(ABC):
    """A map from sounds to vectors.

    Attributes:
        name: what tables call it.
        window: samples at 44.1 kHz that it listens to, from the onset on. A shorter sound is followed by silence, and
            of a longer one the rest is not heard. None: it listens to the end.
    """

    name: str
    window: int | None = 22_050

    @abstractmethod
    def embed(self, sounds: Tensor) -> Tensor:
        """(n, window), peak 1 -> (n, D); without a window, (n, T) of any T."""

    @torch.no_grad()
    def __call__(self, sounds: Tensor, batch: int = 64) -> Tensor:
        """Embeddings (n, D), float32, of sounds (n, T) at 44.1 kHz. The level of a sound as a whole is not heard."""
        parts = [self.embed(aligned(part, self.window)) for part in sounds.float().split(batch)]
        return torch.cat(parts).float()


def aligned(sounds: Tensor, window: int | None, pre_roll: int = audio.PRE_ROLL) -> Tensor:
    """Sounds (n, T) from `pre_roll` samples before their onsets, at a peak of 1: (n, window). Silence stays silence.

    Without a window nothing after an onset is cut.
    """
    window = sounds.shape[1] + pre_roll if window is None else window
    out = sounds.new_zeros(len(sounds), window)
    for row, sound in zip(out, sounds, strict=True):
        peak = sound.abs().max()
        if peak > 0:
            start = audio.onset(sound) - pre_roll
            piece = sound[max(start, 0) :][: window + min(start, 0)]
            row[max(-start, 0) :][: len(piece)] = piece / peak
    return out


# Ends of the stretches of time that a percussive sound is told by, in steps of 5.8 ms from the onset: fine at the
# attack, coarse in the tail.
_HOP = 256
_ENDS = (1, 2, 4, 7, 12, 19, 30, 48, 84)
_BANDS = 24
_FLOOR = -90.0  # dB: what is quieter is silence


class LogMel(Embedding):
    """Mel-band levels over time from the onset, the envelope of the attack, and how tonal each octave is; in dB.

    Nothing is learned and nothing downloaded. Its parts are scaled so that a squared distance is a mean squared
    difference in dB: a Fréchet distance of 4 dB² are two sets that lie 2 dB apart on average.

    Parts: 24 mel bands (30 Hz to 20 kHz) by 9 stretches of time that widen from 6 to 200 ms; the envelope in 16 steps
    that widen from 1 to 22 ms, at half weight; the flatness of the spectrum (1 is noise, a line is far below) in the
    eight octaves from 80 Hz, at half weight.
    """

    name = "log-mel"

    def embed(self, sounds: Tensor) -> Tensor:
        power = _power(sounds, 1024, _HOP)  # (n, 513, frames)
        mel = (_mel(power.shape[1]).to(power).mT @ power).split([e - s for s, e in _stretches(power.shape[-1])], -1)
        bands = torch.stack([_db(part.mean(-1)) for part in mel], -1)  # (n, bands, stretches)
        parts = ((bands, 1.0), (_envelope(sounds), 0.5), (_flatness(sounds), 0.5))
        scaled = [p.flatten(1) * (weight / p[0].numel()) ** 0.5 for p, weight in parts]
        return torch.cat(scaled, 1)


def _db(power: Tensor, floor: float = _FLOOR) -> Tensor:
    return 10 * (power + 10 ** (floor / 10)).log10()


def _power(sounds: Tensor, size: int, hop: int) -> Tensor:
    """Power of the STFT, (n, size // 2 + 1, frames); a sine at full scale is 0 dB in its bin."""
    window = torch.hann_window(size, device=sounds.device)
    return torch.stft(sounds, size, hop, window=window, return_complex=True).abs().mul(2 / window.sum()).square()


def _stretches(frames: int) -> list[tuple[int, int]]:
    return list(pairwise([0, *_ENDS[:-1], frames]))


@lru_cache(maxsize=4)
def _mel(bins: int) -> Tensor:
    return mel_weights(bins, _BANDS)


def mel_weights(bins: int, bands: int, low: float = 30.0, high: float = 20_000.0) -> Tensor:
    """Triangles, equally spaced in mel: the weights of `bins` frequencies up to 22,050 Hz in each band, (bins, bands).

    With mel = 2595 log₁₀(1 + f / 700 Hz). Source: Davis and Mermelstein 1980; O'Shaughnessy 1987 for the formula.

    Args:
        low, high: the ends of the lowest and of the highest triangle, Hz.
    """
    ends = [2595 * math.log10(1 + f / 700) for f in (low, high)]
    corners = 700 * (10 ** (torch.linspace(*ends, bands + 2) / 2595) - 1)
    from_corner = corners - torch.linspace(0, audio.RATE // 2, bins)[:, None]
    rising, falling = -from_corner[:, :-2] / corners.diff()[:-1], from_corner[:, 2:] / corners.diff()[1:]
    return torch.minimum(rising, falling).clamp_min(0)


def _envelope(sounds: Tensor) -> Tensor:
    """Level in 16 steps from the onset, each a fifth wider than the last, (n, 16), dB."""
    ends = torch.tensor([44 * 1.2**k for k in range(16)]).cumsum(0).round().int().tolist()
    power = sounds.square()
    return torch.stack([_db(power[:, s:e].mean(1)) for s, e in pairwise([0, *ends])], 1)


def _flatness(sounds: Tensor) -> Tensor:
    """Geometric over arithmetic mean of the spectrum in each octave from 80 Hz, (n, 8), dB; silence is flat."""
    power = _power(sounds, 8192, 2048).mean(-1) + 10 ** (_FLOOR / 10 - 2)
    edges = [round(80 * 2**k * 8192 / audio.RATE) for k in range(9)]
    octaves = [power[:, s : min(e, power.shape[1])] for s, e in pairwise(edges)]
    return torch.stack([10 * (o.log10().mean(1) - o.mean(1).log10()) for o in octaves], 1)
