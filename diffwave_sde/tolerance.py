"""What fails beside the training: said once, while training goes on.

Sounds to hear, pages, figures and records are made for whoever watches. Where making them fails (a disk that is full, a
service that is away, a fault in a callback), the steps are worth more.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

LOGGING = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")
"""What Lightning asks of a logger in training."""


class Tolerance:
    """Lets go of errors, and says each thing that fails once: again only when it has worked in between.

    Interrupts, and what is no `Exception`, pass.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Training goes on whatever is raised within it.

        Args:
            what: the thing that may fail, as the line names it.
        """
        try:
            yield
        except Exception as error:
            if what not in self._said:
                self._said.add(what)
                if os.environ.get("DIFFWAVE_TRACEBACK"):
                    traceback.print_exc()
                rank_zero_warn(f"{what} failed ({first_line(error)}); training goes on", stacklevel=4)
        else:
            self._said.discard(what)


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def protect_loggers(trainer: Trainer) -> None:
    """Let training go on where one of the trainer's loggers raises."""
    for logger in trainer.loggers:
        for name in LOGGING:
            method = getattr(logger, name, None)
            if method is not None and not hasattr(method, "tolerant"):
                setattr(logger, name, _tolerant(method, f"logging to {type(logger).__name__}"))


def _tolerant(method: Callable, what: str) -> Callable:
    tolerance = Tolerance()  # its own: that a file could be saved does not mean that figures could be sent

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with tolerance.of(what):
            return method(*args, **kwargs)
        return None

    call.tolerant = True
    return call
