"""The datamodule: a store, split by content, read in batches, in an order that a stopped run finds again."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from multiprocessing.context import BaseContext

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from diffwave_sde import audio
from diffwave_sde.data.augment import Augment
from diffwave_sde.data.build import prepare
from diffwave_sde.data.clips import Batch, Clips, identity_collate
from diffwave_sde.data.filter import read_exclusions
from diffwave_sde.data.loader import EpochSampler, ResumableLoader
from diffwave_sde.data.split import split
from diffwave_sde.data.store import Store

__all__ = ["AudioDataModule", "Batch"]


class AudioDataModule(LightningDataModule):
    """Clips of a dataset, companded, in batches.

    Args:
        dataset: drums or synth (built-in sounds), loops (built-in drum loops), bass (built-in pairs of an arrangement
            and its bass), hydrogen or sonic-pi (recordings from Debian's packages, fetched with apt-get), or the path
            of a folder of sounds, whose folders are the classes, or of stems; or several of these, joined by "+"
        root: folder for stores and downloads
        length: samples per clip; 21,000 are 0.476 s at 44.1 kHz
        mu: strength of the mu-law companding; 0 turns it off
        batch_size: clips per process and step
        workers: processes that read ahead, per training process; 0 reads between the steps, which takes
            about a millisecond
        count: clips of a built-in dataset
        seed: of a built-in dataset's sounds and of the order of the clips
        group_by: what stays together in the split: null splits clip by clip, folder kit by kit (the folders
            above the class folders), and any other text is a regular expression whose first group finds the
            kit in a file's name
        validation: share of the clips (or kits) for validation, 0 to 1; with 0 it measures on training clips
        test: share of the clips (or kits) for testing, 0 to 1; with 0 it measures on training clips
        augment: how training clips are varied, each time they are read; null leaves them as they are
        classes: names of the classes to take, or one name; null for all. A name that YAML takes for a number or a
            truth, such as 808 or on, needs no quotes in a list
        licence: regular expression that the licence of a recording begins with, such as CC0; null takes recordings
            of any licence, and of none
        disks: folders on other disks, over which the clips of a new store are spread in equal shards; null keeps them
            under root
        exclude: a text file that names the files to leave out, one a line, relative to the dataset, as `diffwave-sde
            doctor` writes it; null leaves out none
        rate: sample rate of `loops` and of pairs (`bass`, or a folder of stems, NAME/mix.wav with NAME/part.wav), Hz;
            one-shots have 44,100
        part: which stem of a folder of songs is the part, bass for NAME/bass.wav; the sum of the other files in NAME is
            its context. null for songs of two files, NAME/mix.wav and NAME/part.wav

    Raises:
        ValueError: if an argument is out of its range
    """

    def __init__(
        self,
        dataset: str = "drums",
        root: str = "data",
        length: int = audio.LENGTH,
        mu: float = 255.0,
        batch_size: int = 16,
        workers: int = 1,
        count: int = 6000,
        seed: int = 0,
        group_by: str | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        augment: Augment | None = None,
        classes: list[str | int | float | bool | None] | str | int | float | bool | None = None,
        licence: str | None = None,
        disks: list[str] | None = None,
        exclude: str | None = None,
        rate: int = audio.RATE,
        part: str | None = None,
    ) -> None:
        super().__init__()
        if length <= audio.PRE_ROLL:
            raise ValueError(f"data.length must exceed {audio.PRE_ROLL} samples, not {length}; 21000 is the default")
        if not 0 <= mu < math.inf:
            raise ValueError(f"data.mu must be 0 (no companding) or positive, not {mu}; 255 is the default")
        if not 1_000 <= rate <= 768_000:
            raise ValueError(f"data.rate must be 1000 to 768000 Hz, not {rate}; 44100 is the default")
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1 clip, not {batch_size}")
        if workers < 0:
            raise ValueError(f"data.workers must be 0 or more processes, not {workers}")
        if count < 1 or seed < 0:
            raise ValueError(f"data.count must be at least 1 and data.seed at least 0, not {count} and {seed}")
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise ValueError(
                f"data.validation {validation} and data.test {test} must be shares from 0 that leave some for training"
            )
        self.dataset, self.root, self.length, self.mu = dataset, root, length, mu
        self.batch_size, self.workers, self.count, self.seed = batch_size, workers, count, seed
        self.group_by, self.validation, self.test = group_by, validation, test
        self.classes = classes if isinstance(classes, (list, tuple)) else () if classes is None else (classes,)
        self.licence, self.disks, self.exclude, self._rate = licence, disks or (), exclude, rate
        self.part = part
        # a configuration, such as a checkpoint's, holds its options only
        self.augment = augment if augment is None or callable(augment) else Augment(**augment)
        if self.augment and self.augment.shift * 1e-3 * audio.RATE > length // 2:
            raise ValueError(
                f"data.augment.shift of {self.augment.shift} ms is more than half of a clip of {length} samples: "
                f"{length // 2 * 1e3 / audio.RATE:.1f} is the most"
            )
        self._store: Store | None = None

    def _prepare(self, progress: bool) -> Store:
        return prepare(
            *(self.dataset, self.root, self.length, self.count, self.seed),
            *(self.group_by, self.classes, self.licence, self.disks),
            exclude=read_exclusions(self.exclude) if self.exclude else (),
            progress=progress,
            rate=self._rate,
            part=self.part,
        )

    def prepare_data(self) -> None:
        """Builds the store, on one process of each machine."""
        self._prepare(progress=True)

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, on every process."""
        if self._store is None:
            self._store = self._prepare(progress=False)
        if self._store.paired and self.augment is not None:
            raise ValueError("data.augment varies one-shots, and would tear pairs apart: leave it null")

    @property
    def store(self) -> Store:
        """The store; opened, and built if need be, when first asked for."""
        self.setup()
        return self._store

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; a batch's labels index it."""
        return self.store.labels

    @property
    def licences(self) -> dict[str, int]:
        """How many clips there are under each licence, with who gave them; none of what was made here."""
        told = (line["licence"] for line in self.store.manifest() if line["row"])
        return dict(Counter(filter(None, told)).most_common())

    def adopt_labels(self, labels: Sequence[str]) -> None:
        """Number the classes in the order of a checkpoint's.

        Args:
            labels: names of the same classes.

        Raises:
            ValueError: if they are not the same.
        """
        self._store = self.store.relabelled(labels)

    @property
    def rate(self) -> int:
        """Sample rate, Hz."""
        return self.store.rate

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """Rows of the store by split: train, validation, test."""
        parts = split(self.store.groups, self.validation, self.test)
        splits = dict(zip(("train", "validation", "test"), parts, strict=True))
        for name in ("validation", "test"):
            # in the order of the digests, so that the first few batches hold every class
            splits[name] = splits[name][np.argsort(self.store.digests[splits[name]], kind="stable")]
            if not len(splits[name]):
                # a share of 0, or a single sound: better to measure on what is there than to stop
                warnings.warn(f"no clips are set aside for {name}: it takes the training clips", stacklevel=2)
                splits[name] = splits["train"]
        return splits

    def subsample(self, most: int) -> Iterator[Tensor]:
        """Up to `most` training clips, evenly over the split and companded, in pieces of up to 64: (n, T), float64."""
        rows = self.splits["train"]
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
        clips = self._clips(rows)
        for i in range(0, len(rows), 64):
            yield clips.__getitems__(list(range(i, min(i + 64, len(rows))))).audio[:, 0].double()

    @cached_property
    def sigma_data(self) -> float:
        """RMS of the companded training clips, without augmentation, measured on up to 2,048 of them."""
        squares = torch.cat([x.square().mean(1) for x in self.subsample(2048)])
        return math.sqrt(float(squares.mean()))

    @cached_property
    def diameter(self) -> float:
        """The largest Euclidean distance between two companded training clips, of up to 512 of them."""
        x = torch.cat(list(self.subsample(512)))
        return float(torch.cdist(x, x).max())

    def contexts(self, count: int) -> Tensor | None:
        """What the first held-out parts go with, companded, (count, 1, T), again from the first on where there are
        fewer; None where the data are no pairs."""
        if not self.store.paired:
            return None
        rows = np.resize(self.splits["validation"], count)
        return self._clips(rows).__getitems__(list(range(count))).context

    def _clips(self, rows: np.ndarray) -> Clips:
        return Clips(self.store, rows, self.mu)

    def _options(self) -> dict:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "prefetch_factor": 4 if self.workers else None,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": identity_collate,
            "multiprocessing_context": _start_method() if self.workers else None,
            "worker_init_fn": partial(begin_worker, os.getpid()) if self.workers else None,
        }

    def train_dataloader(self) -> ResumableLoader:
        clips = Clips(self.store, self.splits["train"], self.mu, self.augment, self.seed)
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(clips, self.batch_size, self.seed, world, rank, numbered=self.augment is not None)
        return ResumableLoader(clips, sampler=sampler, drop_last=True, **self._options())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._clips(self.splits["validation"]), **self._options())

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self._clips(self.splits["test"]), **self._options())

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()


def begin_worker(owner: int, worker: int) -> None:
    """Leave the signals that stop a training to its own process, and end with it.

    A terminal and a scheduler send them to all processes of a group. A worker that ended by one would take the step at
    hand with it. Of a fork server the parent is the server, so that PyTorch's own watch does not see the owner end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while True:
            time.sleep(2.0)
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True, name="owner").start()


def _start_method() -> BaseContext | None:
    """How workers start: None for the platform's way.

    A process of several that train together has threads that talk to the others. A fork copies the locks which they
    hold at that moment, and a worker that asks for one waits for ever, as do then all the processes.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together or "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that only the first worker waits for the imports
    return context
