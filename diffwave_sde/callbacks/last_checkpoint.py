"""The checkpoint that a run goes on from."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info


def interrupted(trainer: Trainer) -> bool:
    """Whether the run is being stopped by Ctrl-C."""
    return any(getattr(callback, "interrupted", False) for callback in trainer.callbacks)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: every n steps, at the end of training, and when the run is stopped.

    ModelCheckpoint's own `save_last` follows what is best: where validation gets no better, its last checkpoint stays
    behind, and the end of training is not saved. This one is always the last.

    With one process the first Ctrl-C ends training after the step at hand, with everything saved; a second one ends it
    at once. Several processes cannot agree on a step when one is interrupted: there the last save holds.

    Args:
        every: optimizer steps between two saves.
        dirpath: folder; null for that of the run.
    """

    def __init__(self, every: int = 250, dirpath: str | None = None):
        if every < 1:
            raise ValueError(f"every = {every} steps between two saves of the last checkpoint must be at least 1")
        super().__init__(dirpath=dirpath, filename="last", every_n_train_steps=every, enable_version_counter=False)
        self.interrupted = False
        """Whether the run was stopped by Ctrl-C."""
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return

        owner = os.getpid()

        def stop(number: int, frame: Any) -> None:
            if os.getpid() != owner:  # a loader's worker, which ends with its owner
                return
            self.interrupted = trainer.should_stop = True
            signal.signal(signal.SIGINT, self._previous)
            print("\nstopping after this step; Ctrl-C again stops at once", flush=True)

        self._previous = signal.signal(signal.SIGINT, stop)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.interrupted:  # before anything that a second Ctrl-C might cut short
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if self.interrupted:
            rank_zero_info(f"stopped after step {trainer.global_step}: --ckpt_path last goes on from there")

    def _save(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_checkpoint(trainer, self.format_checkpoint_name(self._monitor_candidates(trainer)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
