"""The page over a run: its sounds, a column for each step; its figures; and its spikes, with the clips that made them.

It is made of what lies on disk alone, so that it can be written in training, after a stop, and for somebody else:

    RUN/samples/data, RUN/samples/step=N     the sounds
    RUN/samples/teacher                      those of a student's teacher
    RUN/metrics.jsonl                        the figures (`history`)
    RUN/samples/spikes/step=N                the clips of a spike, and spike.json
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from diffwave_sde.sounds import history, page
from diffwave_sde.sounds.charts import Line, chart
from diffwave_sde.sounds.history import Series

DATA = "data"
"""The folder, and the column, of the training clips."""

TEACHER = "teacher"
"""The folder, and the column, of what the teacher makes of the same noises."""

SPIKES = "spikes"
"""The folder of the clips that made the loss or the gradient jump."""

SPIKE = "spike.json"
"""What is told of a spike: step, what, loss, grad_norm, clips, each with file, told."""

NOISE = "noise over signal, σ"

SENT = 5
"""Spikes in a page that holds its sounds."""

BUCKET = re.compile(r"(.*)/sigma=(1e[-+]\d+)")
T = TypeVar("T")
PLACES = ("worst clip", "second", "third")


def write(run: Path, path: Path | None = None, embed: bool = False, steps: int | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: its folder.
        path: the HTML file; RUN/samples/index.html by default.
        embed: whether the sounds are in the file.
        steps: how many steps are shown at most, spread from the first to the last; all by default.

    Raises:
        FileNotFoundError: if the run holds no sounds and no figures.
    """
    home = run / "samples"
    path = path or home / "index.html"
    found = numbered(home)
    figures = history.read(run / history.FILE)
    if not found and not figures:
        raise FileNotFoundError(f"{run} holds no sounds of training and no {history.FILE}: give a run's folder")
    if steps is not None:
        found = _spread(found, steps)
    folders = [(name, home / name) for name in (DATA, TEACHER) if (home / name).is_dir()]
    folders += [(f"step {n:,}", home / f"step={n}") for n in reversed(found)]
    rows = sorted({file.stem for _, folder in folders for file in folder.glob("*.wav")})
    columns = []
    for name, folder in folders:
        files = (folder / f"{row}.wav" for row in rows)
        columns.append(page.Column(name, [f if f.exists() else None for f in files], reference=name in (DATA, TEACHER)))
    note = "Each row is one sound: the same noise and class at every step, the newest first." if columns else ""
    if (home / TEACHER).is_dir():
        note += " The column “teacher” holds what the student's teacher makes of the noise."
    if (home / DATA).is_dir() and columns:
        note += " The column “data” holds clips of that class, for comparison."
    below = figures_section(figures), _spikes_section(home, SENT if embed else None)
    sections = [part for part in below if part is not None]
    title = f"{run.resolve().name}: {'sounds during ' if columns else ''}training"
    page.write(path, title, [r.replace("-", " ") for r in rows], columns, note, sections, embed)
    return path


def numbered(home: Path) -> list[int]:
    """The steps of the folders step=N, rising."""
    numbers = (folder.name.partition("=")[2] for folder in home.glob("step=*"))
    return sorted(int(n) for n in numbers if n.isdigit())


def by_noise_level(figures: Mapping[str, T]) -> dict[str, dict[float, T]]:
    """Of figures by name, those of a noise level: σ at the start of each decade -> figure, for each name of one."""
    found: dict[str, dict[float, T]] = {}
    for name, value in figures.items():
        if match := BUCKET.fullmatch(name):
            found.setdefault(match[1], {})[float(match[2])] = value
    return {name: dict(sorted(levels.items())) for name, levels in found.items()}


def figures_section(figures: Mapping[str, Series]) -> page.Section | None:
    """Charts of all that a run logged; None where it logged nothing."""
    html = "".join(_charts(figures))
    if not html:
        return None
    note = "Over optimizer steps. Losses and norms are on a logarithmic scale; a long line is averaged piece by piece."
    return page.Section("Figures", note, f'<div class="charts">{html}</div>')


