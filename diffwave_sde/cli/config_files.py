"""The files of `--config`: looked at before a parser reads them, and named where what one says is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffwave_sde import plain
from diffwave_sde.trust import is_import_path

GROUPS = ("trainer", "data", "model")
"""Options of Lightning's verbs that hold others."""


def files(argv: list[str]) -> list[str]:
    """The files that a command line names by `--config` and that are there, in order."""
    named = [value for option, value in _typed(argv) if option == "--config"]
    return [file for file in named if not {"\n", "\0"} & set(file) and Path(file).is_file()]


def check(argv: list[str], lightning: bool) -> None:
    """Hold the files of a command line to a form that every parser takes.

    Args:
        argv: a command line, its verb first.
        lightning: whether the verb is one of Lightning's.

    Raises:
        ValueError: if a key is no text, a class no name, or its options or a group are no options; it names file and
            key.
    """
    for file in files(argv):
        found = plain.read(file)
        if not isinstance(found, dict):
            continue  # told of by whoever reads it for old names
        for key, value in found.items() if lightning else ():
            if key in GROUPS and not isinstance(value, dict):
                raise ValueError(f"{file}: {key}: {value!r:.40} is not options, a line each: NAME: VALUE")
        _check(found, file, "")


def _check(value: Any, file: str, place: str) -> None:
    if isinstance(value, list):
        for one in value:
            _check(one, file, place)
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{file}: {place}: {value!r:.40} holds a zero byte")
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        if not isinstance(key, str):
            where = f"{place}: " if place else ""
            raise ValueError(f'{file}: {where}the key {key!r:.40} is not text: write it in quotes, "{key}"')
        below = f"{place}.{key}".lstrip(".")
        if key == "class_path" and not isinstance(one, str):
            raise ValueError(f"{file}: {below}: {one!r:.40} is not the name of a class")
        if key == "init_args" and "class_path" in value and not isinstance(one, dict | None):
            raise ValueError(f"{file}: {below}: {one!r:.40} is not options, a line each: NAME: VALUE")
        _check(one, file, below)


def blame(message: str, argv: list[str], parsing: bool) -> str:
    """A complaint, with the file whose option it is about, and the option where it does not say which.

    Args:
        message: the complaint.
        argv: the command line.
        parsing: whether it is a parser's, and so about some option.
    """
    named = [file for file in files(argv) if file not in message]
    keys = re.findall(r"--([\w.]+)|^no option ([^;]+)", message)
    keys = [one or other for one, other in keys if one != "help"]
    words = set(re.findall(r"\w[\w.]*\w|\w", message))
    typed = {option.removeprefix("--").removesuffix("+") for option, _ in _typed(argv)}
    for file in reversed(named):
        try:
            found = plain.read(file)
        except (OSError, ValueError):  # it has changed since
            continue
        for place, value in _leaves(found, ""):
            if place in typed:
                continue
            last = place.rpartition(".")[2]
            if any(_within(place, key) or _within(key, place) for key in keys):
                return f"{message} (in {file})"
            if not keys and last in words:
                return f"{message} ({place} in {file})"
            if not keys and parsing and isinstance(value, str | int | float) and str(value) in words:
                return f"{message} ({place} in {file})"
    if not parsing or typed.intersection(keys):
        return message
    values = {option: value for option, value in _typed(argv) if option != "--config"}
    meant = [option for option, value in values.items() if (value and value in message) or is_import_path(value)]
    options = {file: ", ".join(place for place, _ in [*_leaves(plain.read(file), "")][:5]) for file in named}
    about = [*(f"{places} in {file}" for file, places in options.items()), *(meant or (values if not named else ()))]
    return f"{message} ({', '.join(about)})" if about else message


def _typed(argv: list[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line, with their values."""
    for text, following in pairwise([*argv, ""]):
        option, equals, value = text.partition("=")
        if option.startswith("--"):
            yield option, value if equals else following


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The options of a file, (a.b.c, value), as they are typed: without `class_path` and `init_args`."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, place if key in ("class_path", "init_args") else f"{place}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for one in value:
            yield from _leaves(one, place)
    else:
        yield place, value


def _within(place: str, other: str) -> bool:
    return place == other or place.startswith(f"{other}.")
