r"""Near copies: the same sound louder, softer, upside down, some ms later or with a little noise.

They must stay together in the split, else what was trained on is tested on. Clips are compared as they lie in the
store, aligned at the onset and at one level, in two steps.

1. Candidates, by locality-sensitive hashing. A clip's spectrum in dB, in `BANDS` bands over its whole length, is
   blind to polarity and to a shift; v is that vector. Each of `TABLES` hash tables keys it by `KEYS` projections,

       k_j = ⌊(a_j · v + b_j) / w⌋,        a_j ~ N(0, 1), b_j ~ U[0, w],

   so that close vectors share a key in one of the tables. Source: Datar, Immorlica, Indyk and Mirrokni, 2004.
2. Verification, by the normalised cross-correlation at the best lag τ,

       max_τ |Σ x(t) y(t + τ)| / (‖x‖ ‖y‖) ≥ `ALIKE`.

In a bucket a clip is compared with its next `NEIGHBOURS` only, in the order of one more projection, and with none of
those that it has been joined with. So n clips take at most n · TABLES · NEIGHBOURS comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

BANDS = 32
LOWEST, HIGHEST = 40.0, 16_000.0  # Hz
FLOOR = 1e-3  # of the whole power: 30 dB below it noise may change a band
TABLES = 12
KEYS = 8
WIDTH = 12.0  # dB; copies lie about 1 apart
NEIGHBOURS = 4
CLOSE = 0.5  # dB, root mean square over the bands: what is farther apart is not correlated
ALIKE = 0.997
LAG = 0.02  # s, on either side
_FINER = 4  # lags of a quarter of a sample: a copy may have been resampled


def envelope(x: np.ndarray, rate: int) -> np.ndarray:
    """The spectrum of a clip in bands: dB re its whole power, (BANDS,), float32.

    Args:
        x: waveform (T,), at any level, not silent
        rate: sample rate, Hz
    """
    size = scipy.fft.next_fast_len(len(x), real=True)
    power = np.abs(scipy.fft.rfft(x.astype(np.float32), size)) ** 2
    edges = np.geomspace(LOWEST, min(HIGHEST, rate / 2), BANDS + 1) * size / rate
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    # between lines of the spectrum the sum is interpolated: a band may be narrower than a line
    bands = np.diff(np.interp(edges, np.arange(len(sums)), sums))
    return (10 * np.log10(bands / sums[-1] + FLOOR)).astype(np.float32)


def correlation(x: np.ndarray, y: np.ndarray, rate: int) -> float:
    """The largest magnitude of the normalised cross-correlation of two clips (T,), within `LAG`."""
    x, y = (z.astype(np.float32) for z in (x, y))
    most = min(round(LAG * rate), len(x) - 1)
    size = scipy.fft.next_fast_len(len(x) + most, real=True)
    cross = scipy.fft.rfft(x, size) * scipy.fft.rfft(y, size).conj()
    r = scipy.fft.irfft(cross, _FINER * size) * _FINER
    top = max(np.abs(r[: _FINER * most + 1]).max(), np.abs(r[-_FINER * most :]).max() if most else 0.0)
    return float(top / np.sqrt(np.dot(x, x) * np.dot(y, y)))


@dataclass(frozen=True)
class Copies:
    """What was found.

    group: (n,) int64, of each clip the first clip that is a near copy of it, or itself
    comparisons: how often two clips were correlated
    """

    group: np.ndarray
    comparisons: int


def find_copies(envelopes: np.ndarray, read: Callable[[int], np.ndarray], rate: int) -> Copies:
    """Joins the clips that are near copies of each other.

    Args:
        envelopes: (n, BANDS), dB
        read: the waveform (T,) of a clip
        rate: sample rate, Hz
    """
    n = len(envelopes)
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return int(i)

    comparisons = 0
    rng = np.random.default_rng(0)
    refused: set[tuple[int, int]] = set()
    for _ in range(TABLES if n > 1 else 0):
        directions = rng.standard_normal((BANDS, KEYS + 1))
        projected = envelopes @ directions
        keys = np.floor((projected[:, :KEYS] + rng.uniform(0, WIDTH, KEYS)) / WIDTH).astype(np.int64)
        order = np.lexsort((projected[:, KEYS], *keys.T))
        same = (keys[order[1:]] == keys[order[:-1]]).all(1)
        bucket = np.concatenate([[0], np.cumsum(~same)])
        for step in range(1, min(NEIGHBOURS, n - 1) + 1):
            first, second = order[:-step], order[step:]
            near = bucket[:-step] == bucket[step:]
            first, second = first[near], second[near]
            apart = np.sqrt(np.mean((envelopes[first] - envelopes[second]) ** 2, axis=1))
            for i, j in zip(first[apart < CLOSE].tolist(), second[apart < CLOSE].tolist(), strict=True):
                a, b = root(i), root(j)
                pair = (min(i, j), max(i, j))
                if a == b or pair in refused:
                    continue
                comparisons += 1
                if correlation(read(i), read(j), rate) >= ALIKE:
                    parent[max(a, b)] = min(a, b)
                else:
                    refused.add(pair)
    return Copies(np.array([root(i) for i in range(n)], np.int64), comparisons)