def _charts(figures: Mapping[str, Series]) -> list[str]:
    left = dict(figures)

    def take(*names: str) -> list[Line]:
        series = {name: left.pop(name) for name in names if name in left}
        return [
            Line(name.partition("/")[2] if len(names) == 1 else name, s.steps, s.values) for name, s in series.items()
        ]

    spikes = _rises(left.pop("train/spikes", None))
    out = [chart("Loss", take("train/loss", "val/loss"), "step", log_y=True, marks=spikes, marked="spikes")]
    buckets = by_noise_level(left)
    left = {name: series for name, series in left.items() if not BUCKET.fullmatch(name)}
    which = "val/loss" if "val/loss" in buckets else next(iter(buckets), None)
    if which is not None:
        what = "validation" if which == "val/loss" else which
        lines = _by_level(buckets[which])
        out.append(chart(f"Loss by noise level, {what}", lines, NOISE, log_x=True, log_y=True, last=False))
        lines = [Line(f"σ = {_decade(s)}", series.steps, series.values) for s, series in buckets[which].items()]
        out.append(chart(f"Loss at each noise level, {what}", lines, "step", log_y=True))
    norm = take("train/grad_norm")
    out.append(chart("Gradient norm, before clipping", norm, "step", log_y=True, marks=spikes, marked="spikes"))
    for name in sorted(name for name in left if name.startswith("val/")):
        out.append(chart(name, take(name), "step"))
    out.append(chart("Speed, clips per second", take("train/clips_per_second"), "step"))
    left.pop("train/steps_per_second", None)
    for name in sorted(left):
        out.append(chart(name.removeprefix("train/"), take(name), "step"))
    return out


def _rises(count: Series | None) -> list[float]:
    """The steps at which a count was higher than before."""
    if count is None:
        return []
    before = (0.0, *count.values)
    return [step for step, old, new in zip(count.steps, before, count.values, strict=False) if new > old]


def _by_level(buckets: Mapping[float, Series]) -> list[Line]:
    """The loss over the noise level at the first step, the last, and two between them; the last comes first."""
    steps = sorted({step for series in buckets.values() for step in series.steps})
    lines = []
    for step in reversed(_spread(steps, 4)):
        points = {}
        for sigma, series in buckets.items():
            if step in series.steps:
                points[sigma * math.sqrt(10)] = series.values[series.steps.index(step)]  # the middle of the decade
        lines.append(Line(f"step {step:,}", list(points), list(points.values())))
    return lines


def _decade(sigma: float) -> str:
    return f"{sigma:g} to {sigma * 10:g}"


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, from the first to the last, evenly; of one only the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def _spikes_section(home: Path, most: int | None) -> page.Section | None:
    """The newest spikes, `most` of them or all; None where there was none."""
    rows, sounds, captions = [], [], []
    for step in numbered(home / SPIKES)[::-1][:most]:
        folder = home / SPIKES / f"step={step}"
        try:
            told = json.loads((folder / SPIKE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        rows.append(f"step {step:,}: {told['what']}")
        clips = told["clips"][: len(PLACES)]
        files = [folder / clip["file"] for clip in clips]
        missing = len(PLACES) - len(clips)
        sounds.append([*(f if f.exists() else None for f in files), *[None] * missing])
        captions.append([*(clip["told"] for clip in clips), *[""] * missing])
    if not rows:
        return None
    note = "Steps at which the loss or the gradient's norm jumped, and those of their clips that had the highest loss."
    columns = [
        page.Column(name, [row[k] for row in sounds], captions=[row[k] for row in captions])
        for k, name in enumerate(PLACES)
    ]
    return page.Section("Spikes", note, rows=rows, columns=columns, head="spike")


def size(path: str | os.PathLike) -> str:
    """A file's size for a reader."""
    count = os.path.getsize(path)
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
