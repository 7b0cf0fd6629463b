"""What every source of sounds is made of: items that can be loaded, each on its own, as a window for the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from diffwave_sde import audio
from diffwave_sde.data import builtin
from diffwave_sde.data.copies import envelope
from diffwave_sde.names import digest

SECONDS = 60.0  # of a recording that are read: a clip is half a second, and a mix an hour long must not fill memory


class Clip(NamedTuple):
    """One sound, ready for the store."""

    window: np.ndarray  # (length,), int16
    label: str
    seconds: float  # of the source, before it was cut
    rate: int  # of the source, Hz
    digest: str  # 32 hex digits of the sound's own content, whatever its file or window
    parameters: dict[str, float]
    envelope: list[float]  # of the window, for `copies`, dB; none of a built-in sound, which is a copy of no other


def pack(x: torch.Tensor) -> np.ndarray:
    """16 bits, rounded and not dithered.

    Dither would keep a decay's end free of distortion at the price of hiss at -93 dBFS everywhere. Companding
    raises what is near silence by 33 dB, so a network would learn that hiss; and silence must stay exactly 0.
    """
    return np.clip(np.rint(x.numpy() * 32768.0), -32768, 32767).astype("<i2")


def clip_of(x: torch.Tensor, rate: int, label: str, length: int) -> Clip:
    """A recording (T,) at `rate` Hz as a window of `length` samples."""
    # of the decoded sound: a WAV and its FLAC copy must not fall into two splits
    content = digest(str(rate).encode(), np.rint(x.numpy() * 2.0**23).astype("<i4").tobytes())
    window = pack(audio.window(audio.resample(x, rate), length))
    levels = [round(level, 2) for level in envelope(window, audio.RATE).tolist()]
    return Clip(window, label, len(x) / rate, rate, content, {}, levels)


class Rendered(NamedTuple):
    """A built-in sound."""

    collection: str
    index: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.collection}/{self.seed}/{self.index:06d}"

    @property
    def label(self) -> str:
        return builtin.label(self.collection, self.index)

    group = ""
    licence = ""

    def load(self, length: int) -> Clip:
        # longer than the window, so that its end is the window's own fade
        seconds = max(length / audio.RATE + 0.06, 0.1)
        sound = builtin.render(self.collection, self.index, self.seed, audio.RATE, seconds)
        window = audio.window(torch.from_numpy(sound.samples), length)
        return Clip(pack(window), sound.label, seconds, audio.RATE, digest(self.file.encode()), sound.parameters, [])


class Numbered(Sequence):
    """Items that are made when asked for: 300,000 of them take no memory.

    count: how many.
    make: gives the item of a number, and travels to worker processes.
    """

    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.make(i)


class Recorded(NamedTuple):
    """A file. Its label and group are spelt with the escapes of `names`, so that whatever shows them can."""

    root: str
    file: str  # relative to root
    label: str
    group: str
    licence: str

    def load(self, length: int) -> Clip:
        path = os.path.join(self.root, self.file)
        x, rate = audio.decode(path, SECONDS)
        return clip_of(x, rate, self.label, length)


@dataclass(frozen=True)
class Source:
    """A dataset before it is a store.

    name: short, fit for a folder's name
    items: each with file, label, group, licence and load(length)
    refused: what was found and is no sound, (file, reason)
    inputs: digest of all that the items depend on
    origin: where it comes from, for the reader
    rate: Hz of the windows
    paired: whether a row is two waveforms, a context and its part; `load` is asked for both lengths together
    """

    name: str
    items: Sequence[Rendered | Recorded]
    inputs: str
    origin: str
    refused: list[tuple[str, str]] = field(default_factory=list)
    rate: int = audio.RATE
    paired: bool = False


def built_in(
    collection: str,
    count: int,
    seed: int,
    make: Callable[[int], Any],
    recipes: Iterable[Path],
    rate: int = audio.RATE,
    paired: bool = False,
) -> Source:
    """A built-in collection.

    Args:
        collection: its name.
        count: how many there are.
        seed: of the collection.
        make: gives the item of a number, as of `Numbered`.
        recipes: files of code that the sounds are made by: a change in them is another dataset.
        rate, paired: as of `Source`.

    Raises:
        ValueError: if a number is out of its range.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count must be at least 1 and seed at least 0, not {count} and {seed}")
    if rate < 8_000:
        raise ValueError(f"data.rate = {rate} Hz: the built-in sounds need at least 8000")
    recipe = digest(*(path.read_bytes() for path in recipes))
    inputs = digest(f"{collection} {count} {seed} {recipe}".encode())
    origin = f"built-in {collection}, seed {seed}"
    return Source(f"{collection}-{count}", Numbered(count, make), inputs, origin, [], rate, paired)
