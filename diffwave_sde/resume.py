"""What a checkpoint is joined with: data, and callbacks, that may be others than those it was written with.

A checkpoint holds the state of each callback and, where one averages the weights, two sets of these: the averaged ones
in `state_dict`, the raw ones in `current_model_state`. The optimizer's moments belong to the raw ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from diffwave_sde.compatibility import CLASSES


def match_data(metadata: dict[str, Any], data: Any, changed: Iterable[str] = ()) -> None:
    """Hold the data to those that a checkpoint was trained on: classes by name, rate, length and companding.

    Classes that are the same take the checkpoint's order, whatever order the data have them in.

    Args:
        metadata: what the checkpoint says of itself.
        data: the data module.
        changed: arguments of the data module that differ on purpose.

    Raises:
        ValueError: if they differ.
    """
    for name, unit in {"rate": " Hz", "length": " samples", "mu": ""}.items():
        there, here = metadata.get(name), getattr(data, name, None)
        if name not in changed and None not in (there, here) and there != here:
            raise ValueError(
                f"the checkpoint was trained at {name} = {there:g}{unit} and the data have {here:g}{unit}: "
                + (f"set --data.{name}={there:g}" if name != "rate" else "prepare them at that rate")
            )
    labels, own = metadata.get("labels"), getattr(data, "labels", None)
    if not labels or own is None or list(labels) == list(own):
        return
    if sorted(labels) != sorted(own):
        raise ValueError(
            f"the checkpoint knows the classes {', '.join(labels)}, and the data have {', '.join(own)}: rename the "
            "folders, take those classes alone (--data.classes), or start a new run"
        )
    data.adopt_labels(labels)


def match_callbacks(checkpoint: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Change a checkpoint, in place, to what training with these callbacks goes on from; tell which differ.

    Where none of them averages, its weights become the raw ones. States of callbacks that are missing now are dropped.

    Args:
        checkpoint: as Lightning has read it, before anything of it is loaded.
        callbacks: those of the trainer.
    """
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    raw = not averages and "current_model_state" in checkpoint
    if raw:
        checkpoint["state_dict"] = checkpoint.pop("current_model_state")
        checkpoint.pop("averaging_state", None)
    states = {_renewed(key): state for key, state in checkpoint.get("callbacks", {}).items()}
    present = {callback.state_key for callback in callbacks}
    checkpoint["callbacks"] = {key: state for key, state in states.items() if key in present}
    missing = _names(key for key in states if key not in present)
    added = _names(c.state_key for c in callbacks if c.state_key not in states and c.state_dict())
    changed = missing & added  # a key holds options too, where a class has several
    if changed:
        rank_zero_info(f"resuming with other options of {_list(changed)} than in the checkpoint: started anew")
    if missing := missing - changed:
        weights = ": training goes on from the raw weights, not from the averaged ones" if raw else ""
        rank_zero_info(f"resuming without {_list(missing)}, which the checkpoint has{weights}")
    if added := added - changed:
        average = (
            ", the average from the checkpoint's weights" if averages and "averaging_state" not in checkpoint else ""
        )
        rank_zero_info(f"resuming with {_list(added)}, which the checkpoint has not: started anew{average}")


def _renewed(key: str) -> str:
    """A state's key under the present name of its class: the name, and options in braces where there may be several."""
    name, brace, options = key.partition("{")
    return CLASSES.get(name, name) + brace + options


def _names(keys: Iterable[str]) -> set[str]:
    return {key.partition("{")[0] for key in keys}


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
