"""How weights are moved: an optimizer, and the learning rate over a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffwave_sde.machine import bfloat16_is_fast


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

    def follow(self, steps: float) -> None:
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


class MuonAdamW(Optimizer):
    r"""Convolutions by Muon, everything else by AdamW.

    Muon steps along the momentum of a matrix with all its singular values made nearly one, so that rare directions are
    learnt as fast as common ones: a U-Net of ours came to the same loss in 250 steps, with AdamW in 450
    (docs/results.md). A kernel (O, I, K) is taken as the matrix (O, I·K). One with more rows than columns, such as a
    head of many bands, is left to AdamW, by which it learns nearly as well: its singular values cost as much as those
    of all the others together. A step has the root mean square of one of AdamW's, so that one rate serves both.

        m ← µ m + (1 - µ) g,    W ← W - lr ratio (0.2 √(I·K) orth(µ m + (1 - µ) g) + λ W)

    Source: Jordan et al. 2024, "Muon", with its quintic iteration; the scale is that of Liu et al. 2025, eq. 4.

    Args:
        params: the parameters.
        lr: learning rate of AdamW.
        ratio: that of Muon, over `lr`.
        momentum: µ.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: λ, of both.
        iterations: of Newton and Schulz, for each matrix and step.

    Raises:
        ValueError: if an option is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 5e-4,
        ratio: float = 2.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        iterations: int = 5,
    ):
        if ratio <= 0 or not 0 <= momentum < 1 or iterations < 1:
            raise ValueError(
                f"ratio = {ratio:g} must be positive, momentum = {momentum:g} at least 0 and below 1, "
                f"iterations = {iterations} at least 1"
            )
        params = list(params)

        def wide(p: Tensor) -> bool:
            return p.ndim > 2 and p.shape[0] <= p[0].numel()

        kernels = [p for p in params if wide(p)]
        others = [p for p in params if not wide(p)] or [torch.nn.Parameter(torch.zeros(1))]
        self._adamw = AdamW(others, lr, tuple(betas), eps, weight_decay, fused=True)
        groups = self._adamw.param_groups
        if kernels:
            groups = [*groups, {"params": kernels, "lr": ratio * lr}]
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Lent anew: loading a state makes new groups and a new dictionary.
        self._adamw.param_groups, self._adamw.state = self.param_groups[:1], self.state
        self._adamw.step()
        for group in self.param_groups[1:]:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            ahead = narrowed(p.grad.lerp(momentum, group["momentum"]).flatten(1))  # before they are copied together
            alike.setdefault(tuple(ahead.shape), []).append((p, ahead))
        for shape, pairs in alike.items():
            steps = orthogonal(torch.stack([ahead for _, ahead in pairs]), group["iterations"])
            scale = 0.2 * shape[1] ** 0.5
            for (p, _), step in zip(pairs, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.view_as(p), alpha=-group["lr"] * scale)


def narrowed(matrices: Tensor) -> Tensor:
    """Numbers of the type in which they are multiplied fastest: bfloat16 or float32."""
    return matrices.to(torch.bfloat16 if bfloat16_is_fast(matrices.device) else torch.float32)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: (n, O, I), their singular values brought to between 0.7 and 1.2.

    Values below a few thousandths of a matrix's norm are left behind. In bfloat16 where that is fast.
    Source: Jordan et al. 2024, Newton and Schulz's iteration with (3.4445, -4.7750, 2.0315).
    """
    x = narrowed(matrices)
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # A single matrix as such: on CPUs a batch of one is multiplied at half the speed.
    x, add_product = (x[0], torch.addmm) if len(x) == 1 else (x, torch.baddbmm)
    for _ in range(iterations):
        square = x @ x.mT
        polynomial = add_product(square, square, square, beta=-4.7750, alpha=2.0315)
        x = add_product(x, polynomial, x, beta=3.4445)
    x = x.view(len(matrices), *x.shape[-2:])
    return (x.mT if tall else x).to(matrices.dtype)
