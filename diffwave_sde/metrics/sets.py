"""Sets of sounds to be compared: of a store, of a folder, of a dataset, of what a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffwave_sde import audio, paths
from diffwave_sde.data import pairs, sources
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.store import Store
from diffwave_sde.metrics.evaluation import SoundSet
from diffwave_sde.names import escape

SECONDS = 30.0  # of a file that are read
Progress = Callable[[int, int], None]
"""Called with (files read, files in all)."""


@dataclass(frozen=True)
class HeldOut:
    """Pairs that were not trained on.

    contexts, parts: (n, T), in [-1, 1].
    labels: the class of each part, an index into `names`.
    rate: Hz.
    dataset: where they are from.
    scores: what each part plays, where the data tell.
    """

    contexts: Tensor
    parts: Tensor
    labels: tuple[int, ...]
    names: tuple[str, ...]
    rate: int
    dataset: str
    scores: tuple[pairs.Score, ...] | None = None

    @property
    def sounds(self) -> SoundSet:
        """The parts, as sounds to compare others with."""
        labels = tuple(self.names[i] for i in self.labels)
        return SoundSet(audio.resample(self.parts, self.rate), labels, f"held-out parts of {self.dataset}")


@dataclass(frozen=True)
class Reader:
    """How sets of sounds are read.

    length: samples of a window, where recordings are cut to one.
    max_sounds: sounds that are taken at most.
    seed: of the choice among more than that.
    progress: called while files are read.
    refused: called with a file and the reason why it is left out.
    """

    length: int = audio.LENGTH
    max_sounds: int = 2000
    seed: int = 0
    progress: Progress = lambda done, total: None
    refused: Callable[[str, str], None] = lambda file, reason: None

    def held_out(self, data: AudioDataModule, count: int) -> HeldOut:
        """Pairs that were not trained on, up to `count` of those for validation and testing; built first if need be.

        Raises:
            ValueError: if there are none.
        """
        data.prepare_data()
        data.setup("fit")
        store = data.store
        # A split that has no clips of its own has those of training.
        rows = np.setdiff1d(np.concatenate([data.splits["validation"], data.splits["test"]]), data.splits["train"])
        if not len(rows):
            raise ValueError(f"no pairs of {data.dataset} were held out of the training: train with --data.test=0.1")
        rows = rows[:count]
        both = audio.from_int16(store.read_whole(rows)).view(len(rows), 2, store.length)
        scores = None
        if data.dataset == pairs.COLLECTION:
            files = [line["file"] for line in store.manifest() if line["row"]]
            numbers = [map(int, files[row].split("/")[1:]) for row in rows]
            scores = tuple(pairs.score(index, seed, store.length / store.rate) for seed, index in numbers)
        labels = tuple(int(i) for i in store.label_ids[rows])
        return HeldOut(both[:, 0].clone(), both[:, 1].clone(), labels, store.labels, store.rate, data.dataset, scores)

    def store(self, store: Store, rows: np.ndarray | None = None, name: str = "") -> SoundSet:
        """Clips of a store; all of them by default."""
        rows = self._chosen(np.arange(len(store)) if rows is None else rows)
        sounds = audio.resample(audio.from_int16(store.read(rows)).view(len(rows), -1), store.rate)
        return SoundSet(sounds, tuple(store.labels[i] for i in store.label_ids[rows]), name or str(store.path))

    def training(self, data: AudioDataModule, name: str = "") -> SoundSet:
        """The training clips of a datamodule, built first if need be."""
        data.prepare_data()
        data.setup("fit")
        return self.store(data.store, data.splits["train"], name)

    def real(self, origin: str) -> SoundSet:
        """Recordings of a store, of a folder, cut to windows as training clips are, or of a dataset by its name.

        Raises:
            ValueError: if there is nothing that can be read.
        """
        path = paths.expand(origin)
        if not path.is_dir():
            data = AudioDataModule(origin, length=self.length, mu=0, workers=0)
            data.prepare_data()
            data.setup("fit")
            return self.store(data.store, name=origin)
        return self.store(Store.open(path), name=origin) if _is_store(path) else self._folder(path, origin, self.length)

    def generated(self, origin: str) -> SoundSet:
        """Sounds of a store or a folder as they are, at their own levels.

        Their classes are those that `sounds.json` tells, else the folders that they lie in.

        Raises:
            ValueError: if there is no such folder, or nothing in it that can be read.
        """
        path = paths.expand(origin)
        if not path.is_dir():
            raise ValueError(f"{origin}: no such folder; give a folder of sounds or a store")
        return self.store(Store.open(path), name=origin) if _is_store(path) else self._folder(path, origin, None)

    def _folder(self, path: Path, name: str, length: int | None) -> SoundSet:
        """All sounds under a folder: windows of `length` samples, or as they are."""
        files, refused, _ = sources.scan(path)
        for file, reason in refused:
            if not reason.startswith("not audio"):
                self.refused(file, reason)
        chosen = self._chosen(np.arange(len(files)))
        told = _labels(path) if length is None else {}
        sounds, labels = [], []
        for done, i in enumerate(chosen, 1):
            try:
                x = audio.read(path / files[i], seconds=SECONDS)[0]
                sounds.append(x if length is None else audio.window(x, length))
            except (OSError, ValueError) as error:
                self.refused(files[i], str(error))
            else:
                above = files[i].rpartition("/")[0]
                labels.append(told.get(files[i]) or escape(above.rpartition("/")[2]))
            self.progress(done, len(chosen))
        if not sounds:
            raise ValueError(f"{name}: holds no sounds that can be read")
        longest = max(map(len, sounds))
        padded = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x in sounds])
        return SoundSet(padded, tuple(labels), name)

    def _chosen(self, rows: np.ndarray) -> np.ndarray:
        """As many of the rows as are taken, in order."""
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.max_sounds])


def _is_store(path: Path) -> bool:
    return (path / "settings.json").is_file()


def _labels(folder: Path) -> dict[str, str]:
    """The classes that `sounds.json` tells of the sounds beside it."""
    try:
        told = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))["sounds"]
        return {sound["file"]: sound["label"] for sound in told}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
