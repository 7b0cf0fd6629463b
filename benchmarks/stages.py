"""One stage, a cascade, latents, and drafts that are refined: which is nearest to the data after the same time?

    python benchmarks/stages.py [--only 'cascade|one'] [--seeds 0,1] [--scale 1] [--parallel 1] [--markdown FILE]
    python benchmarks/stages.py --scale 4 --root runs/longer --parallel 6 -- --data.batch_size=64    (a GPU)
    python benchmarks/stages.py --cost                                 seconds a sound of each line, in turn

Each run takes as many steps as half an hour of one core is good for, times --scale; of latents the autoencoder's part
is 13 minutes of it. A draft is made by one run and refined by another, so it has the time of both: beside it stands one
stage of twice the steps. Each line is a way to make sounds with a run: 96 of them by each of two seeds of sampling are
laid against the training clips, `learned` Fréchet distances, all and by class. Runs and figures are kept in --root, and
what is there is not made again: a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from tables import markdown, mean, write

from diffwave_sde import checkpoint
from diffwave_sde.atomic import atomic_write
from diffwave_sde.cascade import Handover
from diffwave_sde.cli.kinds import CONFIGS
from diffwave_sde.drafts import Draft

LEAN = [
    "--trainer.logger=false",
    "--trainer.callbacks=[EMA, Progress, LastCheckpoint]",
    "--trainer.limit_val_batches=0",
    "--trainer.precision=32-true",  # on every machine: a GPU's own default is bf16-mixed
]
CLASSES = "all", "cymbal", "kick", "snare"


class Run(NamedTuple):
    """A training, of the networks that a CPU can train, whatever the machine.

    steps: half an hour of one core, with those of the run that it needs.
    configs: names of files in configs/.
    needs: whose latents it learns.
    batch: clips of a step.
    """

    steps: int
    configs: tuple[str, ...] = ("network/tiny",)
    needs: str | None = None
    batch: int = 16


RUNS = {
    "one": Run(1200),
    "twice": Run(2400),
    "cascade": Run(1100, ("cascade/tiny", "experiment/cascade")),
    "vae": Run(900, ("autoencoder/tiny", "experiment/vae"), batch=8),
    "latents": Run(1000, ("experiment/latent",), needs="vae"),
}


class Line(NamedTuple):
    """A way to make sounds: with a run, from drafts of another, and with the options of `evaluate`."""

    run: str
    draft: str | None = None
    strength: float = 0.5
    level: float | None = None
    truncated: bool = False

    @property
    def options(self) -> list[str]:
        if self.level is None:
            return []
        return [f"--cascade.level={self.level}", f"--cascade.truncated={str(self.truncated).lower()}"]


LINES = {
    "one stage": Line("one"),
    "one stage, twice the steps": Line("twice"),
    "cascade": Line("cascade"),
    **{f"cascade, level {s:g}": Line("cascade", level=s) for s in (0.01, 0.03, 0.1)},
    **{f"cascade, truncated at {s:g}": Line("cascade", level=s, truncated=True) for s in (0.01, 0.03)},
    "latents": Line("latents"),
    **{
        f"draft of {d}, strength {s:g}": Line("one", d, s) for d in ("cascade", "latents") for s in (0.2, 0.4, 0.6, 0.8)
    },
}


def home(options: argparse.Namespace, run: str, seed: int) -> Path:
    return options.root / f"{run}-{seed}"


def called(options: argparse.Namespace, log: Path, *command: str) -> float:
    """Runs a command of the program, its output in a log; the seconds it took."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    began = time.perf_counter()
    with log.open("a") as out:
        code = subprocess.run(
            [sys.executable, "-m", "diffwave_sde", *command], env=environment, stdout=out, stderr=subprocess.STDOUT
        ).returncode
    if code:
        raise SystemExit(f"{command[0]} stopped with status {code}: see {log}")
    return time.perf_counter() - began


def train(options: argparse.Namespace, names: Sequence[str], seed: int) -> None:
    """Trains runs one after the other, if they are not there."""
    for name in names:
        run, there = RUNS[name], home(options, name, seed)
        if (there / "done.json").is_file():
            continue
        steps = max(1, round(run.steps * options.scale))
        # What was left of a run that was stopped goes on.
        last = there / "checkpoints" / "last.ckpt"
        command = ["fit", *(f"--config={CONFIGS / name}.yaml" for name in ("data/drums", *run.configs))]
        if run.needs:
            command += [f"--model.latent={home(options, run.needs, seed)}"]
        command += [*LEAN, f"--trainer.default_root_dir={there}", f"--trainer.max_steps={steps}"]
        command += [f"--seed_everything={seed}", f"--model.seed={seed}", f"--data.batch_size={run.batch}"]
        command += [f"--ckpt_path={last}"] if last.is_file() else []
        seconds = called(options, there / "fit.log", *command, *options.args)
        with atomic_write(there / "done.json") as temporary:
            temporary.write_text(json.dumps({"steps": steps, "seconds": round(seconds)}))


