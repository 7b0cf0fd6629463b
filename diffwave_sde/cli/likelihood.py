"""How probable a model finds sounds: bits per sample by class, a CSV line for each; --rank sorts out what it did not
expect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffwave_sde import checkpoint, likelihood
from diffwave_sde.cli import model_options, runs
from diffwave_sde.cli.path_options import parse
from diffwave_sde.collection import clips, outliers, scores
from diffwave_sde.collection.clips import Library
from diffwave_sde.names import folder_name
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds import page

DATA = "sounds: a data set's name, a folder, or files"


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde likelihood", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str | None, help=runs.CKPT)
    p.add_argument("--data", type=str, nargs="+", help=f"{DATA} (default: the clips held out from the training)")
    p.add_argument(
        "--method",
        type=Literal["flow", "bound", "proxy"],
        default="bound",
        help="flow: the density of the probability flow; bound: the variational bound of the chain; proxy: a weighted "
        "loss at fixed noises, which only ranks",
    )
    p.add_argument("--probes", type=int, default=4, help="estimates of each sound, for its standard error")
    p.add_argument(
        "--steps", type=int | None, help="flow: steps of Heun's method, two calls each (default: as --tolerance asks)"
    )
    p.add_argument("--tolerance", type=float, default=1e-5, help="flow: relative tolerance of the adaptive solver")
    p.add_argument(
        "--trace",
        type=Literal["hutchinson", "exact"],
        default="hutchinson",
        help="flow: the trace by random probes, or exactly, with a backward pass for each sample",
    )
    p.add_argument(
        "--noise", type=Literal["rademacher", "gaussian"], default="rademacher", help="flow: the law of the probes"
    )
    p.add_argument(
        "--dequantise",
        type=Literal["uniform", "variational"],
        default="uniform",
        help="flow: where in the cell of its 16-bit level each sample is moved: anywhere, or by a law fitted to the "
        "model, for fewer bits where a cell is wider than the model's noise (companded silence)",
    )
    p.add_argument(
        "--draws",
        type=int,
        default=1,
        help="flow: places in the cells that each sound is asked at, which cost as much each; more come closer to the "
        "bits of the cells, in short sounds above all; 2 or more take at least 2 --probes",
    )
    p.add_argument(
        "--terms", type=int, default=32, help="bound and proxy: noise levels of an estimate, a call of the network each"
    )
    p.add_argument("--n", type=int | None, help="sounds that are taken at most, chosen by chance (default: all)")
    p.add_argument("--count", type=int, default=6000, help="sounds of a built-in data set")
    p.add_argument("--data_seed", type=int, default=0, help="seed of a built-in data set")
    p.add_argument(
        "--rank",
        action="store_true",
        help="sort the sounds by how little the model expects them, corrected for their complexity, with a page to "
        "hear both ends of the list",
    )
    p.add_argument("--ends", type=int, default=12, help="--rank: sounds of each end that the page has")
    p.add_argument("--seed", type=int, default=0, help="seed of the probes, of the noises and of the choice of sounds")
    p.add_argument("--batch_size", type=int, default=8, help="sounds at a time; changes the speed, not the figures")
    p.add_argument("--root", type=str, default="data", help="folder for downloads")
    p.add_argument("--out", type=str | None, help="folder for the tables (default: RUN/likelihood/DATA-METHOD)")
    p.add_argument(
        "--weights", type=Literal["averaged", "raw"], default="averaged", help="averaged (EMA) or raw weights"
    )
    p.add_argument("--device", type=model_options.Device, default="auto", help="where to compute")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde likelihood`."""
    config = parse(parser(), argv[1:])
    for option in ("n", "batch_size", "ends", "count"):
        if config[option] is not None and config[option] < 1:
            raise ValueError(f"--{option} {config[option]}: must be at least 1")
    estimator, options = _estimator(config)
    dequantisation = _dequantisation(config, estimator)
    if dequantisation != likelihood.Dequantisation():
        options |= {"dequantise": config.dequantise, "draws": config.draws}
    where = model_options.device(config.device)
    model = checkpoint.load(runs.given_or_newest(config.ckpt, "ask"), config.weights, where)
    library, name = _library(config, model)
    out = Path(config.out) if config.out else runs.output_dir(model.path, "likelihood") / f"{name}-{config.method}"
    runs.writable(out)
    options |= {"weights": config.weights, "data": name}
    with progress_bar("sounds") as progress:
        task = progress.add_task(config.method, total=len(library))
        found = scores.score_library(
            *(model, estimator, library, out, options, config.seed, config.batch_size, config.rank, dequantisation),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _print(scores.summarise(found), estimator.kind(model.module.denoiser.sde))
    if unknown := sorted({score.label for score in found if not score.known}):
        print(f"asked without a class, since the model knows none of that name: {', '.join(unknown)}")
    for file, why in library.refused[:3]:
        print(f"left out: {file}: {why}")
    print(f"each sound: {out / scores.TABLE}")
    if config.rank:
        unit = "of the proxy" if config.method == "proxy" else "bits per sample"
        _rank(library, name, found, out, config.ends, unit)


def _estimator(config: Namespace) -> tuple[likelihood.Estimator, dict[str, Any]]:
    """The estimator, and all that it follows from."""
    names = {
        "flow": ("probes", "noise", "trace", "steps", "tolerance"), "bound": ("probes", "terms"), "proxy": ("terms",),
    }[config.method]  # fmt: skip
    options = {name: config[name] for name in names}
    try:
        return likelihood.METHODS[config.method](**options), {"method": config.method, **options}
    except ValueError as error:
        raise ValueError(f"--method {config.method}: {error}") from error


def _dequantisation(config: Namespace, estimator: likelihood.Estimator) -> likelihood.Dequantisation:
    """How a density becomes the probability of a cell."""
    try:
        found = likelihood.Dequantisation(config.dequantise, config.draws)
        found.check(estimator)
    except ValueError as error:
        raise ValueError(f"--method {config.method}: {error}") from error
    if config.method != "flow" and found != likelihood.Dequantisation():
        raise ValueError(
            f"--dequantise {config.dequantise} and --draws {config.draws} are of --method flow: the bound counts cells "
            "themselves, and the proxy only ranks"
        )
    return found


def _library(config: Namespace, model: checkpoint.LoadedModel) -> tuple[Library, str]:
    with progress_bar("files") as progress:
        task = progress.add_task("reading", total=None)
        if not config.data:
            data = checkpoint.data(model.path, mu=model.mu)
            return clips.from_store(data.store, data.splits["validation"], config.n, config.seed), "held-out"
        source = clips.source_of(config.data, config.root, config.count, config.data_seed, model.length, model.rate)
        read = clips.read(
            *(source, model.length, config.n, config.seed),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    return read, folder_name(source.name) or "sounds"


def _print(rows: list[scores.Summary], kind: str) -> None:
    proxy = kind == "proxy"
    unit = "proxy" if proxy else "bits per sample" + (", at most" if kind == "bound" else "")
    table = Table("class", "sounds", unit, "±", "nats per sound", "±", "exact zeros")
    for row in rows:
        numbers = [f"{row.bits:.3f}", _number(row.bits_error, 3), f"{row.nats:.0f}", _number(row.nats_error, 0)]
        table.add_row(Text(row.label), str(row.count), *numbers, f"{100 * row.silence:.0f} %")
    Console().print(table)
    if proxy:
        print("a proxy: lower is more expected, and no more than the order is meant")


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _rank(library: Library, name: str, found: list[scores.Score], out: Path, ends: int, unit: str) -> None:
    """Print the least expected, and write the list and the page; bits are in `unit`."""
    ranked = outliers.rank(library, found)
    outliers.write(out / "rank.csv", library, found, ranked)
    shown = ranked[:ends], ranked[::-1][:ends]
    sections = []
    for title, part in zip(("Least expected", "Most expected"), shown, strict=True):
        names = [f"{i + 1:03d}" for i in range(len(part))]
        sounds = library.sounds([one.row for one in part])[:, 0]
        files = page.write_sounds(out / "sounds" / title.lower().replace(" ", "-"), names, sounds)
        told = [
            f"{library.labels[one.row]}: {one.why}. Suspicion {one.suspicion:.1f}, {found[one.row].bits:.2f} {unit}"
            for one in part
        ]
        column = page.Column(title, files, captions=told)
        rows = [library.files[one.row] for one in part]
        sections.append(page.Section(title, rows=rows, columns=[column], listed=True))
    note = (
        f"The two ends of {len(ranked)} sounds. Suspicion is in robust standard deviations: the larger of the bits "
        "beyond what FLAC's bits explain, and of how much better another class explains the sound."
    )
    page.write(out / "index.html", f"What the model did not expect in {name}", [], [], note, sections)
    table = Table("least expected", "class", "suspicion", "why")
    for one in shown[0]:
        table.add_row(
            Text(library.files[one.row], overflow="fold"), library.labels[one.row], f"{one.suspicion:.1f}", one.why
        )
    Console().print(table)
    print(f"all of them: {out / 'rank.csv'}; listen: {out / 'index.html'}")
