"""Drum loops: a window holds a whole number of beats, and what sounds on past its end is heard at its beginning.

So a window is a loop, its tempo follows from its length, and the number of beats is its class. It begins on a beat, as
loops do. Patterns and drums are those of the built-in arrangements and one-shots.

    SeedSequence(seed, "loops", index) -> Philox -> pattern, one kick, snare and cymbal -> strokes on the sixteenths
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from diffwave_sde import audio
from diffwave_sde.data.builtin import drums
from diffwave_sde.data.builtin.recipe import draw
from diffwave_sde.data.builtin.waves import Clock, unit
from diffwave_sde.data.items import Clip, Source, built_in, pack
from diffwave_sde.data.pairs.bass import STYLES
from diffwave_sde.names import digest

COLLECTION = "loops"
TEMPI = 80.0, 160.0
"""Beats a minute that a loop has at least and at most."""

LEVELS = {"kick": 1.0, "snare": 0.7, "cymbal": 0.3}
PEAK = 0.9
GHOST = 0.08
"""Chance of a quiet stroke of each voice on each sixteenth that the pattern leaves free."""


def beats(seconds: float) -> tuple[int, ...]:
    """The numbers of beats that a window of so many seconds can hold.

    Raises:
        ValueError: if none of them has a tempo within `TEMPI`.
    """
    low, high = TEMPI
    found = tuple(n for n in range(1, 1000) if low <= 60 * n / seconds <= high)
    if not found:
        raise ValueError(
            f"a loop of {seconds:.3g} s holds no whole number of beats at {low:g} to {high:g} a minute: give it a "
            f"length of at least {60 / high:.3g} s, 2 s say"
        )
    return found


def label(index: int, seconds: float) -> str:
    """The class of loop number `index`: its tempo."""
    found = beats(seconds)
    return f"{60 * found[index % len(found)] / seconds:.0f} bpm"


def render(index: int, seed: int, rate: int, length: int) -> tuple[np.ndarray, dict[str, float]]:
    """Loop number `index`: (length,), float64, and every drawn number. A pure function of its arguments.

    Args:
        index: 0, 1, 2, ... without an upper end.
        seed: another seed is another endless collection.
        rate: Hz, at least 8,000.
        length: samples.
    """
    found = beats(length / rate)
    count = found[index % len(found)]
    root = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(COLLECTION.encode()), index))
    noise = np.random.Generator(np.random.Philox(root))
    style = int(noise.integers(len(STYLES)))
    out = np.zeros(length)
    sixteenths = 4 * count
    for voice, steps in zip(LEVELS, list(STYLES.values())[style], strict=True):
        recipe = drums.RECIPES[voice][int(noise.integers(len(drums.RECIPES[voice])))]
        wave = unit(recipe.voice(draw(recipe.ranges, noise), Clock(rate, round(0.6 * rate)), noise))
        wave *= np.clip((len(wave) - np.arange(len(wave))) / (0.05 * rate), 0, 1)
        level = LEVELS[voice] * 10 ** (noise.uniform(-3, 3) / 20)
        ghosts, softer = noise.random(sixteenths), noise.uniform(-2, 2, sixteenths)
        for step in range(sixteenths):
            planned = step % 16 in steps
            if not planned and ghosts[step] >= GHOST:
                continue
            accent = (1.0 if step % 4 == 0 else 0.75) if planned else 0.3
            start = round(step * length / sixteenths)
            places = (start + np.arange(len(wave))) % length  # past the end it goes on at the beginning
            np.add.at(out, places, wave * level * accent * 10 ** (softer[step] / 20))
    out *= PEAK / max(np.abs(out).max(), 1e-9)
    told = {"beats": count, "bpm": 60 * count * rate / length, "style_index": style}
    return out, {name: float(value) for name, value in told.items()}


class Loop(NamedTuple):
    """A built-in loop of `length` samples at `rate` Hz."""

    index: int
    seed: int
    rate: int
    samples: int

    @property
    def file(self) -> str:
        return f"{COLLECTION}/{self.seed}/{self.index:06d}"

    @property
    def label(self) -> str:
        return label(self.index, self.samples / self.rate)

    group = ""
    licence = ""
    built = True

    def load(self, length: int) -> Clip:
        wave, told = render(self.index, self.seed, self.rate, length)
        seconds = length / self.rate
        return Clip(pack(torch.from_numpy(wave)), self.label, seconds, self.rate, digest(self.file.encode()), told, [])


def built(count: int, seed: int, length: int = 2 * audio.RATE, rate: int = audio.RATE) -> Source:
    """The built-in loops.

    Args:
        count: how many.
        seed: of the collection.
        length: samples of a loop.
        rate: Hz.

    Raises:
        ValueError: if a number is out of its range.
    """
    here = Path(__file__).parent
    recipes = (Path(__file__), here / "pairs" / "bass.py", *sorted(here.glob("builtin/*.py")))
    found = built_in(COLLECTION, count, seed, partial(Loop, seed=seed, rate=rate, samples=length), recipes, rate)
    beats(length / rate)
    return found
