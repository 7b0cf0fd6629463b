"""A track that new sounds are to go with, cut into windows of a model's length, and the parts joined again.

Windows overlap by an eighth. Each is conditioned on the track there, and neighbours are cross-faded with equal power,
which keeps the level of sounds that are independent of each other and makes no click.
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


@dataclass(frozen=True)
class Track:
    """A track, and the windows that a model hears of it.

    waveform: (T,), mono, in [-1, 1], at the model's rate.
    length: samples of a window.
    name: of the file.
    """

    waveform: Tensor
    length: int
    name: str = ""

    @classmethod
    def read(cls, path: str | Path, rate: int, length: int) -> Track:
        """Any file that is read: mixed to mono and resampled to `rate`, Hz, at its own level.

        Raises:
            OSError, ValueError: as `audio.decode`.
        """
        return cls(audio.read(path, rate)[0], length, str(path))

    @property
    def silent(self) -> bool:
        """Whether it is silence throughout, and so no context at all."""
        return not bool(self.waveform.any())

    @property
    def record(self) -> dict[str, str]:
        """What sounds that go with it follow from."""
        return {"audio": self.name, "audio_digest": digest(self.waveform.numpy().tobytes())}

    @property
    def overlap(self) -> int:
        """Samples that neighbouring windows share."""
        return self.length // 8

    @property
    def count(self) -> int:
        """Windows; the last one may reach beyond the end."""
        return max(1, math.ceil((len(self.waveform) - self.overlap) / (self.length - self.overlap)))

    def windows(self) -> Tensor:
        """(count, length), silence beyond the end."""
        hop = self.length - self.overlap
        padded = functional.pad(self.waveform, (0, (self.count - 1) * hop + self.length - len(self.waveform)))
        return padded.unfold(0, self.length, hop)

    def join(self, parts: Tensor) -> Tensor:
        """The parts made for the windows (count, length) as one, (T,)."""
        whole = parts[0]
        if self.overlap:
            phase = (torch.arange(self.overlap, dtype=torch.float64) + 0.5) * (0.5 * math.pi / self.overlap)
            rise, fall = phase.sin().to(parts), phase.cos().to(parts)
        for part in parts[1:]:
            if not self.overlap:
                whole = torch.cat((whole, part))
                continue
            seam = whole[-self.overlap :] * fall + part[: self.overlap] * rise
            whole = torch.cat((whole[: -self.overlap], seam, part[self.overlap :]))
        return whole[: len(self.waveform)]
