"""The sounds of a data set, a folder or single files as a model sees them: one window each, of 16 bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.data import sources
from diffwave_sde.data.items import Recorded, Rendered, Source, clip_of
from diffwave_sde.data.store import Store
from diffwave_sde.names import escape
from diffwave_sde.paths import expand

Progress = Callable[[int, int], None]
"""Called with (files read, files in all)."""


@dataclass(frozen=True)
class Library:
    """Windows of sounds.

    files: what each is called, unique.
    labels: the class of each: the folder that it lies in, or what the data set says.
    digests: of each one's content, 32 hex digits.
    windows: (n, T), int16.
    items: where each comes from.
    refused: (file, reason) of what could not be read.
    """

    files: tuple[str, ...]
    labels: tuple[str, ...]
    digests: tuple[str, ...]
    windows: np.ndarray
    items: tuple[Rendered | Recorded, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def sounds(self, rows: Sequence[int]) -> Tensor:
        """Waveforms (B, 1, T), float32."""
        return audio.from_int16(self.windows[list(rows)])[:, None]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))


def source_of(
    data: Sequence[str],
    root: str | os.PathLike,
    count: int,
    seed: int,
    length: int = audio.LENGTH,
    rate: int = audio.RATE,
) -> Source:
    """The sounds that are asked for: of one data set or folder, or the files.

    Args:
        data: the name of a data set, a folder, or files.
        root: folder for downloads.
        count: sounds of a built-in data set.
        seed: of a built-in data set.
        length: samples of the windows that pairs are cut into.
        rate: Hz of a model that is to hear them; pairs alone have another than 44,100.

    Raises:
        ValueError: if there is no such data set, or the paths are no files, or have another rate.
    """
    paths = [expand(text) for text in data]
    if all(path.is_file() and path.suffix.lower() not in sources._FILES for path in paths):
        items = [
            Recorded(str(path.resolve().parent), path.name, escape(path.resolve().parent.name), "", "")
            for path in paths
        ]
        if rate != audio.RATE:
            raise ValueError(
                f"the model is of {rate} Hz, and files are one-shots at {audio.RATE}: give a folder of pairs"
            )
        return Source("files", items, "", "files")
    if len(data) > 1:
        missing = next((path for path in paths if not path.is_file()), None)
        raise ValueError(f"--data {escape(str(missing))}: no such file; give files, one folder, or one data set")
    return sources.find(data[0], expand(root), count, seed, lambda line: None, None, length, rate)


def read(
    source: Source, length: int, most: int | None = None, seed: int = 0, progress: Progress | None = None
) -> Library:
    """Windows of a source's sounds, cut as training clips are; of pairs the parts.

    Args:
        source: the sounds.
        length: samples of a window.
        most: sounds that are taken at most, chosen by chance; null for all.
        seed: of that choice.
        progress: told of files.

    Raises:
        ValueError: if none can be read.
    """
    rows = np.arange(len(source.items))
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    kept, clips, refused = [], [], [(file, why) for file, why in source.refused if not why.startswith("not audio")]
    for done, row in enumerate(rows.tolist(), 1):
        item = source.items[row]
        try:
            clip = item.load(length * (1 + source.paired))
            clips.append(clip._replace(window=clip.window[-length:]))
            kept.append(item)
        except (OSError, ValueError) as error:
            refused.append((item.file, str(error).removeprefix(f"{Path(getattr(item, 'root', '')) / item.file}: ")))
        if progress is not None:
            progress(done, len(rows))
    if not kept:
        raise ValueError(f"{source.origin}: no sound that can be read" + (f"; {refused[0][1]}" if refused else ""))
    files = [escape(item.file) for item in kept]
    if len(set(files)) < len(files):  # of several data sets, or of files in several folders
        files = [escape(os.path.join(getattr(item, "root", ""), item.file)) for item in kept]
    return Library(
        tuple(files),
        tuple(clip.label for clip in clips),
        tuple(clip.digest for clip in clips),
        np.stack([clip.window for clip in clips]),
        tuple(kept),
        tuple(refused),
    )


def from_store(store: Store, rows: Sequence[int], most: int | None = None, seed: int = 0) -> Library:
    """Clips of a store, at most so many, chosen by chance."""
    rows = np.asarray(rows)
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    lines = {int(line["row"]): line["file"] for line in store.manifest() if line["row"]}
    labels = tuple(store.labels[store.label_ids[i]] for i in rows)
    files = tuple(f"{escape(lines[int(i)])}" for i in rows)
    items = tuple(Recorded("", file, label, "", "") for file, label in zip(files, labels, strict=True))
    return Library(files, labels, tuple(store.digests[i].decode() for i in rows), store.read(rows), items)


def original(item: Rendered | Recorded, seconds: float = 60.0) -> tuple[Tensor, int]:
    """The file itself, (T,), at its own rate in Hz; a built-in sound as it is rendered."""
    if isinstance(item, Rendered):
        return audio.from_int16(item.load(audio.LENGTH).window), audio.RATE
    return audio.decode(Path(item.root) / item.file, seconds)


def from_waveforms(sounds: Tensor, labels: Sequence[str], files: Sequence[str], length: int) -> Library:
    """A library of waveforms (n, T) at 44.1 kHz, cut as files would be."""
    clips = [clip_of(x, audio.RATE, label, length) for x, label in zip(sounds, labels, strict=True)]
    items = [Recorded("", file, label, "", "") for file, label in zip(files, labels, strict=True)]
    windows = np.stack([clip.window for clip in clips])
    return Library(tuple(files), tuple(labels), tuple(clip.digest for clip in clips), windows, tuple(items))


def known(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The number of each label among a model's classes, (n,) long; -1 where it has none of that name."""
    lower = [name.lower() for name in classes]
    return torch.tensor([lower.index(name.lower()) if name.lower() in lower else -1 for name in labels])
