r"""Which sounds of a collection a model did not expect.

Plain likelihood will not tell: noise costs a model many bits however typical it is, and silence costs none, so that the
most probable sound of all is one that nobody recorded (Nalisnick et al. 2019). So bits are judged for their complexity,
against those of FLAC, which knows nothing of drums (Serrà et al. 2020): the excess over a line, bits = a + b FLAC, that
most of the collection lies along. Silence is above that line, since its bits are the model's own noise floor.

A sound in the wrong class is not complex; another class explains it better. The doubt is the difference of the proxies
at loud noise, where classes are decided, of its class and of the best other one.

Either is given in units of what is usual in the collection; the larger of the two is the suspicion.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.collection.clips import Library
from diffwave_sde.collection.scores import Score

FEWEST = 8
"""Sounds that a line is drawn through at least."""


@dataclass(frozen=True)
class Outlier:
    """How far a sound is from what was expected.

    row: of the library.
    excess: bits over what its complexity explains, in robust standard deviations.
    doubt: how much better another class explains it, 3 being as much as its own usually does; NaN of no classes.
    other: the name of that class, or "".
    suspicion: the larger of the two.
    """

    row: int
    excess: float
    doubt: float
    other: str

    @property
    def suspicion(self) -> float:
        return self.excess if math.isnan(self.doubt) else max(self.excess, self.doubt)

    @property
    def why(self) -> str:
        """In words."""
        if not math.isnan(self.doubt) and self.doubt > max(self.excess, 0):
            return f"more like {self.other}"
        return "more bits than its complexity explains" if self.excess > 0 else "as expected"


def flac_bits(windows: np.ndarray) -> Tensor:
    """Bits per sample of each window (n, T), int16, as FLAC packs it: (n,), float64."""
    sizes = []
    for window in windows:
        packed = io.BytesIO()
        soundfile.write(packed, window, audio.RATE, format="FLAC", subtype="PCM_16")
        sizes.append(8 * packed.getbuffer().nbytes / len(window))
    return torch.tensor(sizes, dtype=torch.float64)


def spectral_bits(windows: np.ndarray, law: np.ndarray) -> Tensor:
    """Bits per sample of windows (n, T) under a stationary Gaussian with the mean spectrum of the windows `law`.

    A sample of 16-bit sound has no less noise than its rounding, 1/12 of a level's square.
    """
    x, data = (np.asarray(a, np.float64) for a in (windows, law))
    power = (np.abs(np.fft.rfft(data, norm="ortho")) ** 2).mean(0) + 1 / 12
    own = np.abs(np.fft.rfft(x, norm="ortho")) ** 2
    weight = np.full(power.shape, 2.0)
    weight[0] = 1.0
    weight[-1] = 2.0 if x.shape[1] % 2 else 1.0
    nats = 0.5 * (weight * (np.log(2 * np.pi * power) + own / power)).sum(1)
    return torch.from_numpy(nats / (x.shape[1] * math.log(2)))


def excess_bits(bits: Tensor, complexity: Tensor) -> Tensor:
    """What is left of bits (n,) above a + b complexity, b >= 0, that most lie along: by least absolute deviations.

    In robust standard deviations, 1.48 times the median of the magnitude.
    """
    bits, complexity = bits.double(), complexity.double()
    a = torch.stack((torch.ones_like(complexity), complexity), 1)
    weight = torch.ones_like(bits)
    for _ in range(50):  # iteratively reweighted: Schlossmacher 1973
        line = torch.linalg.lstsq(a * weight[:, None], (bits * weight)[:, None]).solution[:, 0]
        line[1].clamp_(min=0)
        rest = bits - a @ line
        weight = (rest.abs() + 1e-2).rsqrt()
    return standardised(rest)


def standardised(rest: Tensor) -> Tensor:
    """Less the median, over 1.48 times the median magnitude of that."""
    rest = rest - rest.median()
    return rest / (1.4826 * rest.abs().median()).clamp_min(1e-9)


def rank(library: Library, scores: Sequence[Score]) -> list[Outlier]:
    """All sounds, the least expected first.

    Raises:
        ValueError: if there are too few to tell what is usual.
    """
    if len(scores) < FEWEST:
        raise ValueError(f"{len(scores)} sounds: what is usual takes {FEWEST} at least to tell")
    bits = torch.tensor([score.bits for score in scores], dtype=torch.float64)
    excess = excess_bits(bits, flac_bits(library.windows))
    doubt = torch.tensor([score.doubt for score in scores], dtype=torch.float64)
    sure = doubt[doubt < 0]
    usual = sure.abs().median() if len(sure) else doubt.new_tensor(math.nan)
    found = [Outlier(i, float(excess[i]), 3 * float(doubt[i] / usual), score.other) for i, score in enumerate(scores)]
    return sorted(found, key=lambda one: -one.suspicion)


def write(path: Path, library: Library, scores: Sequence[Score], ranked: Sequence[Outlier]) -> None:
    """The list as CSV, the least expected first."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "suspicion", "excess", "doubt", "other", "bits", "why"])
        for one in ranked:
            figures = (f"{value:.4g}" for value in (one.suspicion, one.excess, one.doubt))
            table.writerow(
                [library.files[one.row], library.labels[one.row], *figures, one.other, scores[one.row].bits, one.why]
            )
