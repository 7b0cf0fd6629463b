"""The options of how the stages of a cascade hand over, `--cascade.*`; what is unsaid is the model's own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from diffwave_sde.cascade import CascadeModel, Handover
from diffwave_sde.checkpoint import LoadedModel


def add(parser: ArgumentParser) -> None:
    """Give a parser the options."""
    parser.add_class_arguments(Handover, "cascade", instantiate=False)
    parser.set_defaults({f"cascade.{one.name}": None for one in fields(Handover)})
    parser.groups[
        "cascade"
    ].title = "How the stages of a cascade hand over; what is left at null is as the model has it"


def apply(model: LoadedModel, config: Namespace) -> None:
    """Let the model's stages hand over as was asked for.

    Raises:
        ValueError: if the model has no stages, or they did not learn such a level.
    """
    said = config.cascade.as_dict() if config.cascade else {}  # null, in a file
    given = {name: value for name, value in said.items() if value is not None}
    if not given:
        return
    if not isinstance(model.module, CascadeModel):
        name, value = next(iter(given.items()))
        raise ValueError(f"--cascade.{name} {value}: {model.path} is no cascade, it has one stage: leave it out")
    model.module.handover = replace(model.module.handover, **given)


def record(model: LoadedModel) -> dict[str, Any]:
    """What sounds follow from, of a cascade."""
    return {"handover": str(model.module.handover)} if isinstance(model.module, CascadeModel) else {}
