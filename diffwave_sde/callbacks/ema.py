r"""An exponential moving average of the weights, which makes better sounds than the weights themselves.

    w̄ ← d_k w̄ + (1 - d_k) w,    d_k = min(decay, (1 + k) / (10 + k)),    k = updates so far

The warm-up of the decay forgets the weights of the first steps: at k = 0 only a tenth of them is kept. Source: Polyak
and Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.

In a checkpoint, `state_dict` holds the averaged weights, which a model is heard with; `current_model_state` the raw
ones, which training goes on from; `averaging_state` the counter k.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Average the weights; validate, listen and finish with the average.

    It is updated by the optimizer's own step, on every rank: once per step however many batches were accumulated, and
    not at all where a step was skipped, by a spike or by the loss scaler. Buffers are copied, not averaged. While the
    model holds the average its raw weights are set aside, and what is saved meanwhile is right; an error or Ctrl-C puts
    them back. After `fit` the model holds the average.

    Args:
        decay: share of the average that a step keeps, 0 to 1; 0.999 averages over the last 1000 steps or so.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay:g} of the average must be at least 0 and below 1")
        super().__init__(use_buffers=False)
        self.decay = decay
        self._raw: list[Tensor] | None = None
        """The raw weights, while the model holds the averaged ones."""
        self._of: LightningModule | None = None
        self._hook: Any = None

    @property
    def updates(self) -> int:
        """k, the updates so far."""
        return 0 if self._average_model is None else int(self._average_model.n_averaged)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hook": None}

    @contextmanager
    def averaged(self, module: LightningModule) -> Iterator[None]:
        """Within it `module` holds the averaged weights. May be nested; outside of `fit` it changes nothing."""
        if self._average_model is None or self._raw is not None:
            yield
            return
        self._set_aside(module)
        try:
            yield
        finally:
            self._put_back(module)

    def _set_aside(self, module: LightningModule) -> None:
        # The copy is complete before the first weight changes, and putting back may be done twice: wherever an
        # interrupt strikes, the raw weights can be had again. Values are copied, not pointers swapped: DDP and CUDA
        # graphs know the weights by their address.
        self._raw = [p.detach().clone() for p in module.parameters()]
        self._copy_average_to_current(module)

    def _put_back(self, module: LightningModule) -> None:
        if self._raw is not None:
            for p, raw in zip(module.parameters(), self._raw, strict=True):
                p.data.copy_(raw)
            self._raw = None

    @torch.no_grad()
    def _step(self, optimizer: Optimizer, *_: Any) -> None:
        if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
            return  # a skipped step: nothing moved
        k = self.updates
        average = [p.detach() for p in self._average_model.module.parameters()]
        current = [p.detach() for p in self._of.parameters()]
        get_ema_multi_avg_fn(min(self.decay, (1 + k) / (10 + k)))(average, current, k)
        self._copy_buffers()
        self._average_model.n_averaged += 1

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        for average, current in zip(self._average_model.module.buffers(), self._of.buffers(), strict=True):
            average.copy_(current)

    # Life

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self._average_model is None or self._of is not pl_module:
            super().setup(trainer, pl_module, stage)
            # On the CPU, so that reading the counter never waits for the GPU.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
            self._raw = None
        self._of = pl_module
        self._put_back(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After every `setup`: what was measured on the data, and under DDP the weights of rank 0.
        self._average_model.module.to(pl_module.device)
        self._copy_buffers()
        if not self.updates:
            for average, p in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
                average.data.copy_(p.data)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"EMA follows one optimizer, and the model has {len(trainer.optimizers)}")
        self._release()
        self._hook = trainer.optimizers[0].register_step_post_hook(self._step)

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: the average has moved with the optimizer."""

    def on_train_epoch_end(self, *_: Any) -> None:
        """Nothing: the average has moved with the optimizer."""

    def on_train_end(self, *_: Any) -> None:
        """Nothing yet: the last checkpoint is still to be saved, with the raw weights in it."""
        self._release()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set_aside(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Before any checkpoint callback, which Lightning calls last.
        self._release()
        self._put_back(pl_module)

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._set_aside(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._put_back(pl_module)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the average and its counter come with the weights."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._raw is not None:
            raw = dict(zip(map(id, pl_module.parameters()), self._raw, strict=True))
            shared = pl_module.named_parameters(remove_duplicate=False)
            checkpoint["current_model_state"] |= {name: raw[id(p)] for name, p in shared}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Outside of `fit` the model is to have the averaged weights, and `state_dict` has just given it those.
        if trainer.state.fn != "fit":
            return
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        else:
            self._average_model.n_averaged.zero_()  # `on_fit_start` begins with the weights that were loaded


def averaged(trainer: Trainer, module: LightningModule):
    """A context in which `module` holds its averaged weights, where `trainer` has an EMA."""
    found = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)
    return nullcontext() if found is None else found.averaged(module)
