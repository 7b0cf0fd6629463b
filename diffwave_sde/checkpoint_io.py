"""Checkpoints on disk during training: whole or not at all, finite or not at all, and tried again where a disk fails.

A checkpoint that cannot be written is no reason to lose the steps after it: training goes on, a line says so once, and
`failure` tells the callbacks that keep checkpoints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from diffwave_sde.atomic import atomic_write

PAUSES = (0.0, 0.2, 1.0)  # s before each try: a network drive is often back at once


class FiniteCheckpointIO(TorchCheckpointIO):
    """Lightning's way to the disk, with a check of the numbers.

    Args:
        parameters: names of the weights, which are to be finite; buffers may hold an infinity, such as a mask's.
    """

    def __init__(self, parameters: Iterable[str]):
        super().__init__()
        self.parameters = frozenset(parameters)
        self.failure: str | None = None
        """Why the last checkpoint was not written; None where it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        said, self.failure = self.failure, None
        name = not_finite(checkpoint, self.parameters)
        if name:
            self.failure = f"{name} holds a number that is not finite"
        else:
            self.failure = self._write(checkpoint, path, storage_options)
        if self.failure and self.failure != said:
            rank_zero_warn(f"checkpoint {path} is not written: {self.failure}; training goes on, and tries again later")

    def _write(self, checkpoint: dict[str, Any], path: Any, storage_options: Any) -> str | None:
        for pause in PAUSES:
            time.sleep(pause)
            try:
                if "://" in str(path):
                    super().save_checkpoint(checkpoint, path, storage_options)
                    return None
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())  # a machine that loses power keeps the checkpoint that it had
                return None
            except (OSError, RuntimeError) as error:  # torch's own writer calls a full disk a RuntimeError
                cause = error.__context__ if isinstance(error.__context__, OSError) else error
                why = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]
        return why

    def remove_checkpoint(self, path: Any) -> None:
        # Where the one that was to take its place was not written, the older one is all there is.
        if self.failure:
            return
        try:
            super().remove_checkpoint(path)
        except OSError as error:
            rank_zero_warn(f"checkpoint {path} cannot be removed ({error.strerror}); training goes on")

    def load_checkpoint(self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: Any = None):
        # Never code out of a pickle: all that a checkpoint of this program holds are tensors and plain types.
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def not_finite(checkpoint: dict[str, Any], parameters: Iterable[str]) -> str | None:
    """The first weight, average or moment of a checkpoint that is not finite; None where all are."""
    known = set(parameters)
    found: dict[str, Tensor] = {}
    for part in ("state_dict", "current_model_state"):
        found |= {f"{part}.{k}": v for k, v in checkpoint.get(part, {}).items() if k in known}
    for i, optimizer in enumerate(checkpoint.get("optimizer_states", [])):
        for number, state in optimizer.get("state", {}).items():
            found |= {f"optimizer {i}, {key} of weight {number}": v for key, v in state.items()}
    floats = {k: v for k, v in found.items() if isinstance(v, Tensor) and v.is_floating_point()}
    fine = all_finite(floats.values())
    return None if fine else next(k for k, v in floats.items() if not v.isfinite().all())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite; on a GPU it is waited for once."""
    # A sum is finite where its terms are, unless it overflows: only then is each number looked at.
    by_device: dict[Any, list[Tensor]] = {}
    for x in tensors:
        by_device.setdefault(x.device, []).append(x.detach().sum(dtype=torch.float64))
    return all(bool(torch.stack(sums).isfinite().all()) for sums in by_device.values())


def protect(trainer: Trainer, module: LightningModule) -> None:
    """Let a trainer that writes plain checkpoints write them through a FiniteCheckpointIO."""
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = FiniteCheckpointIO(names)


def failure(trainer: Trainer) -> str | None:
    """Why the last checkpoint was not written, as the process that writes it knows."""
    return getattr(trainer.strategy.checkpoint_io, "failure", None)
