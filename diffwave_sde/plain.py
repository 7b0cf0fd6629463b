"""YAML as plain values and no more: no tags that make objects, no bombs, no loops, no files without an end.

A few hundred bytes of YAML may stand for 10⁹ values (a list of lists that are each named once and used nine times), or
for a list that holds itself. Whoever walks through such a configuration never comes back, so `check` counts first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPTH = 40  # levels of a configuration; those of this program have 10
VALUES = 100_000  # of a configuration, each counted as often as it is used; those of this program have 300
BYTES = 10_000_000  # of a file


class _Loader(yaml.SafeLoader):
    """PyYAML's own, which takes a key that stands twice for its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str, where: str | Path) -> Any:
    """What a text of YAML holds.

    Args:
        where: what it came from, for the complaint.

    Raises:
        ValueError: if it is no YAML, or not of plain values; it names `where` and, if it can, the line.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = "YAML takes no tabs: indent by spaces" if "'\\t'" in str(error.problem) else error.problem
        raise ValueError(f"{where}{f', line {mark.line + 1}' if mark else ''}: {tab or 'no YAML'}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        raise ValueError(f"{where}, line {line}: a character that no text has: is it a file of YAML?") from None
    except RecursionError:
        raise ValueError(f"{where}: nested deeper than {DEPTH} levels: it is not used") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # 2020-99-99 is no date, !!int x no number
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: no YAML of plain values ({why:.200})") from None
    check(value, where)
    return value


def read(file: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: if it cannot be read, or is none (a folder, a pipe, a device).
        ValueError: as `parse`, or if it is not UTF-8, or larger than any configuration.
    """
    path = Path(file)
    if path.exists() and not path.is_file():
        raise OSError(f"{file}: not a file")
    if path.stat().st_size > BYTES:
        raise ValueError(f"{file}: {path.stat().st_size / 1e6:.0f} MB are no configuration")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: not UTF-8: save the file in that encoding") from None
    return parse(text, file)


def check(value: Any, where: str | Path) -> None:
    """Hold plain values to a size that can be walked through.

    Args:
        value: dicts, lists and what stands in them; a part that is used twice may be one object.
        where: what it came from, for the complaint.

    Raises:
        ValueError: if it is nested too deep, holds itself, or is too much.
    """
    known: dict[int, tuple[int, int] | None] = {}

    def measure(one: Any, depth: int) -> tuple[int, int]:
        """(values, levels) of a part; each part is looked at once."""
        if not isinstance(one, dict | list | tuple):
            return 1, 1
        found = known.get(id(one), ())
        if found:
            return found
        if found is None or depth > DEPTH:
            raise ValueError(f"{where}: nested deeper than {DEPTH} levels: it is not used")
        known[id(one)] = None
        values, levels = 1, 0
        for part in [*one.keys(), *one.values()] if isinstance(one, dict) else one:
            more, below = measure(part, depth + 1)
            values, levels = values + more, max(levels, below)
        if values > VALUES:
            raise ValueError(f"{where}: stands for more than {VALUES:,} values: it is not used")
        if levels >= DEPTH:
            raise ValueError(f"{where}: nested deeper than {DEPTH} levels: it is not used")
        known[id(one)] = values, levels + 1
        return known[id(one)]

    measure(value, 0)
