"""What a voice draws: named ranges, and the recipe that turns a draw into a wave."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Range(NamedTuple):
    """The law of one drawn parameter. Its unit is the end of its name: _hz, _s, _db, _dbfs, _octaves, ...

    law: "uniform", "log" (uniform in the logarithm) or "integer" (uniform, both ends included)
    meaning: what a listener hears it do
    """

    low: float
    high: float
    law: str
    meaning: str

    def at(self, share: float) -> float:
        """The value below which `share` (0 <= share < 1) of all draws lie."""
        if self.law == "integer":
            return float(math.floor(self.low + share * (self.high - self.low + 1)))
        if self.law == "log":
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True)
class Recipe:
    """A family of sounds.

    family: its name, such as "808"
    voice: (parameters, Clock, Generator for noise) -> wave (length,), at any level
    ranges: parameter -> Range, in the order in which they are drawn
    """

    family: str
    voice: Callable[..., np.ndarray]
    ranges: Mapping[str, Range]


LEVEL = {"level_dbfs": Range(-6.0, -0.4, "uniform", "peak level")}


def draw(ranges: Mapping[str, Range], rng: np.random.Generator) -> dict[str, float]:
    """One value for each range."""
    return {
        name: law.at(share) for (name, law), share in zip(ranges.items(), rng.random(len(ranges)).tolist(), strict=True)
    }


def vary(common: Mapping[str, tuple[str, str]], **limits: tuple[float, float]) -> dict[str, Range]:
    """Ranges of one family: the voice's (law, meaning) by parameter, and this family's limits."""
    if common.keys() != limits.keys():
        raise ValueError(f"limits and parameters differ: {sorted(common.keys() ^ limits.keys())}")
    return {name: Range(*limits[name], *common[name]) for name in common} | LEVEL
