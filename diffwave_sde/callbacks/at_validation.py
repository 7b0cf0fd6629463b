"""A figure that is taken at some of a training's validations."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer


class AtValidation(Callback, ABC):
    """Takes its figure at every `every`-th validation of a training, from the first on, over stops too."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._validations = 0

    @abstractmethod
    def measure(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the figure and log it. All ranks call it."""

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        if (self._validations - 1) % self.every == 0:
            self.measure(trainer, pl_module)
