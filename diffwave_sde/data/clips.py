"""Clips of a store, as a data set that reads a batch at a time."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffwave_sde import audio
from diffwave_sde.data.augment import Augment, draw
from diffwave_sde.data.store import Store


class Batch(NamedTuple):
    """What a step gets.

    audio: companded waveforms (B, 1, T), float32, in [-1, 1]
    label: class ids (B,), long
    index: rows of the store (B,), long; with them a batch can be found again
    context: of pairs, what each part goes with, companded as it is (B, 1, T); None of one-shots
    """

    audio: Tensor
    label: Tensor
    index: Tensor
    context: Tensor | None = None


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
        self.unread: set[int] = set()
        """Rows that could not be read, of a disk that fails or a file that was cut."""
        store.hold()
        # 16 bits have 65,536 values: looking one up costs less than a logarithm, and is exact
        values = torch.arange(65_536).to(torch.int16).double() / 32768
        self.table = audio.compress(values, mu).float().numpy()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows_by_label(self) -> dict[int, np.ndarray]:
        """The rows of each label, in the store's order."""
        rows = np.sort(self.rows)
        labels = self.store.label_ids[rows]
        return {int(label): rows[labels == label] for label in np.unique(labels)}

    def _nearest(self, place: int) -> int:
        """The row at a place, or where it cannot be read the next one that can.

        Raises:
            OSError: if none can.
        """
        for k in range(len(self)):
            row = int(self.rows[(place + k) % len(self)])
            if row in self.unread:
                continue
            try:
                self.store.read_whole([row])
            except OSError as error:
                if not self.unread:
                    warnings.warn(
                        f"row {row} of {self.store.path} cannot be read ({error.strerror or error}): training goes on "
                        "with other clips in the place of such rows; prepare the data anew",
                        stacklevel=2,
                    )
                self.unread.add(row)
                continue
            return row
        raise OSError(f"no clip of {self.store.path} can be read any more: prepare it anew, then --ckpt_path last")

    def __getitems__(self, indices: list[int]) -> Batch:
        turns, places = np.divmod(indices, len(self))
        rows = self.rows[places]
        try:
            x = self._waves(rows, turns)
        except OSError:  # of a disk that fails, or a file that was cut
            rows = np.array([self._nearest(place) for place in places.tolist()], np.int64)
            x = self._waves(rows, turns)
        length = self.store.length
        return Batch(
            x[:, None, -length:],
            torch.from_numpy(self.store.label_ids[rows]),
            torch.from_numpy(rows.astype(np.int64)),
            x[:, None, :length] if self.store.paired else None,
        )

    def _waves(self, rows: np.ndarray, turns: np.ndarray) -> Tensor:
        """The companded waveforms of `rows`, as they are in their passes, (B, T)."""
        if self.augment is None:
            return torch.from_numpy(np.take(self.table, self.store.read_whole(rows).view(np.uint16)))
        return audio.compress(torch.from_numpy(self._varied(rows, turns)), self.mu)

    def _varied(self, rows: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """The waveforms of `rows` as they are in their passes, (B, T), float32."""
        draws = [draw(self.seed, turn, row) for turn, row in zip(turns.tolist(), rows.tolist(), strict=True)]
        labels = self.store.label_ids[rows].tolist()
        partners = [
            self.augment.partner(numbers, row, self.rows_by_label[label])
            for numbers, row, label in zip(draws, rows.tolist(), labels, strict=True)
        ]
        try:
            read = self.store.read(rows.tolist() + [row for row in partners if row is not None])
        except OSError:
            read, partners = self.store.read(rows.tolist()), [None] * len(partners)
        x = audio.from_int16(read).numpy()
        others = iter(x[len(rows) :])
        return np.stack([
            self.augment(clip, numbers, None if partner is None else next(others))
            for clip, numbers, partner in zip(x, draws, partners, strict=False)
        ])  # fmt: skip

    def __getitem__(self, index: int) -> Batch:
        return Batch(*(None if field is None else field[0] for field in self.__getitems__([index])))


def identity_collate(batch: Batch) -> Batch:
    """Collates nothing: the dataset makes whole batches."""
    return batch
