"""Lay generated sounds against real ones: distances beside their floor, classes, levels, and nearest neighbours."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from rich import box
from rich.console import Console
from rich.table import Table

from diffwave_sde import audio, checkpoint, page, samplers
from diffwave_sde.atomic import atomic_write
from diffwave_sde.cli import cores, led, runs, sample
from diffwave_sde.data import sources
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.store import Store
from diffwave_sde.metrics import CHOICES, EMBEDDINGS, Embedding, SoundSet, embedding, evaluate
from diffwave_sde.progress import progress_bar

SHOWN = {
    "frechet": "Fréchet",
    "kernel": "kernel",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "right class",
}
# Narrow enough for 80 columns with all the measurements, or four classes.
_PLAIN = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde evaluate", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument(
        "--real",
        type=str | None,
        help="real sounds: a folder, a store, or a dataset's name (default: what the model was trained on)",
    )
    p.add_argument(
        "--generated", type=str | None, help="generated sounds: a folder or a store (default: made now from --ckpt)"
    )
    p.add_argument("--ckpt", type=str | None, help=runs.CKPT)
    p.add_argument("--n", type=int, default=96, help="number of sounds to make from the checkpoint")
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler (default: the one the model was trained with)"
    )
    led.add(p)
    p.add_argument("--batch_size", type=int, default=16, help="sounds made at a time")
    p.add_argument("--device", type=sample.Device, default="auto", help="where to compute")
    p.add_argument(
        "--embedding",
        type=str,
        default=",".join(EMBEDDINGS),
        help=f"embeddings, a,b,...: {CHOICES}, the last three with weights of your own",
    )
    p.add_argument("--length", type=int, default=audio.LENGTH, help="samples of a real recording that are compared")
    p.add_argument(
        "--count", type=int | None, help="sounds of each set in a resampling (default: as many as there are)"
    )
    p.add_argument("--rounds", type=int, default=20, help="resamplings, for the means and their spread")
    p.add_argument("--most", type=int, default=2000, help="sounds of a set that are read at most, chosen by chance")
    p.add_argument("--seed", type=int, default=0, help="seed of the sounds and of the resamplings")
    p.add_argument(
        "--out", type=str | None, help="folder for evaluation.json and the page (default: beside the sounds)"
    )
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde evaluate`."""
    config = parser().parse_args(argv[1:])
    if config.rounds < 1 or config.most < 4 or config.n < 2:
        raise ValueError(
            f"--rounds {config.rounds}, --most {config.most}, --n {config.n}: need 1 round, 4 and 2 sounds at least"
        )
    if config.count is not None and config.count < 2:
        raise ValueError(f"--count {config.count}: a distance needs at least 2 sounds")
    embeddings = _embeddings(config.embedding)
    cores.limit_threads()
    if config.generated is None or config.real is None:
        ckpt = runs.given_or_newest(config.ckpt, "evaluate")
    if config.generated is None:
        config.generated = str(_make(ckpt, config))
    real = trained_on(ckpt, config) if config.real is None else sounds_of(config.real, config, real=True)
    generated = sounds_of(config.generated, config, real=False)
    with progress_bar("steps") as progress:
        task = progress.add_task("comparing")

        def report(what: str, done: int, steps: int) -> None:
            progress.update(task, description=what, completed=done, total=steps)

        found = evaluate(real, generated, embeddings, config.rounds, config.count, config.seed, report)
    home = Path(config.generated)
    out = Path(config.out) if config.out else home.with_name(f"{home.resolve().name}-evaluation")
    sample.writable(out)
    with atomic_write(out / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(_finite(found), indent=1), encoding="utf-8")
    _page(out, real, generated, found)
    _report(found)
    print(f"{out / 'evaluation.json'}; the nearest pairs to hear: {out / 'index.html'}")


def _embeddings(asked: str) -> list[Embedding]:
    try:
        chosen = [embedding(text.strip()) for text in asked.split(",")]
    except ValueError as error:
        raise ValueError(f"--embedding: {error}") from error
    names = [one.name for one in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--embedding {asked}: {twice[0]} stands there twice")
    return chosen


def _make(ckpt: str | Path, config: Namespace) -> Path:
    """Sounds of a checkpoint, made as by `sample`, so that a stopped evaluation goes on with those that are there."""
    path = checkpoint.find(ckpt)
    folder = runs.place(path, "evaluation") / f"{path.stem}-seed={config.seed}"
    options = {"ckpt": str(path), "out": str(folder)}
    options |= {name: config[name] for name in ("n", "seed", "batch_size", "device", "weak")}
    options["guidance"] = led.said(config)
    if config.sampler:
        options["sampler"] = config.sampler.as_dict()
    return sample.make(sample.parser().parse_object(options))


def trained_on(ckpt: str | Path, config: Namespace) -> SoundSet:
    """The training clips of a checkpoint."""
    path = checkpoint.find(ckpt)
    data = checkpoint.data(path, mu=0)
    data.prepare_data()
    data.setup("fit")
    return _of_store(data.store, data.splits["train"], f"training clips of {path}", config)


def _of_store(store: Store, rows: np.ndarray, name: str, config: Namespace) -> SoundSet:
    rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[: config.most])
    sounds = audio.from_int16(store.read(rows)).view(len(rows), -1)
    return SoundSet(sounds, tuple(store.labels[i] for i in store.label_ids[rows]), name)


