"""Write the page of a run: its sounds step by step, its figures, its spikes; or all of it as one file to send."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from diffwave_sde.cli import runs
from diffwave_sde.cli.path_options import parse
from diffwave_sde.sounds import run_page


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde page", description=__doc__, exit_on_error=False)
    p.add_argument("run", type=str | None, nargs="?", help="a run's folder, or its name (default: the newest run)")
    p.add_argument(
        "--out",
        type=str | None,
        help="one HTML file that holds the sounds, as FLAC of 16 bits (default: RUN/samples/index.html, with links)",
    )
    p.add_argument(
        "--steps",
        type=int | None,
        help="steps of training that are shown at most, spread from the first to the last (default: 8 in one file, all "
        "otherwise)",
    )
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde page`."""
    config = parse(parser(), argv[1:])
    if config.steps is not None and config.steps < 1:
        raise ValueError(f"--steps {config.steps}: show at least one step")
    folder = runs.folder(config.run)
    if not config.out:
        print(f"listen: {run_page.write(folder, steps=config.steps)}")
        return
    out = Path(config.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {config.out}: name the file, such as page.html")
    runs.writable(out.parent)
    run_page.write(folder, out, embed=True, steps=config.steps or 8)
    print(f"{out}: {run_page.size(out)}, complete in itself")
