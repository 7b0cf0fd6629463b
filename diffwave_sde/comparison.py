"""The same noises through several models, on one page to hear them by, with the figures of each.

In Python::

    models = [Entry("drums", checkpoint.load("runs/drums"), Path("runs/drums"))]
    compare([*models, Entry("drums-2", checkpoint.load("runs/drums-2"), Path("runs/drums-2"))], "both", n=8)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path
from typing import Any

from diffwave_sde import generate
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.metrics import report
from diffwave_sde.names import listed, printable, typed
from diffwave_sde.samplers import Sampler
from diffwave_sde.sounds import history, page
from diffwave_sde.sounds.charts import Line, chart
from diffwave_sde.sounds.folder import SoundFolder
from diffwave_sde.sounds.run_page import BUCKET, NOISE, by_noise_level


@dataclass(frozen=True)
class Entry:
    """A model that is compared.

    title: what it is called on the page.
    model: as it is loaded.
    run: the folder of its run, where the figures of its training are; None for none.
    evaluation: its evaluation.json; None for none.
    """

    title: str
    model: LoadedModel
    run: Path | None = None
    evaluation: Path | None = None


def compare(
    entries: Sequence[Entry],
    out: str | Path,
    n: int = 8,
    label: str | None = None,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 16,
    single: str | Path | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Callable[[str, float, int], None] | None = None,
) -> Path:
    """Make n sounds of each model from the same noises; sounds that are there already are kept.

    Args:
        entries: two models or more.
        out: folder for the sounds, one for each model, and for the page.
        n: sounds of each.
        label: classes in turn, as for `generate.ask`; by default those that all models with classes know.
        sampler: of all of them; each model's own by default.
        seed: of the noise.
        batch_size: sounds made at a time.
        single: an HTML file that holds the sounds, in place of the page in `out`.
        record: what else the sounds follow from. A folder keeps only sounds of the same record.
        progress: called with (title, sounds made, sounds in all).

    Returns:
        The page.

    Raises:
        ValueError: if there are not two models, they share no class, or one of them does not know the label.
        OSError: if a file cannot be written.
    """
    if len(entries) < 2:
        raise ValueError("give two models or more to compare")
    text = label if label is not None else common_classes(entries)
    columns, rows, made = [], [], []
    for entry, name in zip(entries, folder_names([entry.title for entry in entries]), strict=True):
        knows = bool(entry.model.labels) and entry.model.module.denoiser.net.classes
        asked = generate.ask(entry.model, n, text if knows else None)
        folder, _ = generate.make_sounds(
            entry.model,
            Path(out) / name,
            asked,
            sampler=sampler,
            seed=seed,
            batch_size=batch_size,
            record=record,
            progress=None if progress is None else lambda done, total, t=entry.title: progress(t, done, total),
        )
        sounds = [folder.sounds[i] for i in range(n)]
        columns.append(page.Column(entry.title, [folder.path / s["file"] for s in sounds]))
        rows = rows if any(rows) and not knows else [f"{s['number']:03d} {s['label']}" for s in sounds]
        made.append(folder)
    note = f"Each row is one noise, number and class the same in every column; seed {seed}, at the level made."
    path = Path(single) if single else Path(out) / "index.html"
    title = f"Compared: {', '.join(entry.title for entry in entries)}"
    page.write(path, title, rows, columns, note, [_facts(entries, made)], embed=bool(single))
    return path


def common_classes(entries: Sequence[Entry]) -> str | None:
    """The classes that all models with classes know, as text; None where no model knows any."""
    knowing = [entry for entry in entries if entry.model.labels and entry.model.module.denoiser.net.classes]
    if not knowing:
        return None
    shared = [c for c in knowing[0].model.labels if all(c in entry.model.labels for entry in knowing)]
    if not shared:
        theirs = "; ".join(f"{entry.title}: {listed(entry.model.labels)}" for entry in knowing)
        raise ValueError(f"the models share no class ({theirs}): nothing to compare side by side")
    return ",".join(typed(c) for c in shared)


def folder_names(titles: Sequence[str]) -> list[str]:
    """A folder for each title, all different."""
    names = [page.slug(title) for title in titles]
    return [name if names.count(name) == 1 else f"{k + 1}-{name}" for k, name in enumerate(names)]


def facts(entry: Entry, folder: SoundFolder) -> dict[str, str]:
    """What is told of a model: what it is, how its sounds were made, and the last of each figure up to its step."""
    module = entry.model.module
    asked = [one for one in module.denoisers if one is not module.denoiser.weak]
    weights = sum(p.numel() for one in asked for p in one.net.parameters())
    told = {
        "step": f"{entry.model.step:,}",
        "weights": f"{weights / 1e6:.2f} million",
        "process": type(module.denoiser.sde).__name__,
        "sampler": f"{folder.record['sampler']}, {folder.nfe} network calls a sound",
        "guidance": str(folder.record["guidance"]),
    }
    for name, series in _figures(entry).items():
        known = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if s <= entry.model.step]
        if known and not BUCKET.fullmatch(name) and (name == "train/loss" or name.startswith("val/")):
            told[name] = f"{known[-1][1]:.4g} (step {known[-1][0]:,})"
    if entry.evaluation is not None:
        for metrics in report.metric_tables(report.read_json(entry.evaluation)):
            for title, cells in metrics.rows:
                if cells[0] is not None:  # of all sounds; those of each class follow
                    value, floor = (_short(cells[0].get(key)) for key in ("value", "floor"))
                    told[f"{title}, {metrics.embedding}"] = f"{value} (floor {floor})"
    return told


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _figures(entry: Entry) -> dict[str, history.Series]:
    return history.read(entry.run / history.FILE) if entry.run is not None else {}


def _facts(entries: Sequence[Entry], folders: Sequence[SoundFolder]) -> page.Section:
    told = [facts(entry, folder) for entry, folder in zip(entries, folders, strict=True)]
    names = list(dict.fromkeys(name for one in told for name in one))
    head = "".join(f'<th scope="col">{_markup(entry.title)}</th>' for entry in entries)
    body = "".join(
        f'<tr><th scope="row">{_markup(name)}</th>'
        + "".join(f"<td>{_markup(one.get(name, '–'))}</td>" for one in told)
        + "</tr>"
        for name in names
    )
    table = f'<table class="facts"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    table = f'<div class="wide" tabindex="0" role="region" aria-label="Figures">{table}</div>'
    figures = [(entry.title, _figures(entry)) for entry in entries]
    losses = [Line(t, f["val/loss"].steps, f["val/loss"].values) for t, f in figures if "val/loss" in f]
    levels = []
    for title, found in figures:
        points = by_noise_level(found).get("val/loss")
        if points:
            middles = [sigma * 10**0.5 for sigma in points]  # of the decades
            levels.append(Line(title, middles, [series.values[-1] for series in points.values()]))
    charts = chart("Validation loss", losses, "step", log_y=True)
    charts += chart("Loss by noise level, last validation", levels, NOISE, log_x=True, log_y=True, last=False)
    note = (
        "Losses compare where the data, the process and the weight of the loss are the same; distances of `evaluate` "
        "are beside their floor, real sounds against real ones."
    )
    return page.Section("Figures", note, table + (f'<div class="charts">{charts}</div>' if charts else ""))


def _markup(text: str) -> str:
    return escape_html(printable(text))
