"""The checkpoint that a run goes on from."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from diffwave_sde import checkpoint_io

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what a scheduler or a container ends a job with; and SLURM's warning before that."""

RETRY = 60.0  # s until a checkpoint that could not be written is tried again
AGREE = 8  # steps between two times that processes on GPUs ask one another whether to stop: they wait for it


def interrupted(trainer: Trainer) -> int:
    """The signal that the run is being stopped by, such as Ctrl-C's; 0 for none."""
    return max((getattr(callback, "interrupted", 0) for callback in trainer.callbacks), default=0)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: every n steps, at the end of training, and when the run is stopped.

    ModelCheckpoint's own `save_last` follows what is best: where validation gets no better, its last checkpoint stays
    behind, and the end of training is not saved. This one is always the last.

    Ctrl-C, SIGTERM and SIGUSR1 end training after the step at hand, with everything saved; a second Ctrl-C ends it at
    once. Of several processes any one may be told: they agree after each step, on GPUs after every eighth. In a job of
    SLURM, SIGUSR1 also puts the job back into the queue, where it goes on by itself.

    A save that failed is tried again after a minute, and at the end, where failing is an error.

    Args:
        every: optimizer steps between two saves.
        dirpath: folder; null for that of the run.
    """

    def __init__(self, every: int = 250, dirpath: str | None = None):
        if every < 1:
            raise ValueError(f"every = {every} steps between two saves of the last checkpoint must be at least 1")
        super().__init__(dirpath=dirpath, filename="last", every_n_train_steps=every, enable_version_counter=False)
        self.interrupted = 0
        """The signal that the run was stopped by; 0 for none."""
        self._told = 0  # the signal that this process was sent, not agreed on yet
        self._previous: dict[int, Any] = {}
        self._stop: Any = None  # what handles the signals while it trains
        self._validation: int | float | None = None  # the trainer's limit, while it is set aside
        self._failed_at: float | None = None  # s, of the clock, where the last save failed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.interrupted = self._told = 0
        if threading.current_thread() is not threading.main_thread():
            return

        owner = os.getpid()

        def stop(number: int, frame: Any) -> None:
            if os.getpid() != owner:  # a loader's worker, which ends with its owner
                if number == signal.SIGTERM:
                    os._exit(128 + number)
                return
            again = self._told == number == signal.SIGINT
            self._told = int(number)
            if again:
                raise KeyboardInterrupt
            if trainer.world_size == 1:
                self.interrupted, trainer.should_stop = self._told, True
                self._skip_validation(trainer)
            if number == signal.SIGINT:
                # The buffer of sys.stdout may be at work in the frame below: print() would fail there.
                os.write(1, b"\nstopping after this step; Ctrl-C again stops at once\n")

        self._stop = stop
        self._previous = {number: signal.signal(number, stop) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.world_size > 1 and not self.interrupted:
            self._agree(trainer, pl_module)
        late = self._failed_at is not None and time.monotonic() - self._failed_at > RETRY
        if self.interrupted or late:  # before anything that a second signal might cut short
            self._save(trainer)
        if self.interrupted:
            self._skip_validation(trainer)

    def _skip_validation(self, trainer: Trainer) -> None:
        """Whoever stops a run waits for no validation."""
        if self._validation is None:
            self._validation, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def _agree(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop all processes after the same step, where one of them was told to."""
        if module.device.type != "cpu" and trainer.global_step % AGREE:
            return
        number = torch.tensor(float(self._told), device=module.device)
        self.interrupted = int(trainer.strategy.reduce(number, reduce_op="max"))
        trainer.should_stop = trainer.should_stop or bool(self.interrupted)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        why = trainer.strategy.broadcast(checkpoint_io.failure(trainer)) if not trainer.fast_dev_run else None
        if why:
            raise OSError(
                f"the last checkpoint could not be written to {self.dirpath} ({why}): the run goes on from the one "
                "before it, if there is one; make room, then --ckpt_path last"
            )
        if self.interrupted:
            rank_zero_info(f"stopped after step {trainer.global_step}; to go on: {command(trainer)}")
            if self.interrupted == signal.SIGUSR1 and trainer.is_global_zero:
                requeue()

    def _save(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_checkpoint(trainer, self.format_checkpoint_name(self._monitor_candidates(trainer)))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        before = self._last_global_step_saved
        super()._save_checkpoint(trainer, filepath)
        self._failed_at = None
        if trainer.strategy.broadcast(checkpoint_io.failure(trainer)):
            self._last_global_step_saved, self._failed_at = before, time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            # Lightning may have put back what it found already; its own handler, put back after that, would keep the
            # trainer, and with it the model and the store, for as long as the process lives.
            if signal.getsignal(number) is self._stop:
                signal.signal(number, handler)
        self._previous, self._stop = {}, None
        if self._validation is not None:
            trainer.limit_val_batches, self._validation = self._validation, None


def command(trainer: Trainer) -> str:
    """The command that a run goes on with."""
    folder = Path(os.path.relpath(trainer.default_root_dir))
    return f"diffwave-sde fit --ckpt_path {shlex.quote(str(folder))}"


def requeue() -> bool:
    """Put the job of SLURM that this is back into its queue; whether it is one, and is back.

    Source: scontrol(1), `requeue`; of an array, JOB_TASK.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        why = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why is None:
        rank_zero_info(f"job {job} is back in the queue, and goes on by itself")
        return True
    rank_zero_warn(f"job {job} could not be put back into the queue ({why}): start it again with the command above")
    return False
