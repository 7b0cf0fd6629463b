"""How far the sounds of a model in training are from the data, as a figure to watch and to choose a checkpoint by."""

from __future__ import annotations

import time

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from diffwave_sde import audio, metrics
from diffwave_sde.callbacks.at_validation import AtValidation
from diffwave_sde.callbacks.generation import classes_of, generate
from diffwave_sde.callbacks.progress import say
from diffwave_sde.samplers import Sampler

NUMBERS = 1_000_000
"""The first of its sounds' numbers: not those that `SampleLogger` makes."""


class FrechetScore(AtValidation):
    """At validation: the Fréchet distance between new sounds and validation clips, and its ratio to the floor.

    It logs `val/frechet` and `val/frechet_ratio`, the first over that of as many training clips of the same classes
    (1 is as good as can be told). To keep the best checkpoint by it, give ModelCheckpoint `monitor:
    val/frechet`. The sounds are made from the same noises at every validation, with the averaged weights; training is
    not disturbed (`generation.generate`).

    Args:
        every: validations between two times, from the first on.
        count: sounds of each of the two sets; in the classes of the data in turn.
        embedding: which embedding: log-mel, learned, or one with weights of your own: learned=FILE, vggish=FILE or
            clap=FOLDER.
        sampler: null for the model's own.
        batch: sounds made at once by a process.
    """

    def __init__(
        self,
        every: int = 1,
        count: int = 48,
        embedding: str = "log-mel",
        sampler: Sampler | None = None,
        batch: int = 16,
    ):
        if every < 1 or count < 2 or batch < 1:
            raise ValueError(
                f"every = {every} validations and batch = {batch} sounds must be 1 or more, count = {count} sounds 2"
            )
        try:
            self.embedding = metrics.embedding(embedding)
        except ValueError as error:
            raise ValueError(f"embedding = {embedding}: {error}") from error
        super().__init__(every, ("val/frechet", "val/frechet_ratio"))
        self.count = count
        self.sampler, self.batch = sampler, batch
        self._real: tuple[Tensor, float] | None = None

    def measure(self, trainer: Trainer, module: LightningModule) -> None:
        began = time.monotonic()
        _, classes = classes_of(trainer, module, self.count)
        numbers = range(NUMBERS, NUMBERS + self.count)
        sounds = generate(trainer, module, numbers, classes, "Fréchet score", self.sampler, self.batch)
        # Every rank reckons it, so that every rank knows it.
        real, floor = self._data(trainer, classes)
        value = metrics.frechet(real, self.embedding(sounds)) if bool(sounds.isfinite().all()) else float("nan")
        figures = {"val/frechet": value, "val/frechet_ratio": value / floor}
        module.log_dict(figures, batch_size=self.count, rank_zero_only=False)
        say(
            trainer,
            f"step {trainer.global_step}: Fréchet distance {value:.1f} ({self.embedding.name}; floor {floor:.1f}), "
            f"{self.count} sounds in {time.monotonic() - began:.1f} s",
        )

    def _data(self, trainer: Trainer, classes: list[int] | None) -> tuple[Tensor, float]:
        """Embeddings of validation clips with these classes, and their distance from training clips: the floor."""
        if self._real is None:
            data = trainer.datamodule
            sets = []
            for split in ("validation", "train"):
                rows = data.splits[split]
                kinds = data.store.label_ids[rows] if classes else np.zeros(len(rows), np.int64)
                asked = classes or [0] * self.count
                chosen = []
                for i, kind in enumerate(asked):
                    # A class with too few clips in the split is gone through again; with none, the whole store is.
                    own = rows[kinds == kind]
                    own = own if len(own) else np.flatnonzero(data.store.label_ids == kind)
                    chosen += [own[asked[:i].count(kind) % len(own)]] if len(own) else []
                sets.append(self.embedding(audio.from_int16(data.store.read(chosen))))
            self._real = sets[0], max(metrics.frechet(*sets), 1e-9)
        return self._real
