"""Lay generated sounds against real ones: distances beside their floor, classes, levels, and nearest neighbours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffwave_sde import audio, checkpoint, paths, samplers
from diffwave_sde.cli import cascade_options, cores, guidance_options, model_options, runs, sample
from diffwave_sde.cli.path_options import parse
from diffwave_sde.metrics import CHOICES, EMBEDDINGS, Embedding, SoundSet, embedding, evaluate, report
from diffwave_sde.metrics.agreement import follow
from diffwave_sde.metrics.sets import HeldOut, Reader
from diffwave_sde.names import split
from diffwave_sde.progress import progress_bar

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
    p.add_argument(
        "--n",
        type=int,
        default=96,
        help="number of sounds to make from the checkpoint; of a model that goes by contexts, parts for as many pairs "
        "that were held out of its training, whose own parts are the real sounds",
    )
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler (default: the one the model was trained with)"
    )
    guidance_options.add(p)
    guidance_options.add_classifier(p)
    cascade_options.add(p)
    p.add_argument("--batch_size", type=int, default=16, help="sounds made at a time")
    p.add_argument("--device", type=model_options.Device, default="auto", help="where to compute")
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
    p.add_argument("--resamples", type=int, default=20, help="resamplings, for the means and their spread")
    p.add_argument(
        "--max_sounds", type=int, default=2000, help="sounds of a set that are read at most, chosen by chance"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the sounds and of the resamplings")
    p.add_argument(
        "--out", type=str | None, help="folder for evaluation.json and the page (default: beside the sounds)"
    )
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde evaluate`."""
    config = parse(parser(), argv[1:])
    if config.resamples < 1 or config.max_sounds < 4 or config.n < 2:
        raise ValueError(
            f"--resamples {config.resamples}, --max_sounds {config.max_sounds}, --n {config.n}: need 1 resampling, 4 "
            "and 2 sounds at least"
        )
    if config.count is not None and config.count < 2:
        raise ValueError(f"--count {config.count}: a distance needs at least 2 sounds")
    embeddings = _embeddings(config.embedding)
    cores.limit_threads()
    if config.generated is None or config.real is None:
        ckpt = runs.given_or_newest(config.ckpt, "evaluate")
    held = None
    if config.generated is None:
        folder, held = _make(ckpt, config)
        config.generated = str(folder)
    if held is not None and config.real is None:
        real = held.sounds
    else:
        real = _read(config, "real", checkpoint.find(ckpt) if config.real is None else None)
    generated = _read(config, "generated")
    with progress_bar("steps") as progress:
        task = progress.add_task("comparing")

        def tell(what: str, done: int, steps: int) -> None:
            progress.update(task, description=what, completed=done, total=steps)

        found = evaluate(real, generated, embeddings, config.resamples, config.count, config.seed, tell)
    home = paths.expand(config.generated)
    if held is not None:
        found["agreement"] = _agreement(home, held, config.seed)
    out = Path(config.out) if config.out else home.with_name(f"{home.resolve().name}-evaluation")
    runs.writable(out)
    report.write_json(out / "evaluation.json", found)
    page = report.write_page(out, real, generated, found)
    _print(report.plain(found))
    print(f"{out / 'evaluation.json'}; the nearest pairs to hear: {page}")


def _embeddings(asked: str) -> list[Embedding]:
    try:
        chosen = [embedding(text) for text in split(asked)]
    except ValueError as error:
        raise ValueError(f"--embedding: {error}") from error
    names = [one.name for one in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--embedding {asked}: {twice[0]} stands there twice")
    return chosen


def _make(ckpt: str | Path, config: Namespace) -> tuple[Path, HeldOut | None]:
    """Sounds of a checkpoint, made as by `sample`, so that a stopped evaluation goes on with those that are there.

    Of a model that goes by contexts they are parts for pairs that were not trained on, which are given too.
    """
    path = checkpoint.find(ckpt)
    folder = runs.output_dir(path, "evaluation") / f"{path.stem}-seed={config.seed}"
    options = {"ckpt": str(path), "out": str(folder)}
    options |= {name: config[name] for name in ("n", "seed", "batch_size", "device", "weak", "classifier")}
    options["guidance"] = guidance_options.explicit_options(config)
    options["cascade"] = config.cascade.as_dict() if config.cascade else {}
    if config.sampler:
        options["sampler"] = config.sampler.as_dict()
    asked = sample.parser().parse_object(options)
    model, held = model_options.load(asked, "evaluate", cascade=True, latent=True), None
    if model.hears:
        reader = Reader(config.length, config.max_sounds, config.seed)
        held = reader.held_out(checkpoint.data(path, mu=0), config.n)
        if len(held.labels) < config.n:
            print(f"{len(held.labels)} pairs of {held.dataset} were held out: as many parts are made")
            asked.n = len(held.labels)
    return sample.make(asked, model, held), held


def _agreement(folder: Path, held: HeldOut, seed: int) -> dict[str, Any]:
    """How far the parts of a folder follow their contexts, as `metrics.follow` gives it."""
    made = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))["sounds"][: len(held.labels)]
    parts = [audio.read(folder / sound["file"], held.rate)[0].double().numpy() for sound in made]
    return follow(parts, list(held.parts.double().numpy()), held.rate, held.scores, seed)


