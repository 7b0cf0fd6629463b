"""What the Trainer costs: its step against a bare loop with the same network, and how long a step waits for data.

    python benchmarks/training.py --steps 20

The two take turns, segment by segment, in one process, so that the ratio holds where the machine's speed drifts. The
Trainer runs with everything that the default run has but validation, checkpoints and listening.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from rich.console import Console
from rich.table import Table

from diffwave_sde.callbacks import EMA, Progress, SpikeDetector, Wandb
from diffwave_sde.checkpoint import build
from diffwave_sde.cli.lightning import CONFIGS
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.denoiser import Condition
from diffwave_sde.machine import bfloat16_is_fast


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    seed_everything(0, verbose=False)

    half = bfloat16_is_fast("cpu") if options.precision == "auto" else options.precision == "bf16"
    model = yaml.safe_load((CONFIGS / "base.yaml").read_text())["model"]
    model["net"] = yaml.safe_load((CONFIGS / "network" / "tiny.yaml").read_text())["model"]["net"]
    model["net"]["init_args"] |= {"inputs": 1, "classes": 3}
    with tempfile.TemporaryDirectory() as folder:
        data = AudioDataModule(root=folder, count=options.count, batch_size=options.batch_size, mu=0)
        module, twin = build(model), build(model)
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
    Console().print(table)


if __name__ == "__main__":
    main()
