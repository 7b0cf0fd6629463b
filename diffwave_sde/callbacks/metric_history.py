"""The figures of a run on its own disk, whatever logger it has, or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from diffwave_sde.callbacks.boards import log_noise_levels
from diffwave_sde.callbacks.progress import Clock
from diffwave_sde.sounds import history
from diffwave_sde.tolerance import Tolerance


class MetricHistory(Callback):
    """Keeps all that is logged in `metrics.jsonl` of the run's folder, which the page of the run draws.

    A line for each `log_every_n_steps` and for each validation: {"step": N, "train/loss": ...}. N is the number of
    optimizer steps that the weights had taken. A run that goes on from step N takes off the lines from N on, which it
    logs again. It also logs the speed, `train/steps_per_second` and `train/clips_per_second`, without pauses for
    validation and listening. Rank 0 writes.

    Args:
        folder: the run's folder; null for the trainer's default_root_dir.
    """

    def __init__(self, folder: str | None = None):
        self.folder = folder
        self._clock, self._tolerance = Clock(), Tolerance()
        self._written = -1

    def file(self, trainer: Trainer) -> Path:
        """Where the figures are."""
        return Path(self.folder or trainer.default_root_dir) / history.FILE

    def pause(self, clear: bool = False) -> None:
        """What comes now is no training: leave it out of the speed."""
        self._clock.pause()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock, self._written = Clock(trainer.global_step), trainer.global_step - 1
        if trainer.is_global_zero and not trainer.fast_dev_run:
            history.cut(self.file(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps
        self._clock.tick(step, time.monotonic())
        # Once a step, of however many batches it was made.
        if not every or not step or step % every or step - 1 <= self._written:
            return
        self._written = step - 1
        if speed := self._clock.speed:
            clips = len(batch[0]) * trainer.world_size * trainer.accumulate_grad_batches
            speeds = {"train/steps_per_second": speed, "train/clips_per_second": speed * clips}
            pl_module.log_dict(speeds, batch_size=len(batch[0]))
        self._write(trainer, step - 1, lambda name: not name.startswith(("val/", "test/")))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer, trainer.global_step, lambda name: name.startswith("val/"))

    def _write(self, trainer: Trainer, step: int, wanted: Callable[[str], bool]) -> None:
        logged = trainer.callback_metrics  # on all ranks: what is shared among them is reduced here
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        figures = {
            name: float(value) if isinstance(value, Tensor) else value
            for name, value in logged.items()
            if wanted(name) and not name.endswith(("_step", "_epoch"))
        }
        if figures:
            with self._tolerance.of(f"writing {self.file(trainer)}"):
                history.append(self.file(trainer), step, figures)
            log_noise_levels(trainer.loggers, step, figures)
