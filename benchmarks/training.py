"""What the Trainer costs: its step against a bare loop with the same network, and how long a step waits for data.

    python benchmarks/training.py [--steps 20] [--tables step,processes]

The two take turns, segment by segment, in one process, so that the ratio holds where the machine's speed drifts. The
Trainer runs with everything that the default run has but validation, checkpoints and listening.

`processes`: a step of two processes that share their gradients (DDP over gloo), of two that know nothing of each other,
and of one, a thread and a batch each: what sharing the machine costs, and what sharing gradients.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from rich.console import Console
from rich.table import Table

from diffwave_sde.callbacks import EMA, Progress, SpikeDetector, Wandb
from diffwave_sde.checkpoint import build
from diffwave_sde.cli.kinds import CONFIGS
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.denoiser import Condition
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.module import DiffusionModule


class Watch(Callback):
    """Times the Trainer's steps, and runs the bare loop every other segment."""

    def __init__(self, segment: int, bare):
        self.segment, self.bare = segment, bare
        self.trainer_steps: list[float] = []
        self.bare_steps: list[float] = []
        self.waits: list[float] = []
        self.started = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.started:
            self.trainer_steps.append(time.perf_counter() - self.started)
        if batch_idx % self.segment == 0 and batch_idx:
            for _ in range(self.segment):
                before = time.perf_counter()
                self.bare(batch)
                self.bare_steps.append(time.perf_counter() - before)
        self.started = time.perf_counter()


def timed_loader(loader, waits: list[float]):
    """A loader that notes how long each batch was waited for."""
    original = type(loader).__iter__

    class Timed(type(loader)):
        def __iter__(self):
            source = original(self)
            while True:
                before = time.perf_counter()
                try:
                    batch = next(source)
                except StopIteration:
                    return
                waits.append(time.perf_counter() - before)
                yield batch

    loader.__class__ = Timed
    return loader


def together(processes: int, runs: int, options: argparse.Namespace, folder: Path) -> float:
    """Seconds of a step of `runs` trainings at once, each of so many processes, of one thread each."""

    def seconds(steps: int) -> float:
        command = [sys.executable, "-m", "diffwave_sde", "fit", "--trainer.accelerator=cpu", "--trainer.logger=false"]
        command += ["--trainer.callbacks=[EMA, SpikeDetector, Progress]", "--trainer.limit_val_batches=0"]
        command += [f"--trainer.devices={processes}", f"--trainer.max_steps={steps}", f"--data.root={folder}"]
        command += [f"--data.count={options.count}", f"--data.batch_size={options.batch_size}"]
        began = time.perf_counter()
        running = [
            subprocess.Popen(
                [*command, f"--trainer.default_root_dir={folder}/{k}"],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for k in range(runs)
        ]
        if any(run.wait() for run in running):
            raise SystemExit(f"a training stopped: {' '.join(command)}")
        return time.perf_counter() - began

    few = 3
    start = seconds(few)
    return (seconds(few + options.steps) - start) / options.steps


def processes(options: argparse.Namespace) -> Table:
    """The second table."""
    table = Table(
        "", "s a step", "clips/s", "over one", title=f"batches of {options.batch_size} a process, one thread each"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        together(1, 1, argparse.Namespace(**{**vars(options), "steps": 1}), folder)  # makes the store
        one = together(1, 1, options, folder)
        lines = {
            "one process": (one, 1),
            "two that know nothing of each other": (together(1, 2, options, folder), 2),
            "two that share their gradients": (together(2, 1, options, folder), 2),
        }
    for line, (seconds, count) in lines.items():
        clips = count * options.batch_size / seconds
        table.add_row(line, f"{seconds:.3f}", f"{clips:.1f}", f"{clips / (options.batch_size / one):.2f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="step", help="step, processes, or both, a,b (default step)")
    parser.add_argument(
        "--steps", type=int, default=40, help="the Trainer's steps; about as many bare ones (default 40)"
    )
    parser.add_argument("--segment", type=int, default=5, help="steps before the other one's turn (default 5)")
    parser.add_argument("--batch_size", type=int, default=16, help="clips per step (default 16)")
    parser.add_argument(
        "--precision", choices=["auto", "32", "bf16"], default="auto", help="auto: bf16 where it is fast (default)"
    )
    parser.add_argument("--count", type=int, default=300, help="built-in sounds to train on (default 300)")
    options = parser.parse_args()
    tables = {"step": step, "processes": processes}
    if unknown := [name for name in options.tables.split(",") if name not in tables]:
        parser.error(f"--tables {unknown[0]}: choose step, processes")
    for name in options.tables.split(","):
        Console().print(tables[name](options))


def step(options: argparse.Namespace) -> Table:
    """The first table."""
    seed_everything(0, verbose=False)
    half = bfloat16_is_fast("cpu") if options.precision == "auto" else options.precision == "bf16"
    model = yaml.safe_load((CONFIGS / "base.yaml").read_text())["model"]
    model["net"] = yaml.safe_load((CONFIGS / "network" / "tiny.yaml").read_text())["model"]["net"]
    model["net"]["init_args"] |= {"inputs": 1, "classes": 3}
    with tempfile.TemporaryDirectory() as folder:
        data = AudioDataModule(root=folder, count=options.count, batch_size=options.batch_size, mu=0)
        module, twin = (build(model, DiffusionModule) for _ in range(2))
        optimizer = twin.optimizer(twin.denoiser.parameters())

        def bare(batch) -> None:
            """The same step by hand: draw, loss, gradient, clip, step."""
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                draw = twin.loss.draw(twin.denoiser.sde, batch.audio)
                loss = twin.loss.at(twin.denoiser, batch.audio, draw, Condition(label=batch.label)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.denoiser.parameters(), 1.0)
            optimizer.step()

        watch = Watch(options.segment, bare)
        trainer = Trainer(
            max_steps=options.steps,
            max_epochs=-1,
            accelerator="cpu",
            precision="bf16-mixed" if half else "32-true",
            gradient_clip_val=1.0,
            log_every_n_steps=20,
            use_distributed_sampler=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            logger=Wandb(save_dir=folder, name="benchmark"),
            callbacks=[EMA(), SpikeDetector(), Progress(), watch],
        )
        data.prepare_data()
        original = data.train_dataloader
        data.train_dataloader = lambda: timed_loader(original(), watch.waits)
        trainer.fit(module, datamodule=data)
        trainer.loggers[0].experiment.finish()

    # The first steps of either warm caches and allocators up.
    ours, theirs = watch.trainer_steps[options.segment :], watch.bare_steps[options.segment :]
    medians = statistics.median(ours), statistics.median(theirs)
    wait = statistics.median(watch.waits[options.segment :])
    table = Table(
        title=f"configs/network/tiny.yaml, batches of {options.batch_size}, {torch.get_num_threads()} threads, "
        f"{'bfloat16' if half else 'float32'}"
    )
    for head in ("", "median, ms a step", "clips/s", "ratio to bare"):
        table.add_column(head, justify="left" if not head else "right")
    for name, seconds in (("bare loop", medians[1]), ("Trainer (EMA, spikes, progress, W&B offline)", medians[0])):
        rate = f"{options.batch_size / seconds:.1f}"
        table.add_row(name, f"{seconds * 1e3:.1f}", rate, f"{seconds / medians[1]:.3f}")
    table.add_row("of it: waiting for data", f"{wait * 1e3:.2f}", "", f"{wait / medians[0]:.2%} of the step")
    return table


if __name__ == "__main__":
    main()
