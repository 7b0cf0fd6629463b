r"""Loss and gradient spikes: found, kept so that they can be replayed, and kept from the weights.

A step is a spike when its log loss or log gradient norm stands out from those of the last `window` steps,

    log x - median > threshold · 1.4826 · MAD

or when either is not finite: such a step never reaches weights, moments or average. Median and median absolute
deviation in the log domain know nothing of the loss's own scale, and single outliers do not move them. A new level
that stays is learned within half a window.
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
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from diffwave_sde.atomic import atomic_write
from diffwave_sde.bounds import positive
from diffwave_sde.callbacks import spike_state
from diffwave_sde.callbacks.progress import say
from diffwave_sde.callbacks.training_state import TrainingState
from diffwave_sde.checkpoint_io import all_finite
from diffwave_sde.tolerance import Tolerance
from diffwave_sde.training import is_log_step

MEASURES = ("loss", "grad_norm")
FLOOR = 0.02  # nepers: a run of nearly equal losses has a MAD of 0, and 2 % is no spike
SEARCH = 40  # steps in a row that a loss scaler may halve its scale: from 2^16 to where no gradient overflows by it
TAKEN = "taken"  # clips, condition and draw of a batch
ALERT_INTERVAL = 60.0  # s between two alerts: a run that diverges says so once


class Diverged(RuntimeError):
    """Training has left all that is finite, and going back did not help."""


class SpikeDetector(Callback):
    """Watch the loss and the gradient's norm (before clipping), and keep what made them jump.

    Each spike writes `spikes/step=N.pt` into the run's folder; N counts the optimizer steps that the weights which met
    it had taken. `torch.load(path, weights_only=True)` gives

        step, loss, grad_norm    of the whole global batch
        reasons                  what stood out, and by how much
        skipped, world, parts    whether the step was left out; number of processes, and of batches accumulated
        usual                    median and limit of the loss and of the gradient's norm before it, where known
        batches                  a record of each process and accumulated batch: rank, counter (of the batch),
                                 index (rows of the store), names (files), losses and sigma (noise levels)

    and `module.replay(batch of those rows, counter, rank, world, parts)` draws what it drew. Of `states` spikes the
    weights, clips and draws themselves are in `spikes/state/step=N.pt`, for `diffwave-sde replay`. `train/grad_norm`
    and the number of spikes so far, `train/spikes`, are logged every `log_every_n_steps`, and at a spike `spikes/loss`
    and `spikes/grad_norm`.

    **A step whose loss or gradient is not finite** is left out: weights, moments and average stay as they are. On a GPU
    its two numbers are read one step late, so that nothing waits; the state of before is put back then, and the step
    that had begun from it is left out too. After `patience` such steps in a row, or where the weights themselves are
    not finite, weights, moments and average go back to those of the last checkpoint (at first those of the start), or
    of the one before where that has not helped, and the learning rate is multiplied by `cut`. After `retries` of these
    the run gives up with an error. All ranks see the same numbers, and do the same.

    Args:
        threshold: how far from the median a spike is, in robust standard deviations of the logarithm.
        window: steps that the median and the deviation are taken over.
        warmup: steps before anything finite can be a spike; at most `window`.
        skip: whether the optimizer leaves out a finite step that spikes too: weights, moments and average stay as they
            are, the learning rate's schedule and the count of steps go on. It reads the loss at every step, which on a
            GPU costs the time of waiting for it.
        keep: records kept, the newest.
        patience: steps in a row without a finite loss or gradient that the run goes back for; 0 for never.
        retries: times that it goes back before it gives up.
        cut: what the learning rate is multiplied by each time, above 0, at most 1.
        states: records whose weights, clips and draws are kept, to replay them: the newest, and of spikes in a row the
            first; 0 for none. Each takes the room of the weights and twice that of a global batch.
        folder: the run's folder; null for the trainer's default_root_dir.
    """

    def __init__(
        self,
        threshold: float = 8.0,
        window: int = 200,
        warmup: int = 50,
        skip: bool = False,
        keep: int = 20,
        patience: int = 10,
        folder: str | None = None,
        retries: int = 3,
        cut: float = 0.5,
        states: int = 4,
    ):
        positive(threshold=threshold)
        if not 0 < cut <= 1:
            raise ValueError(f"cut = {cut:g} multiplies the learning rate: choose it above 0, at most 1")
        if retries < 0:
            raise ValueError(f"retries = {retries} times that training goes back must be at least 0")
        if not 2 <= warmup <= window:
            raise ValueError(f"warmup = {warmup} steps must lie between 2 and the window of {window}")
        if keep < 1 or patience < 0 or states < 0:
            raise ValueError(
                f"keep = {keep} records must be at least 1, and patience = {patience} steps and states = {states} "
                "at least 0"
            )
        self.threshold, self.warmup, self.skip = threshold, warmup, skip
        self.keep, self.patience, self.folder = keep, patience, folder
        self.retries, self.cut, self.states = retries, cut, states
        self.history = {name: deque(maxlen=window) for name in MEASURES}
        """Logarithms of the last values, by name."""
        self.usual: dict[str, dict[str, float]] = {}
        """Median and limit of each before the last step, by name."""
        self.count = 0
        """Spikes so far."""
        self.returns = 0
        """Times that training has gone back so far."""
        self._broken = 0  # steps in a row that were not finite
        self._searched = 0  # steps in a row that the loss scaler has left out
        self._finite = 0  # steps since the start that were finite
        self._before: TrainingState | None = None  # of the step that is not judged yet
        self._good: deque[TrainingState] = deque(maxlen=2)  # of the last checkpoints, in the host's memory
        self._parts: list[dict[str, Any]] = []  # of this step, one for each accumulated batch
        self._tolerance = Tolerance()
        self._pending: tuple[_Reading, int, list[dict[str, Any]]] | None = None

    # Detection

    def detect(self, values: Sequence[float]) -> dict[str, float]:
        """What stands out of (loss, gradient norm), and by how many deviations; and learn from it."""
        reasons = {}
        self.usual = {}
        for (name, past), value in zip(self.history.items(), values, strict=True):
            known = len(past) >= self.warmup
            if known:
                median = statistics.median(past)
                deviation = max(1.4826 * statistics.median(abs(p - median) for p in past), FLOOR)
                limit = min(median + self.threshold * deviation, 700.0)  # whose exponential a float holds
                self.usual[name] = {"median": math.exp(median), "limit": math.exp(limit)}
            if not math.isfinite(value):
                reasons[name] = math.inf
                continue
            level = math.log(max(value, 1e-30))
            if known and (score := (level - median) / deviation) > self.threshold:
                reasons[name] = score
            past.append(level)
        return reasons

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        part = {"rank": trainer.global_rank, "counter": pl_module.batches - 1, **pl_module.last}
        self._parts.append(part | {TAKEN: pl_module.taken if self.states else None})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        parts, self._parts = self._parts, []
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).float()
        loss = torch.stack([part["losses"].float().mean() for part in parts]).mean()
        # Reduced, so that every rank sees the same numbers and comes to the same decision.
        values = trainer.strategy.reduce(torch.stack([loss, norm]), reduce_op="mean")
        if is_log_step(trainer):
            pl_module.log_dict({"train/grad_norm": norm, "train/spikes": float(self.count)})
        if self.skip or not self._late(values):
            if self._examine(trainer, pl_module, values.tolist(), trainer.global_step, parts):
                self._drop(optimizer)
        elif self._settle(trainer, pl_module):
            self._drop(optimizer)  # a gradient at weights that are gone
        else:
            # The GPU has a whole step queued behind the values of the last one: they are there by now.
            if self._before is None:
                self._before = TrainingState(trainer, pl_module)
            else:
                self._before.take(trainer, pl_module)
            self._pending = _Reading(values), trainer.global_step, parts

    @staticmethod
    def _late(values: Tensor) -> bool:
        """Whether reading the numbers would wait for what is queued."""
        return values.is_cuda

    @staticmethod
    def _drop(optimizer: Optimizer) -> None:
        # An optimizer passes over parameters without a gradient, moments and decay and all; and so do the loss scaler,
        # which has looked for infinities already, and the average of the weights.
        optimizer.zero_grad(set_to_none=True)

    def _settle(self, trainer: Trainer, module: LightningModule) -> bool:
        """Judge the step that is still open; whether it has been taken back."""
        if self._pending is None:
            return False
        (reading, step, parts), self._pending = self._pending, None
        values = reading.tolist()
        broken = not all(map(math.isfinite, values)) and not self._is_search(trainer, values)
        if broken:
            self._before.restore(trainer, module)
        self._examine(trainer, module, values, step, parts)
        return broken

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._good.clear()
        self._before, self._pending, self._finite = None, None, 0
        self._keep(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._settle(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # In place, so that what the checkpoint has of the weights already is put right too.
        self._settle(trainer, pl_module)
        if trainer.training and not self._broken and (not self._good or self._good[-1].step != trainer.global_step):
            self._keep(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._settle(trainer, pl_module)
        if self._broken > 1 or (self._broken and not self._finite):
            why = f"its last {self._broken} steps were not finite"
        elif not all_finite(pl_module.parameters()):
            why = "its weights are not finite"
        else:
            return
        raise Diverged(f"training has diverged: {why}. {self._remedy(trainer)}")

    def _keep(self, trainer: Trainer, module: LightningModule) -> None:
        if self.patience and self.retries and len(trainer.optimizers) == 1 and all_finite(module.parameters()):
            self._good.append(TrainingState(trainer, module, device="cpu"))

    def _is_search(self, trainer: Trainer, values: list[float]) -> bool:
        """Whether the loss scaler's search for its scale has left the step out by itself."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return bool(scaler) and math.isfinite(values[0]) and self._searched < SEARCH

    def _examine(self, trainer: Trainer, module: LightningModule, values: list[float], step: int, parts: list) -> bool:
        """Judge a step; whether it is to be left out."""
        broken = not all(map(math.isfinite, values))
        if broken and self._is_search(trainer, values):
            self._searched += 1
            return False
        self._searched = self._searched if broken else 0
        reasons = self.detect(values)
        self._broken = self._broken + 1 if broken else 0
        self._finite += not broken
        skipped = broken or (self.skip and bool(reasons))
        if reasons:
            self.count += 1
            self._record(trainer, module, values, step, parts, reasons, skipped)
        if broken and self.patience and (self._broken >= self.patience or not all_finite(module.parameters())):
            self._go_back(trainer, module, values)
        return skipped

    def _go_back(self, trainer: Trainer, module: LightningModule, values: list[float]) -> None:
        """Put the last good state back at a lower learning rate, or give up."""
        if self.returns >= self.retries or not self._good:
            loss, norm = values
            after = f", after going back {self.returns} times" if self.returns else ""
            raise Diverged(
                f"{self._broken} steps in a row without a finite loss and gradient (now {loss:g} and {norm:g}){after}: "
                f"training has diverged. {self._remedy(trainer)}"
            )
        state = self._good[-1]
        if len(self._good) > 1:
            self._good.pop()  # where it fails again before another checkpoint, the one before is next
        state.restore(trainer, module)
        for group in trainer.optimizers[0].param_groups:
            for key in ("lr", "initial_lr"):
                if key in group:
                    group[key] = group[key] * self.cut
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [rate * self.cut for rate in config.scheduler.base_lrs]
        self.returns += 1
        rank_zero_warn(
            f"step {trainer.global_step}: {self._broken} steps in a row were not finite; back to the weights of step "
            f"{state.step} at {self.cut:g} times the learning rate ({self.returns} of {self.retries})"
        )
        self._broken = 0

    def _remedy(self, trainer: Trainer) -> str:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        return (
            f"Start anew, or go on from an earlier checkpoint, with a lower learning rate than {rate:.3g}; what broke "
            f"it is in {self._home(trainer)}"
        )

    # Records

    def _home(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir) / "spikes"

    def _record(
        self,
        trainer: Trainer,
        module: LightningModule,
        values: list[float],
        step: int,
        parts: list,
        reasons: dict,
        skipped: bool,
    ) -> None:
        batches = [{k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in part.items()} for part in parts]
        inputs = spike_state.plain([(part["rank"], part["counter"], part.pop(TAKEN)) for part in batches])
        if trainer.world_size > 1:
            gathered: list = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (batches, inputs))
            batches = [batch for theirs, _ in gathered for batch in theirs]
            inputs = [one for _, theirs in gathered for one in theirs]
        if not trainer.is_global_zero:
            return
        path = self._home(trainer) / f"step={step}.pt"
        text = f"step {step}: {described(reasons)} (loss {values[0]:.4g}, gradient norm {values[1]:.4g})"
        with self._tolerance.of("naming the clips of a spike"):
            name_rows(batches, getattr(trainer, "datamodule", None))
        record = {
            "step": step, "loss": values[0], "grad_norm": values[1], "reasons": reasons, "skipped": skipped,
            "world": trainer.world_size, "parts": trainer.accumulate_grad_batches, "usual": self.usual,
            "batches": batches,
        }  # fmt: skip
        with self._tolerance.of("the record of a spike"):
            with atomic_write(path) as temporary:
                torch.save(record, temporary)
            text += f"; kept in {path}"
            if inputs and self.states:
                # The weights that met it: the module's, or where these have gone on the copy of before.
                late = self._before if self._before is not None and self._before.step == step else None
                spike_state.write(path.parent, step, module, inputs, late)
            spike_state.prune(path.parent, self.keep, self.states)
        say(trainer, text + ("; step skipped" if skipped else ""))
        with self._tolerance.of("the alert of a spike"):
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
        return {"history": history, "count": self.count, "broken": self._broken, "returns": self.returns}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, past in self.history.items():
            past.clear()
            past.extend(state_dict["history"][name])
        self.count, self._broken = state_dict["count"], state_dict["broken"]
        self.returns = state_dict.get("returns", 0)  # an earlier version did not go back


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
