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
        super().__init__(optimizer, last_epoch)

    def set_total_steps(self, steps: float) -> None:
        """Take the trainer's number of steps for `total`, where none was given; infinite for no end."""
        if self.total is None and math.isfinite(steps):
            self.total = int(steps)

    def factor(self, step: int) -> float:
        """What the rate of a step, counted from 0, is multiplied by."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.total is None or not self.decay:
            return rise
        return rise * min(1.0, max(0.0, (self.total - step) / (self.decay * self.total)))

    def get_lr(self) -> list[float]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        # A training that goes on may be given another length than it had.
        return {k: v for k, v in super().state_dict().items() if k not in ("warmup", "decay", "total")}
