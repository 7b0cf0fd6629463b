"""Files of sound, broken in the ways that a disk, a download, another program or a stranger breaks them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

SAMPLES = 3_000
LIES = (0, 1, 2, 255, 256, 1000, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def whole_files(folder: Path) -> list[Path]:
    """One file of every container and coding that libsndfile writes, `CONTAINER-CODING.ending`."""
    x = (np.random.default_rng(0).standard_normal(SAMPLES) * 0.2).clip(-0.9, 0.9)
    made = []
    for container in sorted(soundfile.available_formats()):
        for subtype in soundfile.available_subtypes(container):
            path = folder / f"{container}-{subtype}.{container.lower()}"
            for rate in (44_100, 8_000, 48_000):  # WVE is at 8 kHz, Opus at 48
                try:
                    soundfile.write(path, x, rate, subtype, format=container)
                except (soundfile.LibsndfileError, ValueError):
                    path.unlink(missing_ok=True)
                    continue
                made.append(path)
                break
    return made


def flip(data: bytearray, chance: random.Random) -> None:
    """One to sixty-four bits anywhere."""
    for _ in range(2 ** chance.randrange(7)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_header(data: bytearray, chance: random.Random) -> None:
    """One to eight bytes of the first hundred."""
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(min(100, len(data)))] = chance.randrange(256)


def truncate(data: bytearray, chance: random.Random) -> None:
    """Cut anywhere, so that a byte at least is gone."""
    del data[chance.randrange(len(data)) :]


def lie(data: bytearray, chance: random.Random) -> None:
    """A number of the header, of two, four or eight bytes, is another: lengths of 2 GB, 0 or 1000 channels, rates."""
    form = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    at = chance.randrange(max(min(120, len(data)) - size, 1))
    data[at : at + size] = struct.pack(form, chance.choice(LIES) % 256**size)


def insert(data: bytearray, chance: random.Random) -> None:
    """A piece of the file once more, or noise, in its middle."""
    at, much = chance.randrange(len(data)), chance.randint(1, 200)
    data[at:at] = data[:much] if chance.random() < 0.5 else chance.randbytes(much)


def blank(data: bytearray, chance: random.Random) -> None:
    """A stretch of zeros, or of ones, as a broken disk gives."""
    at, much = chance.randrange(len(data)), chance.randint(1, 600)
    data[at : at + much] = bytes([chance.choice((0, 255))]) * len(data[at : at + much])


KINDS = (flip, flip_header, truncate, lie, insert, blank)


def mutated(whole: list[Path], folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """Writes `count` broken files into `folder`, every container and every kind in turn."""
    for i in range(count):
        chance = random.Random(f"{seed}-{i}")
        source, kind = whole[i % len(whole)], KINDS[(i // len(whole)) % len(KINDS)]
        data = bytearray(source.read_bytes())
        kind(data, chance)
        path = folder / f"{i:05d}-{kind.__name__}-{source.name}"
        path.write_bytes(data)
        yield path