def sounds_of(origin: str, config: Namespace, real: bool) -> SoundSet:
    """The sounds of a folder, a store or a dataset.

    Real recordings are cut to windows as training clips are; generated ones are taken as they are, at their own levels.
    """
    path = Path(origin)
    if (path / "settings.json").is_file():
        store = Store.open(path)
        return _of_store(store, np.arange(len(store)), origin, config)
    if real and not path.is_dir():
        data = AudioDataModule(origin, length=config.length, mu=0, workers=0)
        data.prepare_data()
        data.setup("fit")
        return _of_store(data.store, np.arange(len(data.store)), origin, config)
    if not path.is_dir():
        raise ValueError(f"{origin}: no such folder; --generated is a folder of sounds or a store")
    files, refused, _ = sources.scan(path)
    chosen = sorted(np.random.default_rng(config.seed).permutation(len(files))[: config.most])
    sounds, labels = [], []
    told = {} if real else _told(path)
    with progress_bar("files") as progress:
        for i in progress.track(chosen, description=f"reading {origin}"):
            above = files[i].rpartition("/")[0]
            try:
                x = audio.read(path / files[i], seconds=30.0)[0]
                x = audio.window(x, config.length) if real else x
            except (OSError, ValueError) as error:
                refused.append((files[i], str(error)))
                continue
            sounds.append(x)
            labels.append(told.get(files[i]) or above.rpartition("/")[2])
    if refused:
        unheard = [f"{file}: {why}" for file, why in refused if not why.startswith("not audio")]
        if unheard:
            print(f"diffwave-sde: {origin}: {len(unheard)} files left out; {unheard[0]}", file=sys.stderr)
    if not sounds:
        raise ValueError(f"{origin}: holds no sounds that can be read")
    length = max(map(len, sounds))
    padded = torch.stack([torch.nn.functional.pad(x, (0, length - len(x))) for x in sounds])
    return SoundSet(padded, tuple(labels), origin)


def _told(folder: Path) -> dict[str, str]:
    """The classes that `sample` wrote beside its sounds."""
    try:
        return {s["file"]: s["label"] for s in json.loads((folder / "sounds.json").read_text())["sounds"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _finite(value: Any) -> Any:
    """The same with null for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(out: Path, real: SoundSet, generated: SoundSet, found: dict, most: int = 12) -> None:
    """The generated sounds that are nearest to a real one, each beside it."""
    near = found["neighbours"]
    order = sorted(range(len(near["distance"])), key=lambda i: near["distance"][i])[:most]
    rows = [f"{k:02d} {generated.labels[i]}, distance {near['distance'][i]:.2f}" for k, i in enumerate(order)]
    length = max(real.sounds.shape[1], generated.sounds.shape[1])
    columns = []
    for title, part, which in (
        ("generated", generated, order),
        ("nearest real sound", real, [near["nearest"][i] for i in order]),
    ):
        sounds = torch.nn.functional.pad(part.sounds[which], (0, length - part.sounds.shape[1]))
        names = [f"{k:02d}" for k in range(len(which))]
        columns.append(page.Column(title, page.write_sounds(out / title.split()[0], names, sounds)))
    note = (
        f"{generated.name} beside {real.name}. A real sound lies {near['typical']:.2f} from its nearest other one in "
        "the median; a pair far below that may be a training sound learned by heart."
    )
    page.write(out / "index.html", "Nearest neighbours", rows, columns, note)


def _report(found: dict) -> None:
    console = Console()
    for name, parts in found["embeddings"].items():
        print(f"\n{name}; below each figure its floor, real against real")
        rest = list(parts)
        while rest:
            # As many columns as the terminal has room for: the other classes follow below.
            widths = range(len(rest), 0, -1)
            tables = (_figures({part: parts[part] for part in rest[:k]}) for k in widths)
            k, table = next((k, t) for k, t in zip(widths, tables, strict=True) if k == 1 or _fits(console, t))
            print()
            console.print(table)
            rest = rest[k:]
    table = Table("", "real (10 %, 90 %)", "generated", "apart", "floor", **_PLAIN)
    for name, m in found["measurements"].items():
        cells = [_range(m[which]) for which in ("real", "generated")]
        apart = [_or_dash(m[which], ".2f") for which in ("difference", "floor")]
        table.add_row(f"{name.replace('_', ' ')}, {m['unit']}", *cells, *apart)
    print()
    console.print(table)
    print()
    if alone := found.get("left_out"):
        print(f"not in the distances, with one real sound alone: {', '.join(alone)}")
    near = found["neighbours"]
    print(
        f"closer to a training sound than real ones are to one another: {near['close']:.1%}\n"
        f"closer to another generated one: {near['duplicates']:.1%} (real ones: {near['repeated']:.1%})"
    )


def _figures(parts: dict[str, dict]) -> Table:
    """The figures of an embedding, a column for each part."""
    table = Table("", *[f"{part} ({figures['count']})" for part, figures in parts.items()], **_PLAIN)
    for key, title in SHOWN.items():
        if any(key in figures for figures in parts.values()):
            table.add_row(title, *[_cell(figures.get(key)) for figures in parts.values()])
    return table


def _fits(console: Console, table: Table) -> bool:
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _range(quantiles: list[float]) -> str:
    low, median, high, _ = quantiles
    return f"{_short(median)} ({_short(low)}, {_short(high)})" if math.isfinite(median) else "–"


def _short(value: float) -> str:
    """Three digits, of which two behind the point at most."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 2):.3g}"


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _cell(figure: dict | None) -> str:
    if figure is None:
        return ""
    digits = 1 if abs(figure["value"]) >= 10 else 3
    value, spread, floor = (_or_dash(figure[name], f".{digits}f") for name in ("value", "spread", "floor"))
    return f"{value} ± {spread}\n[dim]{floor}[/dim]"
