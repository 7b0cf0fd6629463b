"""A track that new sounds are to go with, cut into windows of a model's length, and the parts joined again.

Each window is conditioned on the track there. Neighbours share some samples, and are joined in one of two ways: the
later one is made with these samples known (`parts`), so that it goes on from them; or both are made alone and
cross-faded with equal power, which keeps the level of sounds that are independent of each other and makes no click.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from diffwave_sde import audio
from diffwave_sde.names import digest

JOINS = ("projection", "posterior", "crossfade")


@dataclass(frozen=True)
class Track:
    """A track, and the windows that a model hears of it.

    waveform: (T,), mono, in [-1, 1], at the model's rate.
    length: samples of a window.
    name: of the file.
    joined: how parts of neighbouring windows are joined, one of `JOINS`.
    cancelled: whether its channels cancelled in the mix, so that it is the loudest of them.
    """

    waveform: Tensor
    length: int
    name: str = ""
    joined: str = "projection"
    cancelled: bool = False

    def __post_init__(self) -> None:
        if self.joined not in JOINS:
            raise ValueError(f"joined = {self.joined!r}: choose one of {', '.join(JOINS)}")

    @classmethod
    def read(cls, path: str | Path, rate: int, length: int, joined: str = "projection") -> Track:
        """Any file that is read: mixed to mono and resampled to `rate`, Hz, at its own level.

        Raises:
            OSError, ValueError: as `audio.decode`.
        """
        mixed = audio.mix(path)
        return cls(audio.resample(mixed.waveform, mixed.rate, rate), length, str(path), joined, mixed.cancelled)

    @property
    def silent(self) -> bool:
        """Whether it is silence throughout, and so no context at all."""
        return not bool(self.waveform.any())

    @property
    def remarks(self) -> list[str]:
        """What who gave the file is to be told of it, a line each."""
        said = []
        if self.silent:
            said.append(f"{self.name} is silent: what is made goes with nothing")
        if self.cancelled:
            said.append(f"{self.name}: its channels cancel in the mix; the loudest of them is heard alone")
        return said

    @property
    def record(self) -> dict[str, str]:
        """What sounds that go with it follow from."""
        joined = {"join": self.joined} if self.count > 1 else {}
        return {"audio": self.name, "audio_digest": digest(self.waveform.numpy().tobytes()), **joined}

    @property
    def overlap(self) -> int:
        """Samples that neighbouring windows share: a quarter of a window that is told of them, else an eighth."""
        return self.length // (8 if self.joined == "crossfade" else 4)

    @property
    def known(self) -> int:
        """Samples at its beginning that a window after the first is told."""
        return 0 if self.joined == "crossfade" else self.overlap - self._fade

    @property
    def _fade(self) -> int:
        """Samples over which a part takes over from the one before it."""
        return self.overlap if self.joined == "crossfade" else self.overlap // 64

    @property
    def hop(self) -> int:
        """Samples from the beginning of a window to that of the next."""
        return self.length - self.overlap

    @property
    def count(self) -> int:
        """Windows; the last one may reach beyond the end."""
        return max(1, math.ceil((len(self.waveform) - self.overlap) / self.hop))

    def windows(self) -> Tensor:
        """(count, length), silence beyond the end."""
        padded = functional.pad(self.waveform, (0, (self.count - 1) * self.hop + self.length - len(self.waveform)))
        return padded.unfold(0, self.length, self.hop)

    def join(self, parts: Tensor) -> Tensor:
        """The parts made for the windows (count, length) as one, (T,)."""
        fade, whole = self._fade, parts[0]
        phase = (torch.arange(fade, dtype=torch.float64) + 0.5) * (0.5 * math.pi / max(fade, 1))
        rise, fall = phase.sin().to(parts), phase.cos().to(parts)
        if self.known:  # what comes in goes with what goes out, and levels add up, not powers
            rise, fall = rise.square(), fall.square()
        for part in parts[1:]:
            part = part[self.known :]
            seam = whole[len(whole) - fade :] * fall + part[:fade] * rise
            whole = torch.cat((whole[: len(whole) - fade], seam, part[fade:]))
        return whole[: len(self.waveform)]
