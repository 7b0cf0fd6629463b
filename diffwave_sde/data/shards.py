"""The files that hold a store's clips: one, or one on each of several disks."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from diffwave_sde.paths import expand


@dataclass(frozen=True)
class Shards:
    """The files that hold a store's clips, one after another.

    files: .npy files.
    each: rows of a file, but for the last ones.
    length: samples of a row, int16.
    """

    files: tuple[Path, ...]
    each: int
    length: int

    START: ClassVar[int] = 128  # bytes before the first row: numpy's header, which has room for a row count to change

    @classmethod
    def of(cls, folder: Path, rows: int, length: int) -> Shards:
        """Those of a folder, which hold so many rows or were made for them; none if it has none."""
        files = tuple(sorted(folder.glob("clips*.npy")))
        return cls(files, -(-rows // max(len(files), 1)), length)

    def rows(self, total: int) -> list[int]:
        """How many of `total` rows each file holds."""
        return [min(max(total - k * self.each, 0), self.each) for k in range(len(self.files))]

    def bytes(self, rows: int) -> int:
        """The size of a file of so many rows."""
        return self.START + rows * self.length * 2

    def at(self, row: int) -> tuple[int, int]:
        """The number of the file that holds a row, and where in it the row begins."""
        return row // self.each, self.bytes(row % self.each)

    def open(self, flags: int = os.O_RDWR) -> list[int]:
        """Descriptors of the files."""
        return [os.open(file, flags | getattr(os, "O_BINARY", 0)) for file in self.files]


def allocate(work: Path, name: str, disks: tuple, rows: int, length: int) -> Shards:
    """Makes room for all rows (no bytes are written): in the folder, or in a shard for each disk, linked from there."""
    for file in work.glob("clips*"):
        file.unlink()
    places = [expand(disk).resolve() / f"{name}-{k:02d}.npy" for k, disk in enumerate(disks)]
    links = [work / f"clips-{k:02d}.npy" for k in range(len(places))] or [work / "clips.npy"]
    shards = Shards(tuple(links), -(-rows // len(links)), length)
    for link, place, own in zip(links, places or links, shards.rows(rows), strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        need, free = shards.bytes(own), shutil.disk_usage(place.parent).free
        if need > free:
            raise OSError(f"{place.parent}: the store needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        temporary = place.with_suffix(".tmp")
        write_header(temporary, own, length)
        os.truncate(temporary, need)
        temporary.rename(place)
        if place != link:
            link.symlink_to(place)
    return shards


def remove(work: Path) -> None:
    """Removes a build, with what it holds on other disks."""
    for file in work.glob("clips*.npy"):
        file.resolve().unlink(missing_ok=True)
    shutil.rmtree(work)


def write_header(path: Path, rows: int, length: int) -> None:
    with open(path, "r+b" if path.exists() else "wb") as file:
        header = {"descr": "<i2", "fortran_order": False, "shape": (rows, length)}
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != Shards.START:
            raise RuntimeError("numpy's header changed its length")


def close(files: list[int]) -> None:
    """Closes descriptors."""
    for file in files:
        os.close(file)
