"""What an evaluation found, for people and for files: rows that every table is made of, JSON, and a page to hear it by.

`evaluate` returns plain numbers. `plain` makes JSON of them, and everything here reads that: names are spelt as in
`names`, and null stands for what has no value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffwave_sde.atomic import atomic_write
from diffwave_sde.metrics.evaluation import SoundSet
from diffwave_sde.names import printable
from diffwave_sde.sounds import page

METRICS = {
    "frechet": "Fréchet",
    "kernel": "kernel",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "right class",
}
"""The metrics of an embedding, by the names that tables give them."""


@dataclass(frozen=True)
class MetricTable:
    """What the metrics say in one embedding.

    embedding: its name.
    parts: all sounds, and each class that both sets know: its name, and how many sounds were compared.
    rows: the name of a metric, and what it says of each part: value, spread, floor and floor_spread; or None.
    """

    embedding: str
    parts: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[dict[str, float | None] | None, ...]], ...]

    def columns(self, first: int, last: int) -> MetricTable:
        """The same for some of the parts."""
        rows = tuple((title, cells[first:last]) for title, cells in self.rows)
        parts = self.parts[first:last]
        return MetricTable(self.embedding, parts, tuple(row for row in rows if any(row[1])))


@dataclass(frozen=True)
class MeasurementRow:
    """What one measurement says of both sets.

    name: with its unit.
    real, generated: 10 %, the median and 90 %, and the share of the sounds that have a value.
    difference, floor: how far they are apart, and real ones from other real ones.
    """

    name: str
    real: tuple[float | None, ...]
    generated: tuple[float | None, ...]
    difference: float | None
    floor: float | None


def metric_tables(found: dict[str, Any]) -> Iterator[MetricTable]:
    """A table for each embedding."""
    for name, parts in found["embeddings"].items():
        titles = {key: title for key, title in METRICS.items() if any(key in figures for figures in parts.values())}
        yield MetricTable(
            name,
            tuple((part, figures["count"]) for part, figures in parts.items()),
            tuple((title, tuple(figures.get(key) for figures in parts.values())) for key, title in titles.items()),
        )


def measurement_rows(found: dict[str, Any]) -> Iterator[MeasurementRow]:
    """A row for each measurement."""
    for name, m in found["measurements"].items():
        quantiles = (tuple(m.get(which) or ()) for which in ("real", "generated"))
        yield MeasurementRow(f"{name.replace('_', ' ')}, {m['unit']}", *quantiles, m["difference"], m["floor"])


def agreement_rows(found: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """How far parts follow their tracks (`metrics.agreement`): each figure's name, and its cells."""
    told = {"pitch": "pitch class", "onset": "onsets, F-measure"}
    for name, title in told.items():
        row = found["agreement"][name]
        cells = [row[key] for key in ("value", "shuffled", "p", "ceiling", "floor")]
        shown = ["–" if x is None else f"{x:.4f}" if i == 2 else f"{x:.3f}" for i, x in enumerate(cells)]
        yield title, shown


def neighbour_lines(found: dict[str, Any]) -> tuple[str, str]:
    """How near the sounds are to training sounds, and to one another, in words."""
    near, which = found["neighbours"], "held-out" if "agreement" in found else "training"
    return (
        f"closer to a {which} sound than real ones are to one another: {near['close']:.1%}",
        f"closer to another generated one: {near['duplicates']:.1%} (real ones: {near['repeated']:.1%})",
    )


def plain(value: Any) -> Any:
    """What JSON holds: null for a number that is not finite, names spelt."""
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Path, found: dict[str, Any]) -> None:
    """Write what `evaluate` found."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(plain(found), indent=1), encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none that `write_json` wrote.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        # All that the tables take: what lacks some of it is something else.
        list(metric_tables(found)), list(measurement_rows(found)), neighbour_lines(found)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file; make it with `diffwave-sde evaluate`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file}: not an evaluation.json of `diffwave-sde evaluate`") from None
    return found


def write_page(folder: Path, real: SoundSet, generated: SoundSet, found: dict[str, Any], count: int = 12) -> Path:
    """The page of the generated sounds that are nearest to a real one, `count` of them, each beside it."""
    near = found["neighbours"]
    order = sorted(range(len(near["distance"])), key=lambda i: near["distance"][i])[:count]
    rows = [f"{k:02d} {generated.labels[i]}, distance {near['distance'][i]:.2f}" for k, i in enumerate(order)]
    length = max(real.sounds.shape[1], generated.sounds.shape[1])
    columns = []
    for title, part, which in (
        ("generated", generated, order),
        ("nearest real sound", real, [near["nearest"][i] for i in order]),
    ):
        sounds = torch.nn.functional.pad(part.sounds[which], (0, length - part.sounds.shape[1]))
        names = [f"{k:02d}" for k in range(len(which))]
        columns.append(page.Column(title, page.write_sounds(folder / title.split()[0], names, sounds)))
    note = (
        f"{generated.name} beside {real.name}. A real sound lies {near['typical']:.2f} from its nearest other one in "
        "the median"
        + ("." if "agreement" in found else "; a pair far below that may be a training sound learned by heart.")
    )
    page.write(folder / "index.html", "Nearest neighbours", rows, columns, note)
    return folder / "index.html"
