"""SoundFonts, `.sf2` and `.sf3`, as sources of one-shots: the samples that their drum kits play.

A SoundFont is a RIFF file: its samples in one long run, and tables of presets, instruments and zones that say which
sample a key plays. Presets of bank 128 are drum kits, and their keys are named by General MIDI. In `.sf3` each sample
is an Ogg Vorbis file of its own.

Source: SoundFont technical specification 2.04, sections 4 to 8; General MIDI level 1, percussion key map.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from diffwave_sde.data.items import Clip, clip_of

GENERAL_MIDI = {
    **dict.fromkeys((35, 36), "kick"),
    **dict.fromkeys((38, 40), "snare"),
    39: "clap",
    **dict.fromkeys((41, 43, 45, 47, 48, 50), "tom"),
    **dict.fromkeys((42, 44, 46, 49, 51, 52, 53, 55, 57, 59), "cymbal"),
}
"""Key of a drum kit -> class; the other keys from 27 to 87 are percussion."""

DRUM_BANK = 128
_COMPRESSED, _ROM = 0x10, 0x8000  # bits of a sample's type
_KEYS, _INSTRUMENT, _SAMPLE = 43, 41, 53  # generators: range of keys, and what a zone plays


def drum_of_key(key: int) -> str:
    """The class of a key of a General MIDI drum kit."""
    return GENERAL_MIDI.get(key, "percussion")


class Sample(NamedTuple):
    """A sample of a SoundFont that a drum kit plays; an item of a dataset.

    path: of the SoundFont.
    file: its name, KIT/KEY-NAME.
    start, end: where it lies in the file, bytes; of the right channel too, or two zeros.
    """

    path: str
    file: str
    label: str
    group: str
    licence: str
    rate: int
    compressed: bool
    start: int
    end: int
    right_start: int = 0
    right_end: int = 0

    def load(self, length: int) -> Clip:
        """The sample as a window of `length` samples, both channels as one."""
        x = self._decoded(self.start, self.end)
        if self.right_end:
            other = self._decoded(self.right_start, self.right_end)
            n = min(len(x), len(other))
            x = (x[:n] + other[:n]) / 2
        return clip_of(torch.from_numpy(x), self.rate, self.label, length)

    def _decoded(self, start: int, end: int) -> np.ndarray:
        with open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) < end - start:
            raise ValueError("cut short")
        if not self.compressed:
            return np.frombuffer(data, "<i2").astype(np.float32) / 32768
        try:
            x, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"not readable as Ogg Vorbis ({error.error_string})") from None
        return x.mean(1)


@dataclass(frozen=True)
class _Chunks:
    """Where the parts of a SoundFont lie: name -> (start, bytes)."""

    at: dict[str, tuple[int, int]]
    file: io.BufferedReader

    def table(self, name: str, kind: list[tuple[str, str]]) -> np.ndarray:
        start, size = self.at[name]
        dtype = np.dtype(kind)
        self.file.seek(start)
        return np.frombuffer(self.file.read(size // dtype.itemsize * dtype.itemsize), dtype)


def _chunks(file: io.BufferedReader, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(name, start, bytes) of the chunks between two places of a file; those of lists in their place."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(8)
        name, size = head[:4].decode("latin-1"), int.from_bytes(head[4:], "little")
        if start + 8 + size > end:
            raise ValueError("cut short")
        if name == "LIST":
            yield from _chunks(file, start + 12, start + 8 + size)
        else:
            yield name, start + 8, size
        start += 8 + size
        if size % 2:  # a byte of padding follows, which some writers leave out
            file.seek(start)
            start += file.read(1) == b"\0"


def samples(path: str | os.PathLike, licence: str | None = None) -> list[Sample]:
    """The samples that the drum kits of a SoundFont play, each once, in the order of kits and keys.

    Args:
        path: the file.
        licence: of all samples; None for what the file itself says.

    Raises:
        ValueError: if it is no SoundFont, is damaged, or has no drum kit.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"sfbk":
            raise ValueError(f"{path}: not a SoundFont: choose a .sf2 or .sf3 file")
        try:
            size = int.from_bytes(head[4:8], "little") + 8
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError("cut short")
            chunks = _Chunks({name: (start, n) for name, start, n in _chunks(file, 12, size)}, file)
            return _samples(path, chunks, licence)
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"{path}: a damaged SoundFont ({error}): copy it again") from None


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _zones(bags: np.ndarray, generators: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int, int | None]]:
    """(lowest key, highest key, number that it plays) of the zones `first` to `last`; None for a global zone."""
    for zone in range(first, last):
        low, high, plays = 0, 127, None
        for generator in generators[int(bags[zone]["generator"]) : int(bags[zone + 1]["generator"])]:
            amount = int(generator["amount"])
            if generator["kind"] == _KEYS:
                low, high = amount & 0xFF, amount >> 8
            elif generator["kind"] in (_INSTRUMENT, _SAMPLE):
                plays = amount
        yield low, high, plays


