"""The figures of a run over its steps, a line of JSON for each time that something was logged.

The file is only ever added to, so that a stopped run loses nothing; `cut` takes off what a run that goes on from an
earlier checkpoint will log again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffwave_sde.atomic import atomic_write

FILE = "metrics.jsonl"
"""Its name in a run's folder."""


@dataclass(frozen=True)
class Series:
    """One figure over the steps.

    steps: how many the weights had taken, rising.
    values: of each; NaN where it was not finite.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def append(path: str | os.PathLike, step: int, figures: Mapping[str, float]) -> None:
    """Add a line: what is not finite is null in it, as JSON knows no NaN.

    Raises:
        OSError: if the file cannot be written.
    """
    plain = {k: float(v) if math.isfinite(v) else None for k, v in figures.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write((json.dumps({"step": step, **plain}) + "\n").encode())


def read(path: str | os.PathLike) -> dict[str, Series]:
    """Every figure of the file, by name; none if there is no file. A line that a crash cut short is left out."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in _lines(Path(path)):
        for name, value in line.items():
            if name != "step":
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(math.nan if value is None else value)
    return {name: Series(tuple(steps), tuple(values)) for name, (steps, values) in found.items()}


def cut(path: str | os.PathLike, step: int) -> None:
    """Take off all lines of `step` and later, and one that a crash cut short; the file is whole at any time."""
    path = Path(path)
    if not path.exists():
        return
    kept = [line for line in _lines(path) if line["step"] < step]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found
