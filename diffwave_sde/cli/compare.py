"""Lay the sounds of two or more models side by side: the same noises through each, on one page, with their figures."""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from diffwave_sde import checkpoint, samplers
from diffwave_sde.cli import model_options, runs
from diffwave_sde.cli.path_options import expanded, parse
from diffwave_sde.comparison import Entry, compare, folder_names
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds.run_page import size


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde compare", description=__doc__, exit_on_error=False)
    p.add_argument(
        "models",
        type=str,
        nargs="+",
        help="two or more: a run's folder, a checkpoint, an exported model, or the name of one that comes with the "
        "program",
    )
    p.add_argument("--n", type=int, default=8, help="number of sounds of each")
    p.add_argument(
        "--label", type=str | None, help="classes, a,b,..., in turn, or mixes (default: all that the models share)"
    )
    p.add_argument(
        "--out",
        type=str | None,
        help="folder for the sounds and the page, or a file NAME.html that holds all (default: compare/A-B)",
    )
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler of all of them (default: each model's own)"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the noise")
    p.add_argument(
        "--batch_size", type=int, default=16, help="sounds made at a time; changes the speed, not the sounds"
    )
    p.add_argument("--device", type=model_options.Device, default="auto", help="where to compute")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde compare`."""
    make(parse(parser(), argv[1:]))


def make(config: Namespace) -> Path:
    """Compare what the options name; the page."""
    if len(config.models) < 2:
        raise ValueError(f"{config.models[0]} alone: name two models or more to compare")
    if config.n < 1 or config.batch_size < 1:
        raise ValueError(f"--n {config.n} and --batch_size {config.batch_size}: must be at least 1")
    where = model_options.device(config.device)
    sampler = parser().instantiate_classes(config).sampler
    entries = [_entry(expanded("models", text), where) for text in config.models]
    twice = [entry.title for entry in entries]
    entries = [
        e if twice.count(e.title) == 1 else replace(e, title=f"{e.title}, step {e.model.step:,}") for e in entries
    ]
    single = Path(config.out) if config.out and config.out.lower().endswith((".html", ".htm")) else None
    default = Path("compare") / "-".join(folder_names([entry.title for entry in entries]))[:200]
    out = Path(config.out) if config.out and single is None else default
    for folder in (out, *([single.parent] if single else [])):
        runs.writable(folder)
    with progress_bar("sounds") as progress:
        tasks = {entry.title: progress.add_task(entry.title, total=config.n) for entry in entries}
        page = compare(
            entries,
            out,
            config.n,
            config.label,
            sampler=sampler,
            seed=config.seed,
            batch_size=config.batch_size,
            single=single,
            record={"options": config.sampler.as_dict() if config.sampler else "the model's own"},
            progress=lambda title, done, total: progress.update(tasks[title], completed=done, total=total),
        )
    names = ", ".join(entry.title for entry in entries)
    whole = f"; {size(page)}, complete in itself" if single else ""
    print(f"{config.n} noises through {names}; the sounds are in {out}/; listen: {page}{whole}")
    return page


def _entry(text: str, where: str) -> Entry:
    path = checkpoint.find(text)
    model = checkpoint.load(path, device=where, cascade=True, latent=True)
    folder = runs.folder_of(path)
    name = folder.resolve().name if folder else path.resolve().parent.name if checkpoint.is_export(path) else path.stem
    # As `evaluate` leaves it, of this checkpoint; the newest where there are several.
    found = runs.output_dir(path, "evaluation").glob(f"{glob.escape(path.stem)}-seed=*-evaluation/evaluation.json")
    return Entry(name, model, folder, max(found, key=lambda file: file.stat().st_mtime, default=None))
