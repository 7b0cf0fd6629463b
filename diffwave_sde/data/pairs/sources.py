"""Where pairs come from: the built-in arrangements, and folders of one's own stems.

    SONGS/NAME/mix.wav, SONGS/NAME/part.wav     two files of any kind that is read, begun at the same moment

Each song is cut into windows, side by side, at its own level: neither trimmed, nor faded, nor normalised, since onset
and level of the part against its context are what is to be learned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.data.items import Clip, Numbered, Source, pack
from diffwave_sde.data.pairs import bass
from diffwave_sde.names import digest, escape

RATE = 11_025  # Hz of the built-in pairs' own configuration: a bass needs no more

CONTEXT, PART = "mix", "part"
"""The names of a song's two files, without what follows the dot."""

MINUTES = 20.0  # of a song that are read


class Arranged(NamedTuple):
    """A built-in pair."""

    index: int
    seed: int
    rate: int

    @property
    def file(self) -> str:
        return f"{bass.COLLECTION}/{self.seed}/{self.index:06d}"

    @property
    def label(self) -> str:
        return bass.label(self.index)

    group = ""
    licence = ""
    built = True

    def load(self, length: int) -> Clip:
        """Both as one row of `length` samples, the context first."""
        context, part, score = bass.render(self.index, self.seed, self.rate, length // 2)
        row = np.concatenate([pack(torch.from_numpy(x)) for x in (context, part)])
        content = digest(self.file.encode())
        return Clip(row, self.label, length / 2 / self.rate, self.rate, content, score.parameters, [])


class Stems(NamedTuple):
    """A window of a song."""

    root: str
    song: str  # the folder, relative to root
    mix: str
    part: str
    number: int  # of the window
    rate: int

    @property
    def file(self) -> str:
        return f"{self.song}/{self.part}#{self.number}"

    @property
    def group(self) -> str:
        return escape(self.song)

    label = "part"
    licence = ""

    def load(self, length: int) -> Clip:
        """Both as one row of `length` samples, the context first.

        Raises:
            OSError, ValueError: as `audio.decode`, or if neither of the two sounds in this window.
        """
        size = length // 2
        folder = os.path.join(self.root, self.song)
        both = [song_of(os.path.join(folder, file), self.rate) for file in (self.mix, self.part)]
        end = min(map(len, both))
        windows = [x[self.number * size : min((self.number + 1) * size, end)] for x in both]
        windows = [torch.nn.functional.pad(x, (0, size - len(x))) for x in windows]
        if max(float(x.abs().max()) for x in windows) < audio.SILENT:
            raise ValueError("silent: neither mix nor part sounds in this window")
        loudest = max(1.0, *(float(x.abs().max()) for x in both))  # of all the song, so that it has one gain
        row = np.concatenate([pack(x / loudest) for x in windows])
        return Clip(row, self.label, size / self.rate, self.rate, digest(self.file.encode(), row.tobytes()), {}, [])


@lru_cache(maxsize=4)
def song_of(path: str, rate: int) -> Tensor:
    """A whole song, (T,), mono at `rate`; kept, since its windows are asked for one after the other."""
    return audio.read(path, rate, 60 * MINUTES)[0]


def built(count: int, seed: int, rate: int) -> Source:
    """The built-in arrangements; `rate` in Hz.

    Raises:
        ValueError: if a number is out of its range.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count must be at least 1 and seed at least 0, not {count} and {seed}")
    if rate < 8_000:
        raise ValueError(f"data.rate = {rate} Hz: the built-in sounds need at least 8000")
    here = Path(__file__).parent
    recipe = digest(*(p.read_bytes() for p in sorted((*here.glob("*.py"), *here.parent.glob("builtin/*.py")))))
    inputs = digest(f"{bass.COLLECTION} {count} {seed} {recipe}".encode())
    origin = f"built-in {bass.COLLECTION}, seed {seed}"
    return Source(
        f"{bass.COLLECTION}-{count}",
        Numbered(count, partial(Arranged, seed=seed, rate=rate)),
        inputs,
        origin,
        [],
        rate,
        True,
    )


def find_stems(folder: Path, files: Sequence[str]) -> list[tuple[str, str, str]]:
    """(song's folder, its mix, its part) of the files of a folder; none where it holds no such pair."""
    songs: dict[str, dict[str, str]] = {}
    for file in files:
        song, _, name = file.rpartition("/")
        stem = name.rpartition(".")[0].lower()
        if stem in (CONTEXT, PART):
            songs.setdefault(song, {}).setdefault(stem, name)
    return [(song, two[CONTEXT], two[PART]) for song, two in sorted(songs.items()) if len(two) == 2]


def stems(
    folder: Path,
    name: str,
    pairs: Sequence[tuple[str, str, str]],
    others: Sequence[str],
    inputs: str,
    length: int,
    rate: int,
) -> Source:
    """The windows of a folder of songs.

    Args:
        folder: of the songs.
        name: for the store.
        pairs: of `find_stems`.
        others: files that belong to no pair.
        inputs: digest of the files.
        length: samples of a window.
        rate: Hz.
    """
    items, refused = [], [(file, f"no {CONTEXT} with a {PART} beside it") for file in others]
    for song, mix, part in pairs:
        try:
            seconds = min(soundfile.info(os.fsencode(folder / song / file)).duration for file in (mix, part))
        except (soundfile.LibsndfileError, OSError) as error:
            refused.append((f"{song}/{part}", f"not audio: {error}"))
            continue
        windows = max(1, int(min(seconds, 60 * MINUTES) * rate) // length)
        items += [Stems(str(folder), song, mix, part, number, rate) for number in range(windows)]
    return Source(name, items, inputs, escape(str(folder)), refused, rate, True)
