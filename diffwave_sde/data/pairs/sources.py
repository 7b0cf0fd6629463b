"""Where pairs come from: the built-in arrangements, and folders of one's own stems.

    SONGS/NAME/mix.wav, SONGS/NAME/part.wav     two files of any kind that is read, begun at the same moment
    SONGS/NAME/drums.wav, bass.wav, ...         stems, of which one is named; the sum of the others is the context
    SONGS/CLASS/NAME/...                        either of them, in classes

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
from diffwave_sde.data.items import Clip, Source, built_in, pack
from diffwave_sde.data.pairs import bass
from diffwave_sde.names import digest, escape

RATE = 11_025  # Hz of the built-in pairs' own configuration: a bass needs no more

CONTEXT, PART = "mix", "part"
"""The names of a song's two files, without what follows the dot."""

WHOLE = ("mix", "mixture", "master")
"""What the sum of all stems may be called, in a folder of stems."""

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
    context: tuple[str, ...]  # files, to be summed
    part: str
    number: int  # of the window
    rate: int

    @property
    def file(self) -> str:
        return f"{self.song}/{self.part}#{self.number}"

    @property
    def group(self) -> str:
        return escape(self.song)

    @property
    def label(self) -> str:
        """The folder that the song's own lies in, if it lies in one."""
        return escape(self.song.rpartition("/")[0].rpartition("/")[2]) or PART

    licence = ""

    def load(self, length: int) -> Clip:
        """Both as one row of `length` samples, the context first.

        Raises:
            OSError, ValueError: as `audio.decode`, or if neither of the two sounds in this window.
        """
        size = length // 2
        folder = os.path.join(self.root, self.song)
        files = (tuple(os.path.join(folder, file) for file in some) for some in (self.context, (self.part,)))
        both = [song_of(some, self.rate) for some in files]
        end = min(map(len, both))
        windows = [x[self.number * size : min((self.number + 1) * size, end)] for x in both]
        windows = [torch.nn.functional.pad(x, (0, size - len(x))) for x in windows]
        if max(float(x.abs().max()) for x in windows) < audio.SILENT:
            raise ValueError("silent: neither mix nor part sounds in this window")
        loudest = max(1.0, *(float(x.abs().max()) for x in both))  # of all the song, so that it has one gain
        row = np.concatenate([pack(x / loudest) for x in windows])
        return Clip(row, self.label, size / self.rate, self.rate, digest(self.file.encode(), row.tobytes()), {}, [])


@lru_cache(maxsize=4)
def song_of(paths: tuple[str, ...], rate: int) -> Tensor:
    """The sum of files of a song, (T,), mono at `rate`; kept, since windows are asked for one after the other."""
    stems = [audio.read(path, rate, 60 * MINUTES)[0] for path in paths]
    end = min(map(len, stems))
    return torch.stack([x[:end] for x in stems]).sum(0)


def built(count: int, seed: int, rate: int) -> Source:
    """The built-in arrangements; `rate` in Hz.

    Raises:
        ValueError: if a number is out of its range.
    """
    here = Path(__file__).parent
    recipes = sorted((*here.glob("*.py"), *here.parent.glob("builtin/*.py")))
    return built_in(bass.COLLECTION, count, seed, partial(Arranged, seed=seed, rate=rate), recipes, rate, True)


Song = tuple[str, tuple[str, ...], str]
"""A song's folder, the files of its context, and that of its part."""


def find_stems(files: Sequence[str], part: str | None = None) -> list[Song]:
    """The songs of a folder, of which these are the files; none where it holds no pair.

    Args:
        files: relative to the folder.
        part: the stem that is the part, whatever follows its dot; the others of its folder are the context, but for
            their sum, `WHOLE`. By default "part", with "mix" for its context.
    """
    songs: dict[str, dict[str, str]] = {}
    for file in files:
        song, _, name = file.rpartition("/")
        songs.setdefault(song, {}).setdefault(name.rpartition(".")[0].lower(), name)
    found = []
    for song, stems in sorted(songs.items()):
        mine = stems.get((part or PART).lower())
        if part is None:
            others = [stems[CONTEXT]] if CONTEXT in stems else []
        else:
            others = [file for stem, file in sorted(stems.items()) if file != mine and stem not in WHOLE]
        if mine is not None and others:
            found.append((song, tuple(others), mine))
    return found


def stems(
    folder: Path,
    name: str,
    pairs: Sequence[Song],
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
    items, refused = [], [(file, "of no pair: what it goes with is not beside it") for file in others]
    for song, context, part in pairs:
        try:
            seconds = min(soundfile.info(os.fsencode(folder / song / file)).duration for file in (*context, part))
        except (soundfile.LibsndfileError, OSError) as error:
            refused.append((f"{song}/{part}", f"not audio: {error}"))
            continue
        windows = max(1, int(min(seconds, 60 * MINUTES) * rate) // length)
        items += [Stems(str(folder), song, context, part, number, rate) for number in range(windows)]
    # What is the part, and of which class, is not in the files.
    told = {(item.part.rpartition(".")[0].lower(), item.label) for item in items}
    if told - {(PART, PART)}:
        inputs = digest(inputs.encode(), repr(sorted(told)).encode())
    return Source(name, items, inputs, escape(str(folder)), refused, rate, True)
