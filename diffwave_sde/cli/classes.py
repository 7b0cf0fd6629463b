"""Classes as values on the command line."""

from __future__ import annotations

import importlib
import inspect


def class_of(path: str) -> type:
    """The class at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def subclasses(cls: type) -> list[type]:
    """`cls` and all classes below it, those that can be made."""
    below = [cls, *(c for direct in cls.__subclasses__() for c in subclasses(direct))]
    return [c for c in dict.fromkeys(below) if not inspect.isabstract(c)]
