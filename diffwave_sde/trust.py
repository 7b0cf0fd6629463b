"""What a model that came from elsewhere may name: this package's own classes, and the optimizers of PyTorch.

A checkpoint, an exported folder and a run's `config.yaml` say by import path which classes a model is made of. To
import a path is to run the file that it leads to, so a folder that somebody else wrote could run any file. Here each
path is looked at before anything is imported; one's own modules need `--trust`, or to be named on the command line.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffwave_sde import plain

OWN = "diffwave_sde"
LIBRARIES = (
    "torch.optim",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.accelerators",
)
"""Packages of other people that a configuration may name classes of: what is in `fit`'s own options."""

CLASS_OPTIONS = frozenset(
    (
        *("class_path", "sde", "net", "weak", "base", "middle", "top", "front", "loss", "weight", "time"),
        *("autoencoder", "bottleneck", "adversary"),
        *("parametrization", "optimizer", "scheduler", "sampler", "predictor", "grid", "handover", "guidance"),
        *("callbacks", "logger", "strategy", "plugins", "profiler", "accelerator"),
    )
)
"""Last keys of the options whose values name classes."""

DEPTH = 12  # of a configuration, and of the files that it names; a bomb of YAML is no deeper than it is refused

_trusted: set[str] = set()
_all = False


class Untrusted(ValueError):
    """A model names code that is not this program's."""


def allow(modules: Iterable[str] = (), everything: bool = False) -> None:
    """Let models name classes of these modules, or of any, from now on in this process.

    Args:
        modules: top-level names.
        everything: whether any module may be named: `--trust`.
    """
    global _all
    _trusted.update(modules)
    _all = _all or everything


def reset() -> None:
    """Trust no module but this program's again."""
    global _all
    _trusted.clear()
    _all = False


def named_in(argv: Iterable[str]) -> set[str]:
    """The top-level modules of the classes that a command line names, such as `mine` of `--model.sde=mine.Circle`.

    Only of options that take a class: `--name a.b`, a data set or a file may look like a module, and is none.
    """
    found = set()
    for text, following in pairwise([*argv, ""]):
        option, equals, value = text.partition("=")
        value = value if equals else following
        if option.startswith("--") and _takes_class(option[2:].removesuffix("+").split(".")) and is_import_path(value):
            found.add(value.strip().split(".")[0])
    return found


def _takes_class(keys: list[str]) -> bool:
    """Whether the option of these keys takes a class; those of a verb itself, such as `--weak`, take paths."""
    return keys[-1] in CLASS_OPTIONS and (len(keys) > 1 or keys == ["sampler"])


def is_import_path(text: str) -> bool:
    """Whether a text may be taken for the place of something in a module."""
    parts = text.strip().split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def check(config: Any, where: str | Path) -> None:
    """Hold a configuration that came from elsewhere to this program's own classes.

    Args:
        config: of plain types, as YAML gives it.
        where: what it came from, for the complaint.

    Raises:
        Untrusted: if it names anything else; it says what, and how to allow it.
    """
    plain.check(config, where)
    if not _all:
        _walk(config, str(where), DEPTH)


def _walk(value: Any, where: str, depth: int) -> None:
    if depth < 0:
        raise Untrusted(f"{where} is nested deeper than any configuration of this program: it is not used")
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "class_path" and not isinstance(one, str):
                raise Untrusted(f"{where}: class_path is {one!r:.40}, not the name of a class: it is not used")
            _walk(one, where, depth - 1)
    elif isinstance(value, list | tuple):
        for one in value:
            _walk(one, where, depth - 1)
    elif isinstance(value, str):
        _text(value, where, depth)


def _text(text: str, where: str, depth: int) -> None:
    """A text may be an import path, a configuration written out, or the name of a file that holds one."""
    if is_import_path(text):
        _path(text.strip(), where)
    if "class_path" not in text and not re.search(r"\.(ya?ml|json)\s*$", text, re.IGNORECASE):
        return
    found = _yaml(text)
    if isinstance(found, dict | list):
        _walk(found, where, depth - 1)
    try:
        file = Path(text.strip())
        inner = plain.read(file) if file.is_file() else None
    except (OSError, ValueError):  # no name of a file, or no text; the parser refuses it too
        return
    if isinstance(inner, dict | list):
        _walk(inner, f"{file}, which {where} names,", depth - 1)


def _yaml(text: str) -> Any:
    try:
        return plain.parse(text, "")
    except ValueError:
        return None


def _path(path: str, where: str) -> None:
    """Hold one import path."""
    top = path.split(".")[0]
    if top in _trusted:
        return
    library = any(path.startswith(f"{name}.") for name in LIBRARIES)
    if top != OWN and not library:
        known = top in sys.modules or top in sys.builtin_module_names or _is_module(top)
        if not known and path.endswith((".yaml", ".yml", ".json", ".wav", ".ckpt", ".npy")):
            return  # a file's name, and no module that could be imported
        raise Untrusted(
            f"{where} names {path}, which is not part of this program; if you trust whoever wrote it and that module, "
            "add --trust"
        )
    found = _resolve(path)
    if found is None:
        return  # the parser finds nothing there either, and says so
    home = getattr(found, "__module__", "") or ""
    fine = home == OWN or any(home.startswith(f"{name}.") or home == name for name in (OWN, *LIBRARIES))
    if not inspect.isclass(found) or not fine:
        raise Untrusted(f"{where} names {path}, which is no class of this program: it is not used")


def _is_module(top: str) -> bool:
    """Whether there is a module of that name, without importing it."""
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return True  # it is there, and broken


def _resolve(path: str) -> Any:
    """What a path within a known package leads to, or None where it leads nowhere."""
    parent, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(parent), name, None)
    except ImportError:
        outer, _, inner = parent.rpartition(".")
        try:
            return getattr(getattr(importlib.import_module(outer), inner, None), name, None) if outer else None
        except ImportError:
            return None
