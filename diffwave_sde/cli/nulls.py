"""Nulls where no null may be: jsonargparse lets one pass everywhere."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from diffwave_sde.cli.classes import class_of


def refuse_nulls(where: str, kind: type, given: Any) -> None:
    """Raise a ValueError of one line where an option of a class, or of a class within it, is null and cannot be.

    Args:
        where: its place in the configuration: trainer, data, model.
        kind: the class.
        given: its parsed arguments.
    """
    try:
        types = typing.get_type_hints(kind.__init__)
        known = inspect.signature(kind.__init__).parameters
    except (NameError, TypeError, ValueError):  # a class of one's own may name types that are not there
        return
    for name, one in known.items():
        if name not in given or name not in types:
            continue
        value, place = given[name], f"{where}.{name}"
        if value is None:
            takes = types[name] in (Any, type(None)) or type(None) in typing.get_args(types[name])
            if one.default is not None and not takes:
                raise ValueError(f"--{place}: null is no value; leave it out")
            continue
        for own in value if isinstance(value, list) else [value]:
            _within(place, types[name], own)


def _within(place: str, annotation: Any, value: Any) -> None:
    """The same for a class in the place of an argument: named, or the one that the argument's type is."""
    if not isinstance(value, (Namespace, Mapping)):
        return
    path = value.get("class_path")
    if isinstance(path, str):
        try:
            kind = class_of(path)
        except (ImportError, AttributeError, ValueError):
            return  # which is told of where it is made
        if isinstance(kind, type):
            refuse_nulls(place, kind, value.get("init_args") or {})
        return
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and kind.__module__.startswith("diffwave_sde."):
            refuse_nulls(place, kind, value)
