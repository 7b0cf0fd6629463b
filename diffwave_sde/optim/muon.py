"""Muon: an optimizer that steps by orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from diffwave_sde.machine import bfloat16_is_fast


class MuonAdamW(Optimizer):
    r"""Convolutions by Muon, everything else by AdamW.

    Muon steps along the momentum of a matrix with all its singular values made nearly one, so that rare directions are
    learned as fast as common ones: a U-Net of ours came to the same loss in 250 steps, with AdamW in 450
    (docs/notebook/optimizer.md). A kernel (O, I, K) is taken as the matrix (O, I·K). One with more rows than columns,
    such as a head of many bands, is left to AdamW, by which it learns nearly as well: its singular values cost as much
    as those of all the others together. A step has the root mean square of one of AdamW's, so that one rate serves
    both.

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
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        # All tensors in one call each: on a GPU the launches cost more than the sums.
        gradients, momenta = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(params):
            alike.setdefault((p.shape[0], p[0].numel()), []).append(i)
        for shape, places in alike.items():
            matrices = torch.stack([to_matmul_dtype(ahead[i].flatten(1)) for i in places])
            steps = newton_schulz(matrices, group["iterations"])
            some = [params[i] for i in places]
            steps = [step.view_as(p) for step, p in zip(steps, some, strict=True)]
            torch._foreach_add_(some, steps, alpha=-group["lr"] * 0.2 * shape[1] ** 0.5)


def to_matmul_dtype(matrices: Tensor) -> Tensor:
    """Numbers of the type in which they are multiplied fastest: bfloat16 or float32."""
    return matrices.to(torch.bfloat16 if bfloat16_is_fast(matrices.device) else torch.float32)


def newton_schulz(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: (n, O, I), their singular values brought to between 0.7 and 1.2.

    Values below a few thousandths of a matrix's norm are left behind. In bfloat16 where that is fast.
    Source: Jordan et al. 2024, Newton and Schulz's iteration with (3.4445, -4.7750, 2.0315).
    """
    x = to_matmul_dtype(matrices)
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
