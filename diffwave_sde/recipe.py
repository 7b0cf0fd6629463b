"""What a checkpoint says of its model, held to what a model can be: somebody else may have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from diffwave_sde import plain

WEIGHTS = ("state_dict", "current_model_state")
RANGES = {"rate": (int, 1_000, 768_000), "length": (int, 1, 10**8), "mu": (int | float, 0, 1e9)}
"""Numbers that a model is told by: their types, the least, the most."""


def check(state: dict[str, Any], key: str, where: str | Path) -> None:
    """Look at all that the program relies on in a checkpoint.

    Args:
        state: the checkpoint's contents.
        key: under which it says what the model is.
        where: the file, for the complaint.

    Raises:
        ValueError: if a part is of another type than it can be, or a number out of its range.
    """
    told = state[key]
    plain.check(told, where)
    wrong = _wrong(told, state) if isinstance(told, dict) else f"{key} is {told!r:.40}"
    if wrong:
        raise ValueError(f"{where} is not of this program, or it is damaged: {wrong}")


def _wrong(told: dict[str, Any], state: dict[str, Any]) -> str | None:
    for name in WEIGHTS:
        part = state.get(name, {})
        if not isinstance(part, dict) or not all(isinstance(x, Tensor) for x in part.values()):
            return f"{name} holds no weights"
    for name, (kinds, least, most) in RANGES.items():
        value = told.get(name, least)
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
            return f"{name} is {value!r:.40}, not a number from {least:,} to {most:,}"
    labels = told.get("labels", [])
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        return f"labels is {labels!r:.40}, not a list of names"
    step = state.get("global_step", 0)
    return None if isinstance(step, int) else f"step is {step!r:.40}, not a number"
