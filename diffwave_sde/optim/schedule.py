"""The learning rate over a training."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupDecay(LRScheduler):
    """Up to the whole rate, on at the whole rate, and down to nothing at the end: all linear in the steps.

    What a training gains from a falling rate it gains in the fall, so the rate can stay up for as long as the length
    of the training is open. Source: Hägele et al. 2024 ("warm-up, constant, cooldown").

    A training that goes on with a larger `total` after its rate had begun to fall does not leap back: over `warmup`
    steps the rate moves from r, the one that it had reached at step s, to that of the longer schedule,

        rate(k) ← r + (rate(k) - r) min(1, (k - s) / warmup),    k ≥ s

    and a training that goes on with the same `total` keeps the rates that it would have had.

    Args:
        optimizer: the optimizer.
        warmup: steps over which the rate rises.
        decay: share of all steps, the last ones, over which it falls; 0 for none.
        total: all steps; null for as many as the trainer will take. Where that has no end, the rate stays up.
        last_epoch: steps taken so far; -1 for a new training.

    Raises:
        ValueError: if `warmup` or `total` is negative, or `decay` no share.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int = 200,
        decay: float = 0.4,
        total: int | None = None,
        last_epoch: int = -1,
    ):
        if warmup < 0:
            raise ValueError(f"warmup = {warmup} is a number of steps: choose 0 or more")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay = {decay:g} is a share of all steps: choose it between 0 and 1")
        if total is not None and total < 1:
            raise ValueError(f"total = {total}: choose at least one step, or null for those of the trainer")
        self.warmup, self.decay, self.total = warmup, decay, total
        self.resumed_step, self.resumed_factor = 0, 1.0
        """The step s at which a longer training went on, and what the rate was multiplied by there; 1 if none did."""
        self.notice: str | None = None
        """What the state that was loaded last does to the rate, in one line; None where the rate goes on as it was."""
        super().__init__(optimizer, last_epoch)

    def set_total_steps(self, steps: float) -> None:
        """Take the trainer's number of steps for `total`, where none was given; infinite for no end."""
        if self.total is None and math.isfinite(steps):
            self.total = int(steps)

    def factor(self, step: int) -> float:
        """What the rate of a step, counted from 0, is multiplied by."""
        factor = min(1.0, (step + 1) / (self.warmup + 1))
        if self.total is not None and self.decay:
            factor *= min(1.0, max(0.0, (self.total - step) / (self.decay * self.total)))
        share = (step - self.resumed_step) / max(1, self.warmup)
        if self.resumed_factor < factor and share < 1:
            factor = self.resumed_factor + (factor - self.resumed_factor) * share
        return factor

    def get_lr(self) -> list[float]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        # A training that goes on may be given another length than it had.
        return {k: v for k, v in super().state_dict().items() if k not in ("warmup", "decay", "total", "notice")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.notice = None
        base, rate = self.base_lrs[0], self.get_last_lr()[0]
        if not rate < base * self.factor(self.last_epoch) * (1 - 1e-9):
            return
        self.resumed_step, self.resumed_factor = self.last_epoch, rate / base
        end = self.last_epoch + max(1, self.warmup)
        self.notice = (
            f"the learning rate had fallen to {rate:.3g} by step {self.last_epoch}; in the longer training it rises "
            f"again, to {base * self.factor(end):.3g} at step {end}"
        )
