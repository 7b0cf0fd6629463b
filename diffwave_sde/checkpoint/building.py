"""What a configuration describes, and the weights that are put into it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser
from torch import nn

from diffwave_sde import trust
from diffwave_sde.model import KEY, check_fit

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

CASCADE, AUTOENCODER = "cascade", "autoencoder"
"""The kinds of a checkpoint that holds a cascade, and of one that holds an autoencoder alone."""

A = {"classifier": "a classifier", AUTOENCODER: "an autoencoder", CASCADE: "a cascade"}
"""What a checkpoint of a kind is of, in words; of any other it is a model of sounds."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Loaded:
    """What was trained, as it was trained.

    module: in evaluation mode.
    labels: names of its classes.
    rate: Hz; length: samples; mu: of the companding, 0 for none.
    step: optimizer steps taken.
    path: the checkpoint, or the weights of an exported model.
    """

    module: nn.Module
    labels: tuple[str, ...]
    rate: int
    length: int
    mu: float
    step: int
    path: Path

    @classmethod
    def of(cls, module: nn.Module, state: dict[str, Any], path: Path, device: str, **more: Any) -> Self:
        """A module that was filled from what `read` found at `path`, on a device."""
        recipe = state[KEY]
        told = {name: recipe[name] for name in ("rate", "length", "mu")}
        ready = module.to(device).eval().requires_grad_(False)
        return cls(ready, tuple(recipe["labels"]), step=state["global_step"], path=path, **told, **more)


def build(config: dict[str, Any], kind: type[M], origin: Path | None = None) -> M:
    """What the `model` part of a configuration describes, of this kind: as much of it as the kind has arguments for.

    Args:
        config: in plain types.
        kind: the class that it describes.
        origin: the file that it came from, whose classes are to be this program's own (`trust`); null for one's own.

    Raises:
        Untrusted: if it names others.
    """
    if origin is not None:
        trust.check(config, origin)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "model")
    known = inspect.signature(kind).parameters
    given = {k: v for k, v in config.items() if k in known}
    return parser.instantiate_classes(parser.parse_object({"model": given})).model


def fill(module: nn.Module, state: dict[str, Any], weights: str) -> None:
    """Put the weights of a checkpoint into its model."""
    # Lightning's weight averaging leaves the averaged weights in state_dict and puts the raw ones beside them.
    values = state.get("current_model_state", state["state_dict"]) if weights == "raw" else state["state_dict"]
    values = {name: value for name, value in values.items() if hasattr(module, name.partition(".")[0])}
    check_fit(module, values)
    module.load_state_dict(values)


def fill_part(part: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Put the weights of a checkpoint whose names begin with a prefix into a part of its model."""
    values = {name.removeprefix(prefix): x for name, x in state["state_dict"].items() if name.startswith(prefix)}
    check_fit(part, values)
    part.load_state_dict(values)
