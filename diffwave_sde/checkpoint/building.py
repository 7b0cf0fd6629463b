"""What a configuration describes, and the weights that are put into it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from torch import nn

from diffwave_sde import trust
from diffwave_sde.model import check_fit

CASCADE, AUTOENCODER = "cascade", "autoencoder"
"""The kinds of a checkpoint that holds a cascade, and of one that holds an autoencoder alone."""

A = {"classifier": "a classifier", AUTOENCODER: "an autoencoder", CASCADE: "a cascade"}
"""What a checkpoint of a kind is of, in words; of any other it is a model of sounds."""

M = TypeVar("M", bound=nn.Module)


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
