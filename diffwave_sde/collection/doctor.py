"""What is wrong with the files of a collection, as far as rules can tell: each rule reads a file, or all of them.

A rule is meant to be right where it speaks: what it says is a suspicion, to be heard before a file is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.collection.clips import Library, original
from diffwave_sde.data.copies import envelope, find_copies
from diffwave_sde.metrics import LogMel
from diffwave_sde.metrics.evaluation import Discriminant

FLAT, RUNS = 5, 3  # samples in a row at one extreme level, and how many such rows make a clipped sound
HIT_RISE, HIT_GAP, HIT_LEVEL = 10 ** (12 / 20), 0.08, 10 ** (-9 / 20)
FOLDS = 5
FEWEST = 20  # sounds of a class from which a classifier can be learned


@dataclass(frozen=True)
class Finding:
    """One suspicion.

    row: of the library; -1 where it is about a class, or a file that could not be read.
    file: whose.
    kind: clipped, coarse, low-passed, several hits, copy, label, outlier, silent, unreadable, or imbalance.
    told: what was found, in words.
    """

    row: int
    file: str
    kind: str
    told: str

    @property
    def excludes(self) -> bool:
        """Whether the file is one to leave out, if the suspicion is right."""
        return self.row >= 0


def clipped(x: Tensor) -> str | None:
    """Whether a waveform (T,) stays at its extreme level for some samples, time and again."""
    top = float(x.abs().max())
    if top == 0:
        return None
    at = (x.abs() >= top * (1 - 1e-4)).int()
    edges = torch.cat((at.new_zeros(1), at, at.new_zeros(1))).diff()
    lengths = (edges == -1).nonzero().flatten() - (edges == 1).nonzero().flatten()
    flat = int((lengths >= FLAT).sum())
    if flat < RUNS:
        return None
    return f"{flat} runs of {FLAT} or more samples at {20 * math.log10(top):.1f} dBFS"


def coarse(x: Tensor) -> str | None:
    """Whether a waveform (T,) has the levels of fewer than ten bits."""
    levels = (x.double() * 32768).round().long().abs()
    step = int(np.gcd.reduce(levels.numpy())) if bool((levels > 0).any()) else 1
    distinct = len(torch.unique(levels))
    if step >= 64:
        return f"{16 - int(math.log2(step))} bits"
    # Scaled afterwards, no step divides all levels; but few of them are taken, however long the sound.
    return f"{distinct} levels in {len(x)} samples" if len(x) > 4000 and distinct <= 140 and step == 1 else None


def low_passed(x: Tensor, rate: int) -> str | None:
    """Whether a spectrum that reaches far ends at an edge, as that of a sound from a lower rate or from MP3 does."""
    if rate < 32_000 or len(x) < 2048:
        return None
    power = torch.fft.rfft(x.double()).abs().square()
    width = max(1, round(200 * len(x) / rate))  # 200 Hz
    bands = power[: len(power) // width * width].view(-1, width).mean(1)
    level = 10 * (bands + 1e-30).log10()
    for k in range(25, int(len(level) * 0.8)):  # from 5 kHz on; above 17 kHz an end may be the recording's own
        below, above = level[k - 10 : k], level[k + 4 :]
        if float(below.min() - above.max()) > 20 and float(below.max() - below.min()) < 20:
            return f"nothing above {k * 200 / 1000:.1f} kHz"
    return None


def hits(x: Tensor, rate: int) -> int:
    """How many times a waveform (T,) begins anew: its level rises by 12 dB to within 9 dB of the loudest."""
    frame = max(1, round(0.005 * rate))
    level = x[: len(x) // frame * frame].view(-1, frame).square().mean(1).sqrt()
    if not len(level):
        return 0
    top, last, count = float(level.max()), -math.inf, 0
    before = 1e-4 * top
    for i, now in enumerate(level.tolist()):
        if i:
            before = max(1e-4 * top, float(level[max(0, i - 6) : max(0, i - 1)].max()) if i > 1 else 1e-4 * top)
        if now > HIT_LEVEL * top and now > HIT_RISE * before and (i - last) * 0.005 >= HIT_GAP:
            count, last = count + 1, i
    return count


def files(library: Library, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """What single files show."""
    found = []
    for row, item in enumerate(library.items):
        try:
            x, rate = original(item)
        except (OSError, ValueError) as error:  # it has changed since it was read
            found.append(Finding(row, library.files[row], "unreadable", str(error)))
            continue
        several = hits(x, rate)
        told = {
            "clipped": clipped(x),
            "coarse": coarse(x),
            "low-passed": low_passed(x, rate),
            "several hits": f"{several} hits" if several > 1 else None,
            "rate": f"{rate} Hz: nothing above {rate / 2000:.1f} kHz" if rate < 32_000 else None,
        }
        found += [Finding(row, library.files[row], kind, text) for kind, text in told.items() if text]
        if progress is not None:
            progress(row + 1, len(library))
    for file, why in library.refused:
        found.append(Finding(-1, file, "silent" if why.startswith("silent") else "unreadable", why))
    return found


def copies(library: Library) -> list[Finding]:
    """Files that are all but the same as an earlier one."""
    levels = np.stack([envelope(window, audio.RATE) for window in library.windows])
    group = find_copies(levels, lambda i: library.windows[i], audio.RATE).group
    return [
        Finding(i, library.files[i], "copy", f"near copy of {library.files[first]}")
        for i, first in enumerate(group.tolist())
        if first != i
    ]


def imbalance(library: Library) -> list[Finding]:
    """Classes with less than a quarter of what the middle class has."""
    counts = Counter(library.labels)
    middle = sorted(counts.values())[len(counts) // 2]
    return [
        Finding(-1, name, "imbalance", f"{count} sounds; the middle class has {middle}")
        for name, count in sorted(counts.items())
        if count < middle / 4
    ]


def labels(library: Library) -> list[Finding]:
    """Files that a classifier of the others puts into another class: in two divisions into folds alike.

    Linear discriminants of log-mel embeddings, each file told by those of the folds that it is not in. Classes with
    fewer than 20 sounds are left alone.
    """
    counts = Counter(library.labels)
    rows = [i for i, name in enumerate(library.labels) if counts[name] >= FEWEST]
    own = [library.labels[i] for i in rows]
    if len(set(own)) < 2:
        return []
    x = LogMel()(library.sounds(rows)[:, 0])
    told = [_across_folds(x, own, seed) for seed in (0, 1)]
    return [
        Finding(i, library.files[i], "label", f"sounds more like {first} than {name}")
        for i, name, first, second in zip(rows, own, *told, strict=True)
        if first == second != name
    ]


def _across_folds(x: Tensor, own: Sequence[str], seed: int) -> list[str]:
    """The class that each is put into by a classifier of the other folds."""
    fold = np.random.default_rng(seed).permutation(len(own)) % FOLDS
    told = [""] * len(own)
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        classify = Discriminant(x[outside], [own[i] for i in outside])
        for i, name in zip(inside.tolist(), classify(x[inside]), strict=True):
            told[i] = name
    return told


RULES: dict[str, Callable[[Library], list[Finding]]] = {"copies": copies, "imbalance": imbalance, "labels": labels}
"""Those that look at all files together."""
