"""Do loops keep time, and do their ends meet? Loops of the data and of a model, made plainly and on a circle.

python benchmarks/loops.py                          the data alone: the ceiling, and the floor
python benchmarks/loops.py --ckpt runs/loops        with a model's
python benchmarks/loops.py --cost                   seconds and memory of one call, from 1 s to 10 s
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tables import markdown

from diffwave_sde import checkpoint
from diffwave_sde.cli import kinds
from diffwave_sde.data import loops
from diffwave_sde.generate import ask
from diffwave_sde.looping import Looped
from diffwave_sde.metrics.rhythm import rhythm, seam
from diffwave_sde.model import Model
from diffwave_sde.progress import progress_bar

SEED = 1  # other loops than those of training


def row(name: str, waves: list[np.ndarray], rate: int, beats: list[float]) -> list[str]:
    own, other = rhythm(waves, rate, beats)
    return [name, f"{own:.3f}", f"{other:.3f}", f"{np.median([seam(x) for x in waves]):.2f}"]


def quality(options: argparse.Namespace) -> Table:
    table = Table(
        "loops", "on the grid of their tempo", "on those of other tempi", "step across the seam, of all steps"
    )
    model = checkpoint.load(options.ckpt) if options.ckpt else None
    rate, length = (model.rate, model.length) if model else (22_050, 44_100)
    made = [loops.render(i, SEED, rate, length) for i in range(options.n)]
    waves, beats = [x for x, _ in made], [told["beats"] for _, told in made]
    table.add_row(*row("of the data", waves, rate, beats))
    noise = np.random.default_rng(0)
    moved = [np.concatenate(noise.permutation(np.split(x, 42))) for x in waves]
    table.add_row(*row("of the data, their 42 parts shuffled", moved, rate, beats))
    if model is None:
        return table
    names = ",".join(loops.label(i, length / rate) for i in range(options.n))
    labels = ask(model, options.n, names)
    for name, wrap in {"made": None, "made on a circle": Looped}.items():
        found = []
        with progress_bar(name) as progress:
            task = progress.add_task(name, total=options.n)
            for first in range(0, options.n, 8):
                some = list(range(first, min(first + 8, options.n)))
                generators = model.module.generators(some, options.seed)
                with torch.inference_mode():
                    x = model.module.sample(length, labels.ids[some], generators, wrap=wrap)
                found += list(x[:, 0].double().numpy())
                progress.update(task, completed=some[-1] + 1)
        table.add_row(*row(name, found, rate, beats))
    return table


def cost(options: argparse.Namespace) -> Table:
    """What a call of the experiment's network takes, by the length of the window."""
    import yaml

    config = yaml.safe_load((kinds.CONFIGS / "experiment" / "loops.yaml").read_text())["model"]
    module = checkpoint.build({"net": config["net"]}, Model).eval()
    rate, table = 22_050, Table("s", "s a call", "s a call and second of sound", "most memory so far, MiB")
    for seconds in (1, 2, 4, 7, 10):
        u, t = torch.randn(1, 1, 1, seconds * rate), torch.ones(1)
        least = float("inf")
        with torch.inference_mode():
            for _ in range(4):
                begin = time.perf_counter()
                module.denoiser(u, t)
                least = min(least, time.perf_counter() - begin)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add_row(str(seconds), f"{least:.4f}", f"{least / seconds:.4f}", f"{used:.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="a run of configs/experiment/loops.yaml (default: the data alone)")
    parser.add_argument("--n", type=int, default=48, help="loops of each line (default 48)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--cost", action="store_true", help="what a call costs by length, in place of the quality")
    options = parser.parse_args()
    table = cost(options) if options.cost else quality(options)
    Console().print(table)
    print(markdown(table))


if __name__ == "__main__":
    main()
