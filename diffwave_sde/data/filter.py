"""Which sounds of a dataset are taken: by class and by licence."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import yaml

from diffwave_sde.data.items import Recorded, Rendered, Source
from diffwave_sde.names import asked_for, digest, escape
from diffwave_sde.paths import expand


class Filter(NamedTuple):
    """Which sounds of a dataset are taken.

    classes: names of the classes; none for all. What YAML made a number or a truth of (808, on) is the class whose
        name YAML reads so
    licence: regular expression that the licence of a recording begins with; None for any. What was made here has none
    exclude: files that are left out, relative to the data set, spelt as in `names`
    """

    classes: tuple = ()
    licence: str | None = None
    exclude: tuple[str, ...] = ()

    def takes(self, item: Rendered | Recorded) -> bool:
        if self.exclude and escape(item.file) in self.exclude:
            return False
        if self.classes and item.label not in self.classes:
            return False
        return (
            self.licence is None
            or isinstance(item, Rendered)
            or getattr(item, "built", False)
            or bool(re.match(self.licence, item.licence))
        )

    def of(self, source: Source) -> Source:
        """The sounds that are taken.

        Raises:
            ValueError: if the source has nothing of a class or under such a licence, or this is no pattern
        """
        known = sorted({item.label for item in source.items})
        classes = tuple(sorted({_class_of(name, known, source.name) for name in self.classes}))
        if unknown := set(self.exclude) - {escape(item.file) for item in source.items}:
            raise ValueError(f"exclude: {source.name} has no file {min(unknown)}; it is relative to the data set")
        own = Filter(classes, self.licence, self.exclude)
        try:
            items = [item for item in source.items if own.takes(item)]
        except re.error as error:
            raise ValueError(f"licence {self.licence!r} is not a regular expression: {error}") from error
        if not items and self.exclude:
            raise ValueError(f"{source.name}: all of its sounds are excluded, or of no class or licence that is taken")
        if not items:
            found = sorted({getattr(item, "licence", "") or "none told" for item in source.items})
            raise ValueError(
                f"{source.name} has no sound under a licence that begins with {self.licence}; it has {', '.join(found)}"
            )
        stamp = (repr(own) if own.exclude else f"Filter(classes={own.classes!r}, licence={own.licence!r})").encode()
        return replace(source, items=items, inputs=digest(source.inputs.encode(), stamp))


def read_exclusions(path: str) -> tuple[str, ...]:
    """The files that a list names, one a line, `#` before a remark; such as `diffwave-sde doctor` writes.

    Raises:
        ValueError: if there is no such list.
    """
    try:
        lines = expand(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.exclude {path}: no list of files, one a line ({error})") from None
    return tuple(sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")}))


def _class_of(asked: object, known: list[str], where: str) -> str:
    """The class that is asked for, as text or as what YAML makes of it."""
    if isinstance(asked, str):
        found = asked_for(asked, known)
        if found is None:
            typed = asked if asked.isprintable() else escape(asked)
            raise ValueError(f"{where} has no class '{typed}'; it has {', '.join(known)}")
        return found

    def readings(name: str) -> list[object]:
        found = []
        for read in (yaml.safe_load, float):  # 1e3 is text to the one and a number to the other
            with suppress(yaml.YAMLError, ValueError):
                found.append(read(name))
        return found

    # True == 1: whether it is a truth counts too
    read_so = [
        name
        for name in known
        if any(value == asked and isinstance(value, bool) == isinstance(asked, bool) for value in readings(name))
    ]
    if len(read_so) != 1:
        could = "none" if not read_so else " and ".join(read_so)
        raise ValueError(
            f"{where}: {asked!r} is no text, and of the classes {', '.join(known)} it could mean {could}: put names in "
            f"quotes, such as --data.classes '[\"{(read_so or known)[0]}\"]'"
        )
    return read_so[0]
