r"""Loss and gradient spikes: found, kept so that they can be replayed, and skipped if asked.

A step is a spike when its log loss or log gradient norm stands out from those of the last `window` steps,

    log x - median > threshold · 1.4826 · MAD

or when either is not finite. Median and median absolute deviation in the log domain know nothing of the loss's own
scale, and single outliers do not move them. A new level that stays is learned within half a window.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from diffwave_sde.atomic import atomic_write
from diffwave_sde.bounds import positive
from diffwave_sde.callbacks.progress import say
from diffwave_sde.training import is_log_step

MEASURES = ("loss", "grad_norm")
FLOOR = 0.02  # nepers: a run of nearly equal losses has a MAD of 0, and 2 % is no spike
ALERT_INTERVAL = 60.0  # s between two alerts: a run that diverges says so once


class SpikeDetector(Callback):
    """Watch the loss and the gradient's norm (before clipping), and keep what made them jump.

    Each spike writes `spikes/step=N.pt` into the run's folder; N counts the optimizer steps that the weights which met
    it had taken. `torch.load(path, weights_only=True)` gives

        step, loss, grad_norm    of the whole global batch
        reasons                  what stood out, and by how much
        skipped, world, parts    whether the step was left out; number of processes, and of batches accumulated
        batches                  a record of each process and accumulated batch: rank, counter (of the batch),
                                 index (rows of the store), names (files), losses and sigma (noise levels)

    and `module.replay(batch of those rows, counter, rank, world, parts)` draws what it drew. `train/grad_norm` and the
    number of spikes so far, `train/spikes`, are logged every `log_every_n_steps`, and at a spike `spikes/loss` and
    `spikes/grad_norm`.

    Args:
        threshold: how far from the median a spike is, in robust standard deviations of the logarithm.
        window: steps that the median and the deviation are taken over.
        warmup: steps before anything finite can be a spike; at most `window`.
        skip: whether the optimizer leaves out a step that spikes: weights, moments and average stay as they are, the
            learning rate's schedule and the count of steps go on. It reads the loss at every step, which on a GPU costs
            the time of waiting for it; without it the values are looked at one step late and nothing waits.
        keep: records kept, the newest.
        patience: steps in a row without a finite loss or gradient that stop the run with an error; 0 for never.
        folder: the run's folder; null for the trainer's default_root_dir.
    """

    def __init__(
        self,
        threshold: float = 8.0,
        window: int = 200,
        warmup: int = 50,
        skip: bool = False,
        keep: int = 20,
        patience: int = 100,
        folder: str | None = None,
    ):
        positive(threshold=threshold)
        if not 2 <= warmup <= window:
            raise ValueError(f"warmup = {warmup} steps must lie between 2 and the window of {window}")
        if keep < 1 or patience < 0:
            raise ValueError(f"keep = {keep} records must be at least 1, and patience = {patience} steps at least 0")
        self.threshold, self.warmup, self.skip = threshold, warmup, skip
        self.keep, self.patience, self.folder = keep, patience, folder
        self.history = {name: deque(maxlen=window) for name in MEASURES}
        """Logarithms of the last values, by name."""
        self.count = 0
        """Spikes so far."""
        self._broken = 0  # steps in a row that were not finite
        self._parts: list[dict[str, Any]] = []  # of this step, one for each accumulated batch
        self._pending: tuple[_Reading, int, list[dict[str, Any]]] | None = None

    # Detection

    def detect(self, values: Sequence[float]) -> dict[str, float]:
        """What stands out of (loss, gradient norm), and by how many deviations; and learn from it."""
        reasons = {}
        for (name, past), value in zip(self.history.items(), values, strict=True):
            if not math.isfinite(value):
                reasons[name] = math.inf
                continue
            level = math.log(max(value, 1e-30))
            if len(past) >= self.warmup:
                median = statistics.median(past)
                deviation = 1.4826 * statistics.median(abs(p - median) for p in past)
                score = (level - median) / max(deviation, FLOOR)
                if score > self.threshold:
                    reasons[name] = score
            past.append(level)
        return reasons

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts.append({"rank": trainer.global_rank, "counter": pl_module.batches - 1, **pl_module.last})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        parts, self._parts = self._parts, []
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).float()
        loss = torch.stack([part["losses"].float().mean() for part in parts]).mean()
        # Reduced, so that every rank sees the same numbers and comes to the same decision.
        values = trainer.strategy.reduce(torch.stack([loss, norm]), reduce_op="mean")
        if is_log_step(trainer):
            pl_module.log_dict({"train/grad_norm": norm, "train/spikes": float(self.count)})
        if self.skip or not values.is_cuda:
            if self._examine(trainer, pl_module, values.tolist(), trainer.global_step, parts) and self.skip:
                # An optimizer passes over parameters without a gradient, moments and decay and all; and so do the loss
                # scaler, which has looked for infinities already, and the average of the weights.
                optimizer.zero_grad(set_to_none=True)
        else:
            # The GPU has a whole step queued behind the values of the last one: they are there by now.
            self._flush(trainer, pl_module)
            self._pending = _Reading(values), trainer.global_step, parts

    def _flush(self, trainer: Trainer, module: LightningModule) -> None:
        if self._pending is not None:
            (reading, step, parts), self._pending = self._pending, None
            self._examine(trainer, module, reading.tolist(), step, parts)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer, pl_module)

    def _examine(self, trainer: Trainer, module: LightningModule, values: list[float], step: int, parts: list) -> bool:
        loss, norm = values
        if math.isfinite(loss) and not math.isfinite(norm) and getattr(trainer.precision_plugin, "scaler", None):
            return False  # the loss scaler's search for its scale: it leaves the step out by itself
        reasons = self.detect(values)
        self._broken = self._broken + 1 if math.inf in reasons.values() else 0
        if reasons:
            self.count += 1
            self._record(trainer, values, step, parts, reasons)
        if self.patience and self._broken >= self.patience:
            raise RuntimeError(
                f"{self._broken} steps in a row without a finite loss and gradient (now {loss:g} and {norm:g}): "
                "training has diverged. Go on from an earlier checkpoint with a lower learning rate; "
                f"see {self._home(trainer)}"
            )
        return bool(reasons)

    # Records

    def _home(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir) / "spikes"

    def _record(self, trainer: Trainer, values: list[float], step: int, parts: list, reasons: dict) -> None:
        batches = [{k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in part.items()} for part in parts]
        if trainer.world_size > 1:
            gathered: list = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, batches)
            batches = [batch for rank in gathered for batch in rank]
        if not trainer.is_global_zero:
            return
        name_rows(batches, getattr(trainer, "datamodule", None))
        record = {
            "step": step, "loss": values[0], "grad_norm": values[1], "reasons": reasons, "skipped": self.skip,
            "world": trainer.world_size, "parts": trainer.accumulate_grad_batches, "batches": batches,
        }  # fmt: skip
        home = self._home(trainer)
        path = home / f"step={step}.pt"
        with atomic_write(path) as temporary:
            torch.save(record, temporary)
        records = sorted(home.glob("step=*.pt"), key=lambda p: int(p.stem.partition("=")[2]))
        for old in records[: -self.keep]:
            old.unlink(missing_ok=True)
        what = described(reasons)
        text = f"step {step}: {what} (loss {values[0]:.4g}, gradient norm {values[1]:.4g}); kept in {path}"
        say(trainer, text + ("; step skipped" if self.skip else ""))
        for logger in trainer.loggers:
            logger.log_metrics({"spikes/loss": values[0], "spikes/grad_norm": values[1]}, step)
            alert = getattr(getattr(logger, "experiment", None), "alert", None)
            if alert is not None:
                alert(title=f"Spike at step {step}", text=text, level="WARN", wait_duration=ALERT_INTERVAL)

    def state_dict(self) -> dict[str, Any]:
        history = {name: list(past) for name, past in self.history.items()}
        if self._pending is not None:
            # Not judged yet, but the run that goes on from here is to remember it.
            for past, value in zip(history.values(), self._pending[0].tolist(), strict=True):
                past += [math.log(max(value, 1e-30))] if math.isfinite(value) else []
        return {"history": history, "count": self.count, "broken": self._broken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, past in self.history.items():
            past.clear()
            past.extend(state_dict["history"][name])
        self.count, self._broken = state_dict["count"], state_dict["broken"]


def described(reasons: dict[str, float]) -> str:
    """What stood out, and by how much."""
    words = (
        f"{name} {'not finite' if math.isinf(score) else f'{score:.1f} deviations up'}"
        for name, score in reasons.items()
    )
    return " and ".join(words)


class _Reading:
    """A few numbers on their way from the GPU: reading them waits for their own step, not for what is queued behind."""

    def __init__(self, values: Tensor):
        self.host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self.host.copy_(values, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def tolist(self) -> list[float]:
        self.event.synchronize()
        return self.host.tolist()


def name_rows(batches: list[dict[str, Any]], data: Any) -> None:
    """Write the files' names of the rows `index` of each batch beside them, where the store has a manifest."""
    manifest = getattr(getattr(data, "store", None), "manifest", None)
    if manifest is None:
        return
    wanted = {row for batch in batches for row in batch["index"].tolist()}
    lines = islice(manifest(), max(wanted) + 1)  # the rows come first, and in their order
    names = {int(line["row"]): line["file"] for line in lines if line["row"] and int(line["row"]) in wanted}
    for batch in batches:
        batch["names"] = [names.get(row, "") for row in batch["index"].tolist()]
