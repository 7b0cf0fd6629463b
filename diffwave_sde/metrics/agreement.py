"""Does a part follow its track? Pitch classes and onsets of parts against what the track asks for.

    pitch    share of the frames in which a pitch is asked for whose strongest pitch class is that
    onset    F-measure of the part's onsets against those that are asked for, within 50 ms

What is asked for is the score, where there is one, else the true part. Each figure stands beside the same against what
other tracks ask for, and beside both of the true parts: the ceiling, since each measurement errs, and the floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diffwave_sde.data import pairs

TOLERANCE = 0.05  # s
MOST = 256  # parts that are compared, each with what all of them ask for
PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Heard:
    """What is measured of a part, and what may be asked for.

    pitch: the pitch class of each frame, 50 a second, (frames,); -1 where there is none.
    onsets: times, s, (n,).
    """

    pitch: np.ndarray
    onsets: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How far parts follow their tracks, one figure.

    value: of each part with what its own track asks for, the mean.
    shuffled: with what the others' tracks ask for, the mean of all.
    p: how often the mean would be as high or higher if parts and tracks were paired by chance: a permutation test.
    """

    value: float
    shuffled: float
    p: float


def measure_part(x: np.ndarray, rate: int) -> Heard:
    """What is heard of a part (T,), at `rate`, Hz."""
    found = onsets(x, rate)
    return Heard(chroma(x, rate, rate // 50), found[(found >= 0.05) & (found < len(x) / rate - 0.05)])


def asked_for(score: pairs.Score, samples: int, rate: int) -> Heard:
    """What a score asks for in a window of so many samples: the notes, but for 60 ms of their beginnings, and when."""
    time = np.arange(1 + samples // (rate // 50)) * (rate // 50) / rate
    pitch = np.full(len(time), -1)
    for note in score.bass:
        pitch[(time >= max(note.start, 0) + 0.06) & (time < note.end - 0.02)] = note.midi % 12
    starts = np.array([note.start for note in score.bass])
    return Heard(pitch, starts[(starts >= 0.05) & (starts < samples / rate - 0.05)])


def chroma(x: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """The strongest pitch class of each frame of 0.19 s, from 38 to 330 Hz: (frames,), -1 where it is quiet.

    A pitch's evidence is the sum of its first three harmonics, the higher ones weighed less.
    """
    size = round(0.19 * rate)
    padded = np.pad(x, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    points = 2 ** math.ceil(math.log2(1.4 * rate))  # 1.4 points or more a Hz
    spectrum = np.abs(np.fft.rfft(frames, points, axis=1))
    midi = np.arange(27, 52)
    hz = 440 * 2 ** ((midi - 69) / 12)
    first, second, third = (spectrum[:, np.rint(n * hz * points / rate).astype(int)] for n in (1, 2, 3))
    evidence = first + 0.5 * second + 0.3 * third
    classes = np.stack([evidence[:, midi % 12 == k].max(1) for k in range(12)], 1)
    loud = np.sqrt(np.square(frames).mean(1))
    return np.where(loud > 0.1 * loud.max(), classes.argmax(1), -1)


def onsets(x: np.ndarray, rate: int) -> np.ndarray:
    """Times, s, at which the level rises by more than 2 dB within 23 ms, the steepest within 80 ms of each other."""
    hop = rate // 86
    power = np.square(np.pad(x, (hop, hop))[: (len(x) // hop) * hop + hop]).reshape(-1, hop).mean(1)
    level = 10 * np.log10(np.convolve(power, [0.5, 0.5], "same") + 1e-6)
    rise = np.maximum(level[2:] - level[:-2], 0)
    near = 7
    peaks = [i for i, r in enumerate(rise) if r > 2 and r == rise[max(0, i - near) : i + near + 1].max()]
    return np.array(peaks) * hop / rate


def pitch_agreement(part: Heard, asked: Heard) -> float:
    """Share of the frames in which a pitch is asked for that have it; NaN where none is asked for."""
    size = min(len(part.pitch), len(asked.pitch))
    wanted, found = asked.pitch[:size], part.pitch[:size]
    return float((found == wanted)[wanted >= 0].mean()) if (wanted >= 0).any() else math.nan


def onset_agreement(part: Heard, asked: Heard) -> float:
    """The F-measure of the onsets, each matched once; NaN where none is asked for and none is played."""
    wanted, found = asked.onsets, part.onsets
    if not len(wanted) + len(found):
        return math.nan
    left = list(wanted)
    for at in found:
        near = min(left, key=lambda one: abs(one - at), default=None)
        if near is not None and abs(near - at) <= TOLERANCE:
            left.remove(near)
    return 2 * (len(wanted) - len(left)) / (len(wanted) + len(found))


FIGURES: dict[str, Callable[[Heard, Heard], float]] = {"pitch": pitch_agreement, "onset": onset_agreement}


def agreement(
    parts: Sequence[Heard], asked: Sequence[Heard], figure: Callable[[Heard, Heard], float], seed: int = 0
) -> Agreement:
    """How far parts follow what their own tracks ask for, against what those of the others do.

    Args:
        parts: of each track, at least 2.
        asked: what each track asks for.
        figure: one of `FIGURES`.
        seed: of the permutations.
    """
    n = len(parts)
    table = np.array([[figure(part, one) for one in asked] for part in parts])
    if n < 2 or np.isnan(np.diag(table)).all():
        return Agreement(math.nan, math.nan, math.nan)
    value = float(_mean(np.diag(table)))
    draws = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
    higher = int((_mean(table[np.arange(n), draws]) >= value - 1e-12).sum())
    return Agreement(value, float(_mean(table[~np.eye(n, dtype=bool)])), (1 + higher) / (1 + PERMUTATIONS))


def _mean(x: np.ndarray) -> np.ndarray:
    """The mean along the last axis of what is no NaN; NaN where all is."""
    count = (~np.isnan(x)).sum(-1)
    return np.where(count > 0, np.nansum(x, -1) / np.maximum(count, 1), math.nan)


def follow(
    made: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    rate: int,
    scores: Sequence[pairs.Score] | None = None,
    seed: int = 0,
) -> dict:
    """Do made parts follow their tracks, as plain numbers?

    Args:
        made: parts (T,), one for each track; of more than `MOST` the first.
        true: the parts that belong to these tracks.
        rate: Hz.
        scores: what the tracks' true parts play; by default the true parts themselves are what is asked for.
        seed: of the permutation test.

    Returns:
        {"count", "asked": "score" or "true part", figure: {"value", "shuffled", "p", "ceiling", "floor"}}
    """
    count = min(len(made), MOST)
    parts, real = ([measure_part(x, rate) for x in some[:count]] for some in (made, true))
    asked = real if scores is None else [asked_for(s, len(true[0]), rate) for s in scores[:count]]
    out: dict = {"count": count, "asked": "true part" if scores is None else "score"}
    for name, figure in FIGURES.items():
        ours, best = agreement(parts, asked, figure, seed), agreement(real, asked, figure, seed)
        out[name] = {**vars(ours), "ceiling": best.value, "floor": best.shuffled}
    return out
