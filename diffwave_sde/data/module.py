"""The datamodule: a store, split by digest, read in batches, in an order that a stopped run finds again.

A clip's place is a function of its content alone,

    u = BLAKE2b(digest or kit) in [0, 1):      u < test: test;     u < test + validation: validation;     else train

so it stays where it is when files are added. The order of an epoch is a function of (seed, epoch) alone, and
rank r of W takes every W-th clip of it: at step k, W processes with batch B hold the clips of one with W·B.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from diffwave_sde import audio
from diffwave_sde.data.augment import Augment, draw
from diffwave_sde.data.build import prepare
from diffwave_sde.data.store import Store


class Batch(NamedTuple):
    """What a step gets.

    audio: companded waveforms (B, 1, T), float32, in [-1, 1]
    label: class ids (B,), long
    index: rows of the store (B,), long; with them a batch can be found again
    """

    audio: Tensor
    label: Tensor
    index: Tensor


class Clips(Dataset):
    """Rows of a store, read a batch at a time and companded through a table, or varied and then companded.

    Args:
        store: the store
        rows: (n,) which of its rows, in order
        mu: strength of the companding
        augment: what is done to them first; None for nothing. An index then names the pass too: pass · n + place
        seed: of the variations
    """

    def __init__(
        self, store: Store, rows: np.ndarray, mu: float, augment: Augment | None = None, seed: int = 0
    ) -> None:
        self.store, self.rows, self.mu, self.augment, self.seed = store, rows, mu, augment, seed
        # 16 bits have 65,536 values: looking one up costs less than a logarithm, and is exact
        values = torch.arange(65_536).to(torch.int16).double() / 32768
        self.table = audio.compress(values, mu).float().numpy()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def kin(self) -> dict[int, np.ndarray]:
        """The rows of each label, in the store's order."""
        rows = np.sort(self.rows)
        labels = self.store.label_ids[rows]
        return {int(label): rows[labels == label] for label in np.unique(labels)}

    def __getitems__(self, indices: list[int]) -> Batch:
        if self.augment is None:
            rows = self.rows[indices]
            x = torch.from_numpy(np.take(self.table, self.store.read(rows).view(np.uint16)))
        else:
            turns, places = np.divmod(indices, len(self))
            rows = self.rows[places]
            x = audio.compress(torch.from_numpy(self._varied(rows, turns)), self.mu)
        return Batch(
            x[:, None],
            torch.from_numpy(self.store.label_ids[rows]),
            torch.from_numpy(rows.astype(np.int64)),
        )

    def _varied(self, rows: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """The waveforms of `rows` as they are in their passes, (B, T), float32."""
        draws = [draw(self.seed, turn, row) for turn, row in zip(turns.tolist(), rows.tolist(), strict=True)]
        labels = self.store.label_ids[rows].tolist()
        partners = [
            self.augment.partner(numbers, row, self.kin[label])
            for numbers, row, label in zip(draws, rows.tolist(), labels, strict=True)
        ]
        read = self.store.read(rows.tolist() + [row for row in partners if row is not None])
        x = np.multiply(read, np.float32(1 / 32768), dtype=np.float32)
        others = iter(x[len(rows) :])
        return np.stack([
            self.augment(clip, numbers, None if partner is None else next(others))
            for clip, numbers, partner in zip(x, draws, partners, strict=False)
        ])  # fmt: skip

    def __getitem__(self, index: int) -> Batch:
        return Batch(*(field[0] for field in self.__getitems__([index])))


def as_is(batch: Batch) -> Batch:
    """Collates nothing: the dataset makes whole batches."""
    return batch


class EpochSampler(DistributedSampler):
    """The order of an epoch, for one rank, from any batch of it on.

    A DistributedSampler by type, so that Lightning does not replace it, with the order its own.

    Args:
        dataset: what has a length n
        batch_size: clips per process and batch
        seed: of the orders
        num_replicas: processes W
        rank: which of them this is
        numbered: whether an index names the pass over the clips too, pass · n + place; `Clips` with augmentation
            draws from it

    Each rank gets the same number of whole batches: what is left of an epoch is dropped, and another epoch's
    order drops another rest. Fewer clips than one batch of all ranks are repeated to fill it.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        numbered: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.batch_size, self.numbered = batch_size, numbered
        self.batches = max(1, len(dataset) // self.global_batch)
        self.num_samples = self.batches * batch_size
        self.total_size = self.num_samples * num_replicas
        self.position = 0  # batches of this epoch that the training loop has taken

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.num_replicas

    def order(self) -> np.ndarray:
        """The epoch's order for all ranks, (batches · global batch,)."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        return np.resize(order, self.total_size)

    def __iter__(self) -> Iterator[int]:
        order, n = self.order(), len(self.dataset)
        if self.numbered:
            # where clips are repeated to fill a batch, each time is a pass of its own
            passes = math.ceil(self.total_size / n)
            order = order + n * (self.epoch * passes + np.arange(self.total_size) // n)
        mine = order[self.rank :: self.num_replicas]
        return iter(mine[self.position * self.batch_size :].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Turns to the next epoch if this one is done; the loop's own number of it does not matter.

        Lightning counts an epoch too many when it goes on from the end of one, and ends one in its middle at
        max_steps or Ctrl-C. The order must be that of the run which had not stopped.
        """
        if self.position >= self.batches:
            self.turn()

    def turn(self) -> None:
        """Goes to the first batch of the next epoch."""
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.epoch, "position": self.position,
            "global_batch": self.global_batch, "clips": len(self.dataset), "seed": self.seed,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where another sampler was, with another number of ranks or batch size too."""
        self.epoch = state["epoch"]
        if (state["clips"], state["seed"]) != (len(self.dataset), self.seed):
            warnings.warn("the training clips or the data seed have changed: this epoch starts anew", stacklevel=2)
            self.position = 0
        else:
            self.position = min(state["position"] * state["global_batch"] // self.global_batch, self.batches)


class ResumableLoader(DataLoader):
    """A DataLoader over an `EpochSampler` that knows how many batches were taken from it, not how many its
    workers have made ahead. Lightning keeps its state in the checkpoint."""

    def __iter__(self) -> Iterator[Batch]:
        # A generator: Lightning makes the iterator before it sets the epoch, and workers start with it. So
        # nothing may start before the first batch is asked for.
        sampler = self.sampler
        if not hasattr(sampler, "position"):  # Lightning's overfit_batches puts its own in place
            yield from super().__iter__()
            return
        if sampler.position >= sampler.batches:
            sampler.turn()
        for batch in super().__iter__():
            sampler.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state and hasattr(self.sampler, "load_state_dict"):
            self.sampler.load_state_dict(state)


def split(groups: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training, validation and test clips.

    Args:
        groups: (n,) what must not be split: digests, or names of kits
        validation: share, in [0, 1)
        test: share, in [0, 1)

    Where a share is asked for and chance gives it nothing (five files, three kits), it gets the one group that
    comes nearest to it, as long as training keeps one.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    # hashed again: the hash of a sound is even, a kit's name is not
    u = np.array([_share(name) for name in names.tolist()])
    part = np.where(u < test, 2, np.where(u < test + validation, 1, 0))
    for which, share in ((1, validation), (2, test)):
        free = np.flatnonzero(part == 0)
        if share and not (part == which).any() and len(free) > 1:
            part[free[u[free].argmin()]] = which
    if not (part == 0).any() and len(part):
        part[u.argmax()] = 0
    rows = part[inverse]
    return tuple(np.flatnonzero(rows == which) for which in (0, 1, 2))


def _share(name: str | bytes) -> float:
    name = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big") / 2**56


class AudioDataModule(LightningDataModule):
    """Clips of a dataset, companded, in batches.

    Args:
        dataset: drums or synth (built-in sounds), hydrogen or sonic-pi (recordings from Debian's packages,
            fetched with apt-get), or the path of a folder of sounds, whose folders are the classes; or several of
            these, joined by "+"
        root: folder for stores and downloads
        length: samples per clip at 44.1 kHz; 21,000 are 0.476 s
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
        classes: names of the classes to take; null for all
        licence: regular expression that the licence of a recording begins with, such as CC0; null takes recordings
            of any licence, and of none
        disks: folders on other disks, over which the clips of a new store are spread in equal pieces; null keeps them
            under root

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
        classes: list[str] | None = None,
        licence: str | None = None,
        disks: list[str] | None = None,
    ) -> None:
        super().__init__()
        if length <= audio.PRE_ROLL:
            raise ValueError(f"data.length must exceed {audio.PRE_ROLL} samples, not {length}; 21000 is the default")
        if not 0 <= mu < math.inf:
            raise ValueError(f"data.mu must be 0 (no companding) or positive, not {mu}; 255 is the default")
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
        self.classes, self.licence, self.disks = classes or (), licence, disks or ()
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
            progress=progress,
        )

    def prepare_data(self) -> None:
        """Builds the store, on one process of each machine."""
        self._prepare(progress=True)

    def setup(self, stage: str | None = None) -> None:
        """Opens the store, on every process."""
        if self._store is None:
            self._store = self._prepare(progress=False)

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

    def _some(self, most: int) -> Iterator[Tensor]:
        """Up to `most` training clips, evenly over the split and companded, in pieces of up to 64: (n, T), float64."""
        rows = self.splits["train"]
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
        clips = self._clips(rows)
        for i in range(0, len(rows), 64):
            yield clips.__getitems__(list(range(i, min(i + 64, len(rows))))).audio[:, 0].double()

    @cached_property
    def sigma_data(self) -> float:
        """RMS of the companded training clips, without augmentation, measured on up to 2,048 of them."""
        squares = torch.cat([x.square().mean(1) for x in self._some(2048)])
        return math.sqrt(float(squares.mean()))

    @cached_property
    def diameter(self) -> float:
        """The largest Euclidean distance between two companded training clips, of up to 512 of them."""
        x = torch.cat(list(self._some(512)))
        return float(torch.cdist(x, x).max())

    def _clips(self, rows: np.ndarray) -> Clips:
        return Clips(self.store, rows, self.mu)

    def _options(self) -> dict:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "prefetch_factor": 4 if self.workers else None,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": as_is,
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