def _read(config: Namespace, which: str, ckpt: Path | None = None) -> SoundSet:
    """The set that an option asks for, or the training clips of a checkpoint."""
    origin, left_out = config[which], []
    with progress_bar("files") as progress:
        task = progress.add_task(f"reading {origin or ckpt}", total=None)
        reader = Reader(
            config.length,
            config.max_sounds,
            config.seed,
            lambda done, total: progress.update(task, completed=done, total=total),
            lambda file, reason: left_out.append(f"{file}: {reason}"),
        )
        if ckpt is not None:
            return reader.training(checkpoint.data(ckpt, mu=0), f"training clips of {ckpt}")
        try:
            found = getattr(reader, which)(origin)
        except ValueError as error:
            raise ValueError(f"--{which} {error}") from error
    if left_out:
        print(f"diffwave-sde: {origin}: {len(left_out)} files left out; {left_out[0]}", file=sys.stderr)
    return found


def _print(found: dict[str, Any]) -> None:
    """Print what was found, as `report.plain` has it."""
    console = Console()
    for metrics in report.metric_tables(found):
        print(f"\n{metrics.embedding}; below each figure its floor, real against real")
        first, last = 0, len(metrics.parts)
        while first < last:
            # As many columns as the terminal has room for: the other classes follow below.
            ends = range(last, first, -1)
            tables = (_table(metrics.columns(first, end)) for end in ends)
            fitting = ((end, t) for end, t in zip(ends, tables, strict=True) if end == first + 1 or _fits(console, t))
            first, table = next(fitting)
            print()
            console.print(table)
    table = Table("", "real (10 %, 90 %)", "generated", "apart", "floor", **_PLAIN)
    for row in report.measurement_rows(found):
        apart = (_number(x, 2) for x in (row.difference, row.floor))
        table.add_row(row.name, _range(row.real), _range(row.generated), *apart)
    print()
    console.print(table)
    print()
    if alone := found.get("left_out"):
        print(f"not in the distances, with one real sound alone: {', '.join(alone)}")
    print("\n".join(report.neighbour_lines(found)))
    if follows := found.get("agreement"):
        table = Table("", "made", "another's track", "p", "ceiling", "floor", **_PLAIN)
        for name, cells in report.agreement_rows(found):
            table.add_row(name, *cells)
        print(f"\ndo {follows['count']} parts follow their tracks? By the {follows['asked']} of each")
        console.print(table)


def _table(metrics: report.MetricTable) -> Table:
    """The figures of an embedding, a column for each part."""
    table = Table("", *[escape(f"{part} ({count})") for part, count in metrics.parts], **_PLAIN)
    for title, cells in metrics.rows:
        table.add_row(title, *map(_cell, cells))
    return table


def _fits(console: Console, table: Table) -> bool:
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _range(quantiles: tuple[float | None, ...]) -> str:
    low, median, high, _ = quantiles
    return "–" if median is None else f"{_short(median)} ({_short(low)}, {_short(high)})"


def _short(value: float) -> str:
    """Three digits, of which two behind the point at most."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 2):.3g}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _cell(figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    digits = 1 if abs(figure["value"] or 0.0) >= 10 else 3
    value, spread, floor = (_number(figure[name], digits) for name in ("value", "spread", "floor"))
    return f"{value} ± {spread}\n[dim]{floor}[/dim]"
