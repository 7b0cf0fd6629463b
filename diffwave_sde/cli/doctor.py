"""What is wrong with the files of a data set: a table, a page to hear each suspect, and a list for --data.exclude."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffwave_sde import audio, checkpoint
from diffwave_sde.atomic import atomic_write
from diffwave_sde.cli import cores, model_options, runs
from diffwave_sde.cli.path_options import parse
from diffwave_sde.collection import clips, doctor, outliers, scores
from diffwave_sde.collection.clips import Library
from diffwave_sde.collection.doctor import Finding
from diffwave_sde.likelihood import Bound
from diffwave_sde.names import folder_name
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds import page

KINDS = (
    "clipped", "coarse", "low-passed", "rate", "several hits", "copy", "label", "outlier", "silent", "unreadable",
    "imbalance",
)  # fmt: skip


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde doctor", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("dataset", type=str, help="a data set's name, or a folder of sounds")
    p.add_argument(
        "--ckpt",
        type=str | None,
        help="a model, for the outliers: a checkpoint, a run's folder, or one that comes with the program (default: "
        "none, and no outliers)",
    )
    p.add_argument(
        "--threshold", type=float, default=4.0, help="suspicion from which on a sound is an outlier, in robust sigmas"
    )
    p.add_argument("--length", type=int, default=audio.LENGTH, help="samples of a training window")
    p.add_argument("--n", type=int | None, help="sounds that are taken at most, chosen by chance (default: all)")
    p.add_argument("--count", type=int, default=6000, help="sounds of a built-in data set")
    p.add_argument("--seed", type=int, default=0, help="seed of a built-in data set, and of the choice of sounds")
    p.add_argument("--shown", type=int, default=24, help="suspects of each kind that the page has at most")
    p.add_argument("--root", type=str, default="data", help="folder for downloads")
    p.add_argument("--out", type=str | None, help="folder for the findings (default: doctor/DATASET)")
    p.add_argument("--device", type=model_options.Device, default="auto", help="where a model computes")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde doctor`."""
    config = parse(parser(), argv[1:])
    if config.shown < 1 or (config.n is not None and config.n < 1):
        raise ValueError(f"--shown {config.shown} and --n {config.n}: must be at least 1")
    cores.limit_threads()
    source = clips.source_of([config.dataset], config.root, config.count, config.seed)
    if source.paired:
        raise ValueError(f"{config.dataset} holds pairs: the doctor looks at one-shots; give a folder of them")
    out = Path(config.out) if config.out else Path("doctor") / (folder_name(source.name) or "sounds")
    runs.writable(out)
    with progress_bar("files") as progress:
        task = progress.add_task("reading", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        library = clips.read(source, config.length, config.n, config.seed, tell)
        progress.update(task, description="listening", completed=0)
        found = doctor.files(library, tell)
        for name, rule in doctor.RULES.items():
            progress.update(task, description=name)
            found += rule(library)
    if config.ckpt:
        found += _outliers(config, library, out)
    found.sort(key=lambda one: (KINDS.index(one.kind), one.file))
    _write(out, found)
    _page(out, source.name, library, found, config.shown)
    _print(found, len(library))
    print(f"all of them: {out / 'findings.csv'}; listen: {out / 'index.html'}")
    print(f"to train without the suspects, once you have heard them: --data.exclude {out / 'exclude.txt'}")


def _outliers(config: Namespace, library: Library, out: Path) -> list[Finding]:
    """What a model did not expect; a wrong class is told as one of the label."""
    model = checkpoint.load(checkpoint.find(config.ckpt), device=model_options.device(config.device))
    if model.length != config.length:
        raise ValueError(
            f"--length {config.length}: {config.ckpt} hears windows of {model.length} samples; give --length that"
        )
    with progress_bar("sounds") as progress:
        task = progress.add_task("asking the model", total=len(library))
        held = scores.score_library(
            *(model, Bound(1, 16), library, out, {"method": "bound", "terms": 16}, 0, 8, True),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return [
        Finding(one.row, library.files[one.row], "outlier", f"{one.why} ({one.suspicion:.1f})")
        for one in outliers.rank(library, held)
        if one.suspicion >= config.threshold
    ]


def _write(out: Path, found: list[Finding]) -> None:
    with atomic_write(out / "findings.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "kind", "told"])
        table.writerows((one.file, one.kind, one.told) for one in found)
    files = dict.fromkeys(one.file for one in found if one.excludes)
    why = {name: ", ".join(one.kind for one in found if one.file == name) for name in files}
    lines = ["# Files to leave out, one a line: delete those that are right.", "# --data.exclude takes this list."]
    lines += [line for name in files for line in (f"# {why[name]}", name)]
    with atomic_write(out / "exclude.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _page(out: Path, name: str, library: Library, found: list[Finding], shown: int) -> None:
    """A section for each kind; a file that is suspect for several reasons stands in the first of them."""
    suspects: dict[int, list[Finding]] = {}
    for one in found:
        if one.excludes:
            suspects.setdefault(one.row, []).append(one)
    kinds: dict[str, list[int]] = {}
    for row, own in suspects.items():
        kinds.setdefault(own[0].kind, []).append(row)
    sections = []
    for kind, rows in kinds.items():
        some = rows[:shown]
        names = [f"{len(sections) + 1}-{i + 1:03d}" for i in range(len(some))]
        written = page.write_sounds(out / "sounds", names, library.sounds(some)[:, 0])
        told = [[one.told if one.kind == kind else f"{one.kind}: {one.told}" for one in suspects[row]] for row in some]
        column = page.Column(kind, written, captions=["; ".join(parts) for parts in told])
        title = f"{kind.capitalize()} ({len(rows)})"
        note = f"The first {shown} of them; the others are in findings.csv, or here with a larger --shown."
        files = [library.files[row] for row in some]
        note = note if len(rows) > shown else ""
        sections.append(page.Section(title, note, rows=files, columns=[column], listed=True))
    note = f"{len(suspects)} of {len(library)} files. A finding is a suspicion: hear it before you leave a file out."
    page.write(out / "index.html", f"Suspects in {name}", [], [], note, sections)


def _print(found: list[Finding], count: int) -> None:
    counts = Counter(one.kind for one in found)
    table = Table("finding", "how many", "the first")
    for kind in KINDS:
        if counts[kind]:
            first = next(one for one in found if one.kind == kind)
            table.add_row(kind, str(counts[kind]), Text(f"{first.file}: {first.told}", overflow="fold"))
    if counts:
        Console().print(table)
    suspects = len({one.row for one in found if one.excludes})
    print(f"{suspects} suspects of {count} files" if counts else f"nothing wrong with {count} files")
