"""A figure that is taken at some of a training's validations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from diffwave_sde.tolerance import Tolerance


class AtValidation(Callback, ABC):
    """Takes its figure at every `every`-th validation of a training, from the first on, over stops too.

    Where that fails its figures are NaN, and training goes on.

    Args:
        every: validations from one to the next.
        figures: their names.
    """

    def __init__(self, every: int, figures: Sequence[str]) -> None:
        self.every, self.figures = every, figures
        self._tolerance = Tolerance()
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
            taken = False
            with self._tolerance.of(f"the measurement of {', '.join(self.figures)}"):
                self.measure(trainer, pl_module)
                taken = True
            if not taken:
                # Whoever follows the figure, such as ModelCheckpoint, wants to find one.
                pl_module.log_dict(dict.fromkeys(self.figures, float("nan")))
