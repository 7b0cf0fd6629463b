"""Is a rhythm learned? Onsets of a loop against the grid of its own tempo, and against those of other tempi.

    grid    |mean of e^(2πi · 4 beats · t / T)| over the onsets t of a loop of T seconds, 0 to 1

which is 1 where all onsets lie on sixteenths, wherever the loop is cut open, and about 1 / √n for n onsets anywhere.
Source: the mean resultant length of directions on a circle (Mardia and Jupp 2000, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from diffwave_sde.metrics.agreement import onsets


def grid(x: np.ndarray, rate: int, beats: float) -> float:
    """How far the onsets of a loop (T,) lie on sixteenths of `beats` beats; NaN where it has fewer than three.

    The loop is heard twice in a row, since an onset at its very beginning is none without what comes before.
    """
    length = len(x)
    found = onsets(np.concatenate((x, x)), rate) * rate
    found = found[(found >= length / 2) & (found < 1.5 * length)]
    if len(found) < 3:
        return math.nan
    return float(np.abs(np.exp(2j * np.pi * 4 * beats * found / length).mean()))


def rhythm(loops: Sequence[np.ndarray], rate: int, beats: Sequence[float]) -> tuple[float, float]:
    """(on the grid of its own tempo, on those of the other tempi), means over loops (T,) of these numbers of beats."""
    own = [grid(x, rate, n) for x, n in zip(loops, beats, strict=True)]
    other = [grid(x, rate, m) for x, n in zip(loops, beats, strict=True) for m in set(beats) if m != n]
    return float(np.nanmean(own)), float(np.nanmean(other)) if other else math.nan


def seam(x: np.ndarray) -> float:
    """The step from the last sample of a loop (T,) to its first, over the root mean square of all steps."""
    steps = np.diff(x, append=x[:1])
    return float(abs(steps[-1]) / max(math.sqrt(float(np.square(steps).mean())), 1e-12))
