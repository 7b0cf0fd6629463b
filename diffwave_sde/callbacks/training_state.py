"""What an optimizer's step changes, kept so that the step can be taken back: weights, moments, and their average."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from diffwave_sde.callbacks.ema import EMA


class TrainingState:
    """A copy of weights, moments and average, which `restore` puts back in place.

    In place: DDP, CUDA graphs and a checkpoint that is being saved know the numbers by their address.

    Args:
        trainer: of one optimizer.
        module: what is trained.
        device: where the copy is kept; null for beside the original.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, device: str | None = None):
        self.device = device
        self._kept: list[Tensor] = []
        self.take(trainer, module)

    @torch.no_grad()
    def take(self, trainer: Trainer, module: LightningModule) -> None:
        """Copy what there is now, into the memory of the copy before where it fits."""
        self.step = trainer.global_step
        live, self._plain = _parts(trainer, module)
        self._counted = len(live)
        if [x.shape for x in live] != [x.shape for x in self._kept]:
            self._kept = [torch.empty_like(x, device=self.device or x.device) for x in live]
        torch._foreach_copy_(self._kept, live)

    def weights(self, module: LightningModule) -> dict[str, Tensor]:
        """The module's state with the parameters of the copy."""
        kept = {id(p): value for p, value in zip(module.parameters(), self._kept, strict=False)}
        return {name: kept.get(id(x), x) for name, x in module.state_dict(keep_vars=True).items()}

    @torch.no_grad()
    def restore(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the copy back; moments that there were none of are gone."""
        optimizer = trainer.optimizers[0]
        for parameter in list(optimizer.state):
            values = self._plain.get(parameter)
            if values is None:
                del optimizer.state[parameter]
            else:
                optimizer.state[parameter].update(values)
        live, _ = _parts(trainer, module)
        if len(live) != self._counted:
            raise RuntimeError("the optimizer has other moments than when its state was kept")
        torch._foreach_copy_(live, self._kept)


def _parts(trainer: Trainer, module: LightningModule) -> tuple[list[Tensor], dict[Tensor, dict[str, Any]]]:
    """All tensors that a step changes, in an order that stays, and what of the optimizer's state is none."""
    optimizer: Optimizer = trainer.optimizers[0]
    live = [p.detach() for p in module.parameters()]
    average = next((c for c in trainer.callbacks if isinstance(c, EMA) and c._average_model is not None), None)
    if average is not None:
        live += [p.detach() for p in average._average_model.module.parameters()]
        live.append(average._average_model.n_averaged)
    plain: dict[Tensor, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                continue
            state = optimizer.state[parameter]
            live += [x for x in state.values() if isinstance(x, Tensor)]
            plain[parameter] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
    return live, plain