def heard(options: argparse.Namespace, name: str, seed: int, sampling_seed: int) -> dict:
    """The figures of the sounds that a line makes."""
    line = LINES[name]
    out = options.root / "heard" / re.sub(r"[^a-z0-9.]+", "-", name) / f"{seed}-{sampling_seed}"
    kept, log = out / "evaluation.json", out / "evaluate.log"
    if not kept.is_file():
        run, count = str(home(options, line.run, seed)), str(options.n)
        common = ["--seed", str(sampling_seed), "--batch_size", str(options.batch)]
        sounds = ["--n", count, *line.options]
        if line.draft:
            drafter = str(home(options, line.draft, seed))
            draft = ["--draft", drafter, "--strength", str(line.strength), "--out", str(out / "sounds")]
            called(options, log, "sample", "--ckpt", run, "--n", count, *draft, *common)
            sounds = ["--generated", str(out / "sounds")]
        called(options, log, "evaluate", "--ckpt", run, *sounds, *common, "--embedding=learned", "--out", str(out))
    return json.loads(kept.read_text())["embeddings"]["learned"]


def cost(options: argparse.Namespace, chosen: Sequence[str], rounds: int = 3) -> dict[str, float]:
    """Seconds a sound, in batches of eight: all lines take their turn, and the least of a line's times is its time."""
    torch.set_num_threads(options.threads)
    models = {run: checkpoint.load(home(options, run, 0), cascade=True) for run in {LINES[n].run for n in chosen}}
    drafters = {d: checkpoint.load(home(options, d, 0), cascade=True) for n in chosen if (d := LINES[n].draft)}
    found: dict[str, list[float]] = {name: [] for name in chosen}
    label = torch.arange(8) % 3
    for _ in range(rounds):
        for name in chosen:
            line = LINES[name]
            model = models[line.run]
            own = model.module
            generators = own.generators(list(range(8)), seed=0)
            if line.level is not None:
                own.handover = Handover(line.level, line.truncated)
            began = time.perf_counter()
            with torch.inference_mode():
                if line.draft:
                    sampler = own.sampler.resolve(own.denoiser.sde)
                    draft = Draft(drafters[line.draft], line.strength)
                    draft.sample(model, sampler, None, (), model.length, label, generators)
                else:
                    own.sample(model.length, label, generators)
            found[name].append((time.perf_counter() - began) / 8)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=".", help="lines that a regular expression is found in (default: all)")
    parser.add_argument("--seeds", default="0,1", help="seeds of training, a,b,... (default 0,1)")
    parser.add_argument("--sampling-seeds", default="0,1", help="seeds of the sounds (default 0,1)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of half an hour of one core (default 1)")
    parser.add_argument("--n", type=int, default=96, help="sounds of each seed (default 96)")
    parser.add_argument("--batch", type=int, default=16, help="sounds made at a time (default 16)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in each command (default 1)")
    parser.add_argument("--parallel", type=int, default=1, help="commands that run at a time (default 1)")
    parser.add_argument("--root", type=Path, default=Path("runs/stages"), help="where runs and figures are kept")
    parser.add_argument("--cost", action="store_true", help="seconds a sound as well, on this machine's CPU")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    parser.add_argument("args", nargs="*", help="further options of `fit`, for all runs, after --")
    options = parser.parse_args()
    chosen = [name for name in LINES if re.search(options.only, name)]
    if not chosen:
        parser.error(f"--only {options.only}: no line has it; there are {'; '.join(LINES)}")
    seeds, sampling = ([int(s) for s in text.split(",")] for text in (options.seeds, options.sampling_seeds))
    wanted = {run for name in chosen for run in (LINES[name].run, LINES[name].draft) if run}
    chains = [[need, run] if (need := RUNS[run].needs) else [run] for run in RUNS if run in wanted]
    options.root.mkdir(parents=True, exist_ok=True)
    console = Console()
    with ThreadPoolExecutor(options.parallel) as pool:
        console.print(
            f"training {', '.join(run for chain in chains for run in chain)}: {options.root}/RUN-SEED/fit.log"
        )
        for done in [pool.submit(train, options, chain, seed) for seed in seeds for chain in chains]:
            done.result()
        console.print(f"{len(chosen)} lines, {len(seeds) * len(sampling)} times {options.n} sounds each")
        found = {
            name: [pool.submit(heard, options, name, seed, other) for seed in seeds for other in sampling]
            for name in chosen
        }
        figures = {name: [one.result() for one in some] for name, some in found.items()}
    spent = cost(options, chosen) if options.cost else {}
    table = Table("", "steps", *CLASSES, "kicks and snares, over the first line's", *(["s a sound"] if spent else []))
    first = None
    for name, some in figures.items():
        by_class = {c: [one[c]["frechet"]["value"] for one in some] for c in CLASSES}
        low = statistics.mean(by_class["kick"] + by_class["snare"])
        first = first or low
        done = home(options, LINES[name].run, seeds[0]) / "done.json"
        cells = [f"{json.loads(done.read_text())['steps']:,}", *(mean(by_class[c], 3) for c in CLASSES)]
        table.add_row(name, *cells, f"{low / first:.2f}", *([f"{spent[name]:.2f}"] if spent else []))
    some = next(iter(figures.values()))
    floors = [statistics.mean(one[c]["frechet"]["floor"] for one in some) for c in CLASSES]
    table.add_row("floor", "", *(f"{f:.3f}" for f in floors), "", *([""] if spent else []))
    console.print(table)
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
