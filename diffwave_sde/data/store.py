"""The store: every clip of a dataset in one packed 16-bit array, with a manifest that says what each one is.

    root/stores/NAME-DIGEST/
      clips.npy        int16, (clips, length); or clips-00.npy and so on, links to shards of it on other disks
      index.npz        label ids, digests, kits and near copies of the rows
      manifest.csv     a line per file found: row, label, duration, rate, licence, digest, the row that it is a near
                       copy of, or why it was refused
      settings.json    what it was built from; its folder's DIGEST is that of the settings and the inputs

Names are spelt with the escapes of `names`, so that all of it is UTF-8.

`build.prepare` makes one; this is how it is read.
"""

from __future__ import annotations

import csv
import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from diffwave_sde.data.shards import Shards
from diffwave_sde.names import escape, unescape


@dataclass(frozen=True, eq=False)
class Store:
    """A finished store, open for reading.

    path: its folder
    labels: names of the classes, sorted; label ids index it
    label_ids: (n,) int64
    digests: (n,) bytes, 32 hex digits: of the sounds' own content
    groups: (n,) what must not be split: the kit of each clip, or its digest; near copies have one, and so have kits
        that share some
    copies: (n,) int64, of each row the first one that it is a near copy of, or itself
    rejected: how many of the files found are not in it
    """

    path: Path
    labels: tuple[str, ...]
    label_ids: np.ndarray
    digests: np.ndarray
    groups: np.ndarray
    copies: np.ndarray
    rejected: int
    length: int
    rate: int
    shards: Shards
    group_by: str | None = field(default=None)

    @classmethod
    def open(cls, path: str | os.PathLike, group_by: str | None = None) -> Store:
        """Opens the store at `path`.

        Args:
            path: its folder
            group_by: None splits clip by clip, "folder" keeps a kit's folder together, and any other text
                is a regular expression, searched in the file names: what its first group finds is the kit

        Raises:
            ValueError: if this is no store, or `group_by` does not tell kits apart
        """
        path = Path(path)
        try:
            settings = json.loads((path / "settings.json").read_text(encoding="utf-8"))
            with np.load(path / "index.npz") as index:
                keys = ("label_ids", "digests", "group_ids", "copies")
                label_ids, digests, group_ids, copies = (index[key] for key in keys)
            labels, names = tuple(settings["labels"]), np.asarray(settings["groups"])
            shards = Shards.of(path, len(label_ids), settings["length"] * settings.get("channels", 1))
            shards = replace(shards, each=settings.get("rows_per_shard", shards.each))
        except (OSError, KeyError, ValueError) as error:
            old = isinstance(error, KeyError) and "copies" in str(error)
            why = "prepared by an earlier version" if old else f"not a store ({error})"
            raise ValueError(f"{escape(str(path))}: {why}; prepare the dataset anew") from error
        for file, rows in zip(shards.files, shards.rows(len(label_ids)), strict=True):
            if not file.exists():
                raise ValueError(f"{file} leads to {os.readlink(file)}, which is not there: is that disk mounted?")
            if file.stat().st_size < shards.bytes(rows):
                raise ValueError(f"{file} is cut short; remove {path} and prepare the dataset anew")
        if group_by is None:
            groups = digests
        elif group_by == "folder":
            groups = names[group_ids]
            if any(names):  # what has none beside them, such as a built-in sound, stands alone
                groups = np.where(groups == "", digests.astype("U32"), groups)
        else:
            groups = _matched(path, group_by, digests)
        kits = len(np.unique(groups))
        groups = _joined(groups, copies)
        if group_by is not None and kits > 1 and len(np.unique(groups)) < 2:
            raise ValueError(
                f"group_by {group_by!r}: the {kits} kits of {settings['name']} hold near copies of each other's "
                "sounds, and none could be set aside; null splits clip by clip"
            )
        if group_by is not None and len(labels) and kits < 2:
            raise ValueError(
                f"group_by {group_by!r} puts all of {settings['name']} into one kit: it needs folders above the "
                "class folders, or a regular expression with one group for the kit's name; null splits clip by clip"
            )
        return cls(
            path, labels, label_ids, digests, groups, copies, settings["rejected"], settings["length"],
            settings["rate"], shards, group_by,
        )  # fmt: skip

    def __reduce__(self):
        # by name: a pickled memory map would be its contents
        return _reopened, (self.path, self.group_by, self.labels)

    def relabelled(self, labels: Sequence[str]) -> Store:
        """The same clips, with the classes in another order.

        Args:
            labels: names of the same classes.

        Raises:
            ValueError: if they are not the same.
        """
        if sorted(labels) != sorted(self.labels):
            raise ValueError(f"{self.path} has the classes {', '.join(self.labels)}, not {', '.join(labels)}")
        ids = np.array([list(labels).index(name) for name in self.labels], np.int64)
        return replace(self, labels=tuple(labels), label_ids=ids[self.label_ids])

    def __len__(self) -> int:
        return len(self.label_ids)

    @property
    def clips(self) -> np.ndarray:
        """All clips, read: (n, length) int16; a sample is its value / 32768."""
        return self.read(np.arange(len(self)))

    @cached_property
    def _files(self) -> list[int]:
        """Descriptors of the shards, kept open as long as the store is there."""
        files = self.shards.open(os.O_RDONLY)
        weakref.finalize(self, _close, files).atexit = False
        return files

    def hold(self) -> None:
        """Open the shards now: what is held can be read on where its file is deleted, by worker processes too."""
        _ = self._files

    @property
    def paired(self) -> bool:
        """Whether each clip is a part that has a context."""
        return self.shards.length != self.length

    def read(self, rows: np.ndarray | Iterable[int]) -> np.ndarray:
        """Reads rows, (B,) -> (B, length) int16; of pairs the parts."""
        return self.read_whole(rows)[:, -self.length :]

    def read_whole(self, rows: np.ndarray | Iterable[int]) -> np.ndarray:
        """Reads rows, (B,) -> (B, length) int16; of pairs (B, 2 length), the contexts first.

        By read, not through a map: mapped pages stay in the process's resident memory until the system
        needs them, and an epoch would count all of the store.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"row outside 0 to {len(self) - 1}")
        out = np.empty((len(rows), self.shards.length), np.int16)
        for row, clip in zip(rows.tolist(), out, strict=True):
            number, start = self.shards.at(row)
            if _read(self._files[number], memoryview(clip).cast("B"), start) != clip.nbytes:
                raise OSError(f"{self.shards.files[number]} is cut short")
        return out

    def manifest(self) -> Iterator[dict[str, str]]:
        """The lines of the manifest: those of the rows in their order, then the files that were refused."""
        yield from _lines(self.path)

    def refused(self) -> list[tuple[str, str]]:
        """(file, reason) of what was found and is not in the store."""
        return [(line["file"], line["reason"]) for line in self.manifest() if line["reason"]]


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _reopened(path: Path, group_by: str | None, labels: tuple[str, ...]) -> Store:
    return Store.open(path, group_by).relabelled(labels)


def _read(file: int, into: memoryview, start: int) -> int:
    """Fills `into` with what a file holds from `start` on; the bytes that were read."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [into], start)
    os.lseek(file, start, os.SEEK_SET)
    data = os.read(file, len(into))
    into[: len(data)] = data
    return len(data)


