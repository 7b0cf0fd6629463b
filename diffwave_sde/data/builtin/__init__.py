"""Built-in sounds: drums and synthesizer notes, made here and not recorded.

A sound is a pure function of (collection, index, seed, rate, seconds). Its parameters are drawn from the
ranges of its recipe and come back as labels; its noise (hiss, the places of a cymbal's modes, starting
phases) comes from a second stream, drawn after everything else, so that a longer render is the same stroke
heard for longer.

    SeedSequence(seed, collection, index) -> Philox -> parameters, noise -> voice -> block DC -> level -> fade

`docs/sounds.md` has every parameter with its unit, range, distribution and meaning.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from diffwave_sde.data.builtin import drums, synth
from diffwave_sde.data.builtin.recipe import Recipe, draw
from diffwave_sde.data.builtin.waves import FADE, Clock, block_dc, fade_out

__all__ = ["RECIPES", "VOICES", "Sound", "label", "render"]

# collection -> label -> the recipes of that label, one a family
RECIPES: dict[str, dict[str, tuple[Recipe, ...]]] = {"drums": drums.RECIPES, "synth": synth.RECIPES}
VOICES: dict[str, tuple[str, ...]] = {name: tuple(recipes) for name, recipes in RECIPES.items()}


@dataclass(frozen=True)
class Sound:
    """One rendered sound.

    samples: float32, (length,), peak between -6 and -0.4 dBFS
    label: one of `VOICES[collection]`
    parameters: every drawn parameter by name, the unit in the name; `family_index` counts families
    """

    samples: np.ndarray
    label: str
    parameters: dict[str, float]


def label(collection: str, index: int) -> str:
    """The label of sound number `index` of a collection; labels take turns, so shares are equal."""
    voices = VOICES[collection]
    return voices[index % len(voices)]


def render(collection: str, index: int, seed: int = 0, rate: int = 44_100, seconds: float = 0.5) -> Sound:
    """Make sound number `index` of a collection.

    A sound is the same whatever was rendered before it. The last 10 ms fade to zero, for sounds that outlast
    the window.

    collection: "drums" or "synth"
    index: 0, 1, 2, ... without an upper end
    seed: another seed is another endless collection, >= 0
    rate: sample rate, Hz, at least 8,000
    seconds: length, at least 0.02

    Raises: ValueError if the collection is unknown or a number is out of its range
    """
    if collection not in RECIPES:
        raise ValueError(f"unknown collection {collection!r}; known: {', '.join(RECIPES)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, got index {index} and seed {seed}")
    if rate < 8_000 or not 2 * FADE <= seconds < math.inf:
        raise ValueError(f"need rate >= 8000 Hz and seconds >= {2 * FADE}, got {rate} and {seconds}")
    kind = label(collection, index)
    # crc32, not hash(): str hashes differ from process to process
    root = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(collection.encode()), index))
    choices, noise = (np.random.Generator(np.random.Philox(child)) for child in root.spawn(2))

    families = RECIPES[collection][kind]
    family = int(choices.integers(len(families)))
    parameters = {"family_index": float(family)} | draw(families[family].ranges, choices)
    clock = Clock(rate, round(seconds * rate))
    wave = block_dc(families[family].voice(parameters, clock, noise), clock)
    wave = fade_out(wave, clock)
    wave *= 10 ** (parameters["level_dbfs"] / 20) / np.abs(wave).max()
    return Sound(wave.astype(np.float32), kind, parameters)
