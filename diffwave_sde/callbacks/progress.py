"""One progress bar for the whole run, and a line now and then where nobody watches a bar."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from diffwave_sde.bounds import positive

MEMORY = 30.0  # s: the speed that is shown is that of this last while


class Progress(TQDMProgressBar):
    """Loss, steps and clips per second, and the time left until max_steps, max_epochs or max_time.

    On a terminal it is a bar. Elsewhere (a log file, a batch job) it is a line after the first step, after each
    validation, and every `seconds`.

    Args:
        refresh: seconds between two updates of the bar. Each reads the loss, for which a GPU must be waited for.
        seconds: seconds between two lines where the output is not a terminal.
        bar: whether there is a bar; null to look whether the output is a terminal.
    """

    def __init__(self, refresh: float = 0.5, seconds: float = 60.0, bar: bool | None = None):
        super().__init__()
        positive(refresh=refresh, seconds=seconds)
        self.refresh, self.seconds, self.bar = refresh, seconds, bar
        self._clock = Clock()
        self._shown = -math.inf  # the first step is shown, however short a time the machine has been up
        self._clips = 0  # of a step, on all processes
        self._total: int | None = None  # steps at the end of the run; None where only max_time, or nothing, ends it
        self._lines = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._lines = trainer.is_global_zero and not (sys.stdout.isatty() if self.bar is None else self.bar)
        if self._lines:
            self.disable()

    def init_train_tqdm(self) -> Tqdm:
        total = self._total
        share = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" if total else "{n_fmt}"
        return Tqdm(
            desc="Training",
            total=total,
            initial=self.trainer.global_step,
            disable=self.is_disabled,
            leave=True,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=f"{{desc}} {share} steps{{postfix}}",
        )

    def left(self) -> float | None:
        """Seconds left: until the last step at this start's average speed, or until max_time if that is sooner.

        None where it cannot be told: after the first step, or where nothing ends the run.
        """
        ends = []
        step, rate = self.trainer.global_step, self._clock.average
        if self._total is not None:
            if not rate:
                return None  # whether the steps or the clock come first is not known yet
            ends.append(max(self._total - step, 0) / rate)
        for timer in (c for c in self.trainer.callbacks if isinstance(c, Timer)):
            if (seconds := timer.time_remaining("train")) is not None:
                ends.append(max(seconds, 0.0))
        return min(ends, default=None)

    def text(self, module: LightningModule) -> str:
        """Loss, speed, time left."""
        losses = getattr(module, "last", {}).get("losses")
        parts = [] if losses is None else [f"loss {losses.mean().item():.4g}"]
        if speed := self._clock.speed:
            parts.append(f"{speed:.3g} steps/s")
            parts.append(f"{speed * self._clips:.3g} clips/s")
        if (left := self.left()) is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self._total = int(total) if 0 < total < float("inf") else None
        self.train_progress_bar = self.init_train_tqdm()
        self._clock = Clock(trainer.global_step)
        self._shown = -math.inf

    def on_train_epoch_start(self, *_: Any) -> None:
        """Nothing: the bar is the run's."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._clock.tick(trainer.global_step, now)
        if now - self._shown < (self.seconds if self._lines else self.refresh):
            return
        self._shown = now
        self._clips = len(batch[0]) * trainer.world_size * trainer.accumulate_grad_batches
        self._show(pl_module)

    def _show(self, module: LightningModule, more: str = "") -> None:
        step = self.trainer.global_step
        if self._lines:
            total = f"/{self._total}" if self._total else ""
            print(f"step {step}{total}: {self.text(module)}{more}", flush=True)
        elif not self.train_progress_bar.disable:
            self.train_progress_bar.n = step
            self.train_progress_bar.set_postfix_str(self.text(module) + more)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Nothing: the bar is the run's."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(pl_module)
        self.train_progress_bar.close()

    # Pauses

    def pause(self, clear: bool = False) -> None:
        """What comes now is no training: leave it out of the speed that is shown, not out of the time left.

        With `clear` the bars go from the terminal until their next update, so that another can be drawn there.
        """
        self._clock.pause()
        for bar in (self._train_progress_bar, self._val_progress_bar) if clear else ():
            if bar is not None and not bar.disable:
                bar.clear()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.val_progress_bar.close()
        self.reset_dataloader_idx_tracker()
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get("val/loss")
        self._show(pl_module, "" if value is None else f", val/loss {float(value):.4g}")


def say(trainer: Trainer, line: str) -> None:
    """Print a line on rank 0 without breaking the progress bar."""
    bar = trainer.progress_bar_callback
    if bar is not None and bar.is_enabled:
        bar.print(line)
    elif trainer.is_global_zero:
        print(line, flush=True)


class Clock:
    """Steps per second: over the last while without pauses, and on average over the run with them."""

    def __init__(self, step: int = 0):
        self.recent: deque[tuple[float, int]] = deque()
        self.first: tuple[float, int] | None = None
        self.now: tuple[float, int] = (time.monotonic(), step)
        self.held = 0.0

    def tick(self, step: int, now: float) -> None:
        self.now = now, step
        if self.first is None:
            self.first = self.now  # the first step pays for compiling and warming up
        self.recent.append(self.now)
        while now - self.recent[0][0] > MEMORY and len(self.recent) > 2:
            self.recent.popleft()

    def pause(self) -> None:
        """Forget the last while, but for its speed."""
        self.held = self.speed
        self.recent.clear()

    @property
    def speed(self) -> float:
        if len(self.recent) < 2 or self.recent[-1][1] == self.recent[0][1]:
            return self.held
        (t0, n0), (t1, n1) = self.recent[0], self.recent[-1]
        return (n1 - n0) / max(t1 - t0, 1e-9)

    @property
    def average(self) -> float:
        if self.first is None or self.now[1] == self.first[1]:
            return self.speed
        return (self.now[1] - self.first[1]) / max(self.now[0] - self.first[0], 1e-9)