def _lines(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a manifest, with the names of files as the file system has them."""
    with open(path / "manifest.csv", newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            yield line | {key: unescape(line[key]) for key in ("file", "licence", "reason")}


def _joined(groups: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The groups (n,), those that hold near copies of each other under the name that is sorted first."""
    if (copies == np.arange(len(copies))).all():
        return groups
    names, inverse = np.unique(groups, return_inverse=True)
    linked = scipy.sparse.coo_array((np.ones(len(copies)), (inverse, inverse[copies])), (len(names),) * 2)
    _, parts = scipy.sparse.csgraph.connected_components(linked, directed=False)
    first = np.unique(parts, return_index=True)[1]  # of each part the first group, which has the first name
    return names[first[parts[inverse]]]


def _matched(path: Path, pattern: str, digests: np.ndarray) -> np.ndarray:
    try:
        kit = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_by {pattern!r} is not a regular expression: {error}") from error
    if not kit.groups:
        raise ValueError(f"group_by {pattern!r} is neither null, folder nor a regular expression with a group")
    groups = digests.astype("U32").astype(object)  # a clip without a kit stands alone
    found = False
    for line in _lines(path):
        if line["row"] and (match := kit.search(line["file"])):
            groups[int(line["row"])] = match[1] or ""
            found = True
    if not found:
        raise ValueError(f"group_by {pattern!r} is found in no file's name")
    return groups.astype(str)
