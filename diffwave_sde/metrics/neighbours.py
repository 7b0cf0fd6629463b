r"""Is it a copy? The training clip nearest to a made sound, and how near that is for a sound that is none.

Sounds are compared by an embedding that hears neither level nor polarity nor delay: `log-mel`, whose distances are dB.
With d the distance of a made sound to its nearest training clip, and r_j those of real sounds to theirs,

    nearer = #{j : r_j > d} / n

is the share of real sounds that it is nearer than. If it is as new as they are, all ranks are equally likely, and so

    P(nearer ≥ 1 - α) ≤ α + 1 / (n + 1).

Source: Vovk, Gammerman and Shafer 2005, chapter 2 (conformal prediction). The real sounds are the clips held out.
Where these are fewer than 99, too few to tell one in a hundred, the training clips join them, each compared with all
others. None is compared with its own near copies, which the split keeps together with it.

How alike the waveforms are is told beside it: the largest normalised cross-correlation, 1 for a copy (`data.copies`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.data.copies import correlation
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.store import Store
from diffwave_sde.metrics.embeddings import Embedding, LogMel
from diffwave_sde.names import escape

ENOUGH = 99
"""Real sounds from which one in a hundred can be told."""

MOST = 2000
"""Real sounds whose distances are computed at most."""

WARNING = 0.99
"""A sound that is nearer than this share of the real ones is told of."""

_VERSION = 1  # of what an index holds: a change makes all anew
_BLOCK = 2**25  # distances computed at a time: 128 MB

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


@dataclass(frozen=True)
class Neighbour:
    """The training clip nearest to a sound.

    row: of the store.
    file: its file's name there, spelt as in `names`.
    label: its class.
    distance: dB.
    nearer: share of real sounds that lie farther from their nearest training clip.
    alike: the largest magnitude of the normalised cross-correlation with it, within 20 ms; 1 for a copy.
    """

    row: int
    file: str
    label: str
    distance: float
    nearer: float
    alike: float

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        numbers = {name: round(getattr(self, name), 4) for name in ("distance", "nearer", "alike")}
        return {"file": self.file, "label": self.label, **numbers}

    @property
    def suspicious(self) -> bool:
        """Whether it is nearer than 99 % of real sounds."""
        return self.nearer >= WARNING

    def __str__(self) -> str:
        return (
            f"{self.distance:.1f} dB from {self.file} ({self.label}), nearer than {self.nearer:.0%} of real sounds; "
            f"waveforms alike {self.alike:.2f}"
        )


class Index:
    """All clips of a store, embedded, and those of them that were trained on.

    Args:
        store: whose clips they are.
        train: rows of the training clips, (n,).
        held_out: rows of those held out, (m,); may be empty.
        name: what it is called where it is told of.
        progress: called while the clips are embedded, which is done once.
    """

    def __init__(
        self, store: Store, train: np.ndarray, held_out: np.ndarray, name: str = "", progress: Progress | None = None
    ):
        if len(train) < 2:
            raise ValueError(f"{name}: {len(train)} training clips; neighbours need 2 at least")
        self.store, self.train, self.name = store, np.sort(train), name
        self.held_out = np.setdiff1d(held_out, train)
        self.embed: Embedding = LogMel()
        self.vectors = _vectors(store, self.embed, progress)

    @classmethod
    def of_data(cls, data: AudioDataModule, name: str = "", progress: Progress | None = None) -> Index:
        """The clips of a model's data, as its training split them."""
        parts = data.splits
        held_out = np.concatenate([parts["validation"], parts["test"]])
        return cls(data.store, parts["train"], held_out, name or data.dataset, progress)

    @classmethod
    def of_dataset(cls, dataset: str, length: int = audio.LENGTH, progress: Progress | None = None) -> Index:
        """All sounds of a data set, by name or a folder: prepared first if need be.

        Raises:
            ValueError: if there is no such data set, or fewer than two sounds in it.
        """
        data = AudioDataModule(dataset, length=length, mu=0, workers=0)
        data.prepare_data()
        data.setup()
        return cls(data.store, np.arange(len(data.store)), np.arange(0), dataset, progress)

    @property
    def real(self) -> np.ndarray:
        """Rows of the real sounds that made ones are compared with."""
        rows = self.held_out if len(self.held_out) >= ENOUGH else np.union1d(self.train, self.held_out)
        return rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(np.int64)]

    @cached_property
    def reference(self) -> Tensor:
        """Distances of the real sounds to their nearest training clips, dB, sorted, (n,), float64."""
        kits = np.unique(self.store.groups, return_inverse=True)[1]
        mine, others = (torch.from_numpy(kits[rows]) for rows in (self.real, self.train))
        distance, _ = self.nearest(self.vectors[self.real], (mine, others))
        return distance[distance.isfinite()].sort().values

    @property
    def about(self) -> dict[str, Any]:
        """What sounds are compared with, for a record."""
        held_out = len(self.held_out) >= ENOUGH
        return {
            "data": escape(self.name),
            "training_clips": len(self.train),
            "embedding": self.embed.name,
            "real_sounds": len(self.reference),
            "real_sounds_are": "held out" if held_out else "held out, and training clips left out one by one",
            "median_of_real_sounds": round(float(self.reference.median()), 3) if len(self.reference) else None,
        }

    def find(self, sounds: Tensor) -> list[Neighbour]:
        """The nearest training clip of each of some sounds (n, T) at 44.1 kHz, at any level."""
        sounds = sounds.float().cpu()
        distances, places = self.nearest(self.embed(sounds))
        lines = self._lines
        found = []
        for sound, distance, place in zip(sounds, distances.tolist(), places.tolist(), strict=True):
            row = int(self.train[place])
            file, label = lines[row], self.store.labels[self.store.label_ids[row]]
            alike = _alike(sound, self.clips([row])[0])
            found.append(Neighbour(row, file, label, distance, self.nearer(distance), alike))
        return found

    def nearer(self, distance: float) -> float:
        """The share of real sounds that lie farther than this from their nearest training clips; 0 of none."""
        farther = len(self.reference) - int(torch.searchsorted(self.reference, distance, right=True))
        return farther / max(1, len(self.reference))

    def clips(self, rows: list[int]) -> Tensor:
        """Clips of the store, (n, T), float32."""
        return audio.from_int16(self.store.read(rows)).view(len(rows), -1)

    @cached_property
    def _lines(self) -> list[str]:
        """Names of the files, a row each."""
        return [escape(line["file"]) for line in self.store.manifest() if line["row"]]

    def nearest(self, x: Tensor, apart: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Distances (n,), float64, of embeddings (n, D) to the nearest of the training clips, and the places of these.

        With `apart`, the groups of both, what is of one group is not compared.
        """
        train = self.vectors[self.train]
        size, places = max(1, _BLOCK // len(train)), []
        for first in range(0, len(x), size):
            distances = torch.cdist(x[first : first + size], train)
            if apart is not None:
                distances[apart[0][first : first + size, None] == apart[1]] = float("inf")
            places.append(distances.min(1))
        place = torch.cat([part.indices for part in places])
        # Anew in float64: by products of matrices, as above, a copy may lie at any distance below the rounding.
        distance = (x.double() - train[place].double()).norm(dim=1)
        return distance.masked_fill(torch.cat([part.values for part in places]).isinf(), float("inf")), place


def _alike(x: Tensor, y: Tensor) -> float:
    """The cross-correlation of two sounds from their onsets."""
    length = max(len(x), len(y))
    pair = torch.zeros(2, length)
    for row, sound in zip(pair, (x, y), strict=True):
        if not float(sound.abs().max()) > 0:
            return 0.0
        start = max(audio.onset(sound) - audio.PRE_ROLL, 0)
        row[: len(sound) - start] = sound[start:]
    shortest = min(len(x), len(y))  # what only one of them goes on with is no difference
    return min(correlation(*pair[:, :shortest].numpy(), audio.RATE), 1.0)


def _vectors(store: Store, embed: Embedding, progress: Progress | None) -> Tensor:
    """Embeddings (n, D) of all clips of a store: read from beside it, or made and kept there."""
    file = Path(store.path) / f"neighbours-{embed.name}.npz"
    state = repr((_VERSION, embed.name, embed.window, store.length, len(store))).encode()
    key = hashlib.blake2b(state + store.digests.tobytes(), digest_size=16).hexdigest()
    try:
        with np.load(file) as kept:
            if str(kept["key"]) == key and len(kept["vectors"]) == len(store):
                return torch.from_numpy(kept["vectors"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass  # none, or cut off: made anew
    parts = []
    for first in range(0, len(store), 64):
        rows = np.arange(first, min(first + 64, len(store)))
        parts.append(embed(audio.from_int16(store.read(rows)).view(len(rows), -1)))
        if progress is not None:
            progress(int(rows[-1]) + 1, len(store))
    vectors = torch.cat(parts)
    try:
        with atomic_write(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, key=key, vectors=vectors.numpy())
    except OSError as error:
        warnings.warn(f"{file} cannot be written ({error.strerror}): neighbours are found anew each time", stacklevel=2)
    return vectors
