"""Does the process matter to the likelihood? EDM, VP, VDM and CLD, trained equally, in bits per sample.

    python benchmarks/process_bits.py [--steps 500] [--sounds 60] [--root runs/process-bits] [--markdown FILE]

Each is a `diffwave-sde fit` of a small U-Net on built-in drums: the same sounds, batches, number of steps, seed,
optimizer and noise levels, from σ = 2e-4 to 100 or more, as what a model ends with is a floor of bits that would hide
all else. VDM's process is learned with its own loss alone, the bound; so a line has EDM's process, on the clock of VE,
with that loss. Then the bound, and the flow, of clips that were held out, by class; "against" is the difference of the
first line's bound, sound by sound. Runs are kept in --root: a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tables import markdown, write
from torch import Tensor

from diffwave_sde import audio, checkpoint
from diffwave_sde.likelihood import Bound, Estimator, Flow, bits_per_sample
from diffwave_sde.random import stream

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SDE = "--model.sde.init_args"


def config(name: str) -> list[str]:
    return ["--config", str(CONFIGS / f"{name}.yaml")]


EQUAL = [
    *config("data/drums"), *config("network/tiny"), "--model.net.init_args.channels=[32, 64, 96]",
    "--trainer.logger=false", "--trainer.callbacks=[EMA, Progress, LastCheckpoint]", "--trainer.limit_val_batches=0",
]  # fmt: skip
LINES = {
    "EDM": [],
    "VP": [*config("sde/vp"), f"{SDE}.beta_min=0.004"],
    "CLD": [*config("sde/cld"), f"{SDE}.beta_min=1.667", f"{SDE}.beta_max=6.33"],
    "VDM": [*config("sde/vdm"), f"{SDE}.gamma_min=-17.03", f"{SDE}.gamma_max=9.21"],
    "EDM, with VDM's loss": [
        *config("sde/ve"), *config("loss/likelihood"), f"{SDE}.sigma_min=2e-4", f"{SDE}.sigma_max=100",
    ],
}  # fmt: skip


def trained(options: argparse.Namespace, line: str) -> checkpoint.LoadedModel:
    """The model of a line, trained now if it is not there."""
    home = options.root / "".join(c if c.isalnum() else "-" for c in line.lower())
    done = home / f"trained-{options.steps}"
    if not done.exists():
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "diffwave_sde", "fit", *EQUAL, *LINES[line], f"--data.count={options.count}"]
        command += [f"--trainer.max_steps={options.steps}", f"--trainer.default_root_dir={home}"]
        with (home / "fit.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ).returncode
        if code:
            raise SystemExit(f"training stopped with status {code}; see {home / 'fit.log'}")
        done.touch()
    return checkpoint.load(home)


def held_out(model: checkpoint.LoadedModel, count: int) -> tuple[Tensor, list[str]]:
    """Waveforms (n, 1, T) of the test split, as many of each class, and their classes."""
    data = checkpoint.data(model.path, mu=model.mu)
    data.prepare_data()
    data.setup("fit")
    rows, classes = data.splits["test"], data.store.label_ids[data.splits["test"]]
    each = count // len(model.labels)
    own = np.concatenate([rows[classes == k][:each] for k in range(len(model.labels))])
    return audio.from_int16(data.store.read(own))[:, None], [data.store.labels[i] for i in data.store.label_ids[own]]


def scored(
    model: checkpoint.LoadedModel, estimator: Estimator, x: Tensor, labels: list[str], batch: int = 10
) -> Tensor:
    """Bits per sample of each sound, (n,)."""
    label = torch.tensor([model.labels.index(name) for name in labels])
    found = []
    for first in range(0, len(x), batch):
        rows = slice(first, first + batch)
        generators = [stream("held out", first + i) for i in range(len(x[rows]))]
        found.append(bits_per_sample(model.module.denoiser, estimator, x[rows], label[rows], generators, model.mu)[0])
    return torch.cat(found)


def plus_minus(values: Tensor) -> str:
    return f"{float(values.mean()):.2f} ± {float(values.std()) / len(values) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=500, help="optimizer steps of each line, of 16 clips (default 500)"
    )
    parser.add_argument("--count", type=int, default=1200, help="built-in drums, of which a tenth is held out")
    parser.add_argument("--sounds", type=int, default=60, help="sounds held out that are asked for (default 60)")
    parser.add_argument("--root", type=Path, default=Path("runs/process-bits"), help="where runs are kept")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, table, first = Console(), None, None
    for line in LINES:
        console.print(line)
        model = trained(options, line)
        x, labels = held_out(model, options.sounds)
        bound = scored(model, Bound(2, 32), x, labels)
        flow = scored(model, Flow(1, steps=24), x, labels)
        first = bound if first is None else first
        if table is None:
            bounds = [f"bound, {name}" for name in model.labels]
            table = Table("process", *bounds, "bound, all", f"against {line}", "flow, all")
        by_class = [plus_minus(bound[[own == name for own in labels]]) for name in model.labels]
        against = "–" if bound is first else plus_minus(bound - first)
        mark = " (a bound)" if model.module.denoiser.sde.blocks > 1 else ""
        table.add_row(line, *by_class, plus_minus(bound), against, plus_minus(flow) + mark)
    console.print(table)
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
