"""Held-out sounds as an autoencoder in training gives them back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.callbacks.ema import averaged
from diffwave_sde.callbacks.generation import evaluating
from diffwave_sde.callbacks.sample_logger import SampleLogger


class ReconstructionLogger(SampleLogger):
    """Every `every` steps and at the end: held-out clips of each class in turn, encoded and decoded again.

    As a SampleLogger in all else: `samples/data` has the clips as they are, and `samples/step=N` what came back.

    Args:
        every: optimizer steps between two times; 0 for the end only.
        count: sounds.
        batch: sounds made at once.
        folder: the run's folder; null for the trainer's default_root_dir.
        first: optimizer steps before a first time, sooner than `every`; 0 for none.
    """

    split = "validation"

    def __init__(self, every: int = 1000, count: int = 12, batch: int = 16, folder: str | None = None, first: int = 0):
        super().__init__(every, count, batch, None, folder, first)

    def _asked(self, trainer: Trainer, module: LightningModule) -> tuple[Sequence[str], list[int] | None]:
        names = trainer.datamodule.labels
        return names, [i % len(names) for i in range(self.count)]

    def _make(self, trainer: Trainer, module: LightningModule, classes: list[int] | None, title: str) -> Tensor:
        # Every rank for itself: there is no chance in it, and little work.
        mu = trainer.datamodule.mu
        clips = self._examples(trainer, trainer.datamodule.labels, classes)
        made = []
        with isolate_rng(), averaged(trainer, module), evaluating(module):
            for some in clips.split(self.batch):
                with trainer.precision_plugin.forward_context():
                    y = module(audio.compress(some[:, None], mu).to(module.device))
                made.append(audio.expand(y.float().cpu(), mu)[:, 0])
        return torch.cat(made)