def _samples(path: Path, chunks: _Chunks, licence: str | None) -> list[Sample]:
    bag = [("generator", "<u2"), ("modulator", "<u2")]
    generator = [("kind", "<u2"), ("amount", "<u2")]
    presets = chunks.table(
        "phdr",
        [("name", "S20"), ("preset", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("x", "<u4"), ("y", "<u4"), ("z", "<u4")],
    )
    instruments = chunks.table("inst", [("name", "S20"), ("bag", "<u2")])
    heads = chunks.table(
        "shdr",
        [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4"),
         ("rate", "<u4"), ("key", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")],
    )  # fmt: skip
    preset_bags, preset_generators = chunks.table("pbag", bag), chunks.table("pgen", generator)
    bags, generators = chunks.table("ibag", bag), chunks.table("igen", generator)
    if licence is None:
        licence = _text(bytes(chunks.table("ICOP", [("byte", "u1")]))) if "ICOP" in chunks.at else ""
        licence = " ".join(licence.split())
    found: dict[int, Sample] = {}
    kits = [i for i in np.argsort(presets["preset"][:-1], kind="stable") if presets[i]["bank"] == DRUM_BANK]
    for i in kits:
        kit = _text(presets[i]["name"])
        for low, high, number in _zones(
            preset_bags, preset_generators, int(presets[i]["bag"]), int(presets[i + 1]["bag"])
        ):
            if number is None:
                continue
            first, last = int(instruments[number]["bag"]), int(instruments[number + 1]["bag"])
            for low_key, high_key, sample in _zones(bags, generators, first, last):
                key = max(low, low_key)
                if sample is None or sample in found or key > min(high, high_key):
                    continue
                made = _sample(path, chunks, heads, sample, key, kit, licence)
                if made is not None:
                    found[sample] = made
                    if made.right_end:
                        found[int(heads[sample]["link"])] = made
    if not found:
        raise ValueError("it has no drum kit, which is a preset of bank 128")
    every = list(dict.fromkeys(found.values()))
    # Two zones panned hard left and right are the channels of one sound; the left one stands for both.
    left = {one.file.removesuffix("(L)") for one in every if one.file.endswith("(L)")}
    return [one for one in every if not (one.file.endswith("(R)") and one.file.removesuffix("(R)") in left)]


def _sample(path: Path, chunks: _Chunks, heads: np.ndarray, number: int, key: int, kit: str, licence: str):
    """The item of one sample, of both channels where it has two; None for one in a ROM."""
    head = heads[number]
    if head["type"] & _ROM:
        return None
    compressed = bool(head["type"] & _COMPRESSED)
    base = chunks.at["smpl"][0]

    def place(one: np.void) -> tuple[int, int]:
        scale = 1 if compressed else 2  # bytes of a file within, or samples of 16 bits
        return base + int(one["start"]) * scale, base + int(one["end"]) * scale

    pair = None
    if head["type"] & 0xF in (2, 4) and 0 < head["link"] < len(heads) - 1 and head["link"] != number:
        pair = heads[head["link"]]
    file = f"{kit}/{key:03d}-{_text(head['name'])}".replace("\\", "-")
    right = place(pair) if pair is not None else (0, 0)
    label = drum_of_key(key)
    return Sample(str(path), file, label, kit, licence, int(head["rate"]), compressed, *place(head), *right)
