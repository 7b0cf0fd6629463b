"""A model: training for all the time that is left, exported again and again, at last evaluated.

Whenever the run has saved a checkpoint, its averaged weights are exported into OUT/model, which is replaced as a whole:
whatever happens to the machine, the last export stands. `diffwave-sde sample --ckpt OUT/model` makes sounds with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Trainer
from network import Line

from diffwave_sde.callbacks import EMA, SpikeDetector
from diffwave_sde.cli import main as program
from diffwave_sde.cli.kinds import CONFIGS, default_precision
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.machine import bfloat16_is_fast
from gpu_stages.ddp import Clock
from gpu_stages.work import Work, described, module_of, store_of

NETWORK = "tiny"
BATCHES = (64, 128, 256, 512)
PAYS = 0.9  # of the highest speed: with a larger batch than this takes, steps are fewer and nothing is gained
EVERY = 45.0  # s between two exports
BYTES = 16e6  # that a model may have which comes with the program


def run(work: Work) -> None:
    training = Training(work)
    work.part("data", training.prepare)
    work.part("batch", training.choose)
    work.part("training", training.train)
    work.part("evaluation", training.evaluate)
    work.part("export", training.export)


class Training:
    """A run, from its data to its card."""

    def __init__(self, work: Work):
        self.work, self.out = work, work.options.out
        self.run, self.model, self.evaluation = (self.out / name for name in ("run", "model", "evaluation"))
        self.dataset = work.options.dataset or self._dataset()
        known = CONFIGS / "data" / f"{self.dataset}.yaml"
        self.data = ["--config", str(known)] if known.is_file() else [f"--data.dataset={self.dataset}"]
        self.data += [f"--data.root={store_of(work.options)}"]
        if work.quick:
            self.data += ["--data.count=60", "--data.length=1050"]
        self.net = described(NETWORK, small=work.quick)["net"]
        self.batch, self.speed = 4 if work.quick else BATCHES[0], 1.0
        self.command: list[str] = []

    def _dataset(self) -> str:
        """The free drums where they are prepared, since a bare machine can fetch none; else those that are built in."""
        free = "drums-free"
        return free if list((store_of(self.work.options) / "stores").glob(f"{free}-*")) else "drums"

    def _module(self) -> AudioDataModule:
        """The data as the run has it."""
        settings = {}
        if self.data[0] == "--config":
            settings = yaml.safe_load(Path(self.data[1]).read_text())["data"]
        settings = {"dataset": self.dataset, "mu": 0, **settings, "root": str(store_of(self.work.options))}
        if self.work.quick:
            settings |= {"count": 60, "length": 1050}
        return AudioDataModule(**settings, batch_size=self.batch, workers=4 if self.work.cuda else 0)

    def prepare(self) -> None:
        data = self._module()
        data.prepare_data()
        data.setup("fit")
        row = {"dataset": self.dataset, "clips": len(data.store), "classes": ", ".join(data.labels)}
        self.work.stage.row("What it learns from", {**row, "for training": len(data.splits["train"])})

    def choose(self) -> None:
        """The smallest batch with nearly the highest speed; then the speed of the Trainer's own steps with it."""
        work = self.work
        rates = {}
        for batch in [self.batch] if work.quick else BATCHES:
            length = 1_050 if work.quick else 21_000
            line = Line(self.net, batch, bfloat16_is_fast(work.device), work.device, length)
            rates[batch] = batch / work.timed(line.train, 2)
        self.batch = min(b for b, rate in rates.items() if rate >= PAYS * max(rates.values()))
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                max_steps=2 if work.quick else 30, max_epochs=-1, accelerator="gpu" if work.cuda else "cpu", devices=1,
                precision=default_precision("auto" if work.cuda else "cpu"), gradient_clip_val=1.0, logger=False,
                use_distributed_sampler=False, limit_val_batches=0, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
                callbacks=[EMA(), SpikeDetector(), clock],
            ).fit(module_of(NETWORK, small=work.quick), datamodule=self._module())  # fmt: skip
        self.speed = 1 / clock.seconds
        told = ", ".join(f"{batch}: {rate:.4g}" for batch, rate in rates.items())
        row = {"clips/s by batch": told, "batch": self.batch, "steps/s of the Trainer": f"{self.speed:.3g}"}
        work.stage.row("The largest batch that pays", row)

    def train(self) -> None:
        """Start the run, export what it saves, and stop it in time."""
        work = self.work
        reserve = 15 if work.quick else 70  # the start of the process, the last export, the evaluation
        seconds = max(work.left - reserve, 5.0)
        steps = 4 if work.quick else max(200, int(0.9 * seconds * self.speed))
        callbacks = [
            {"class_path": "EMA"},
            {"class_path": "SpikeDetector"},
            {"class_path": "Progress", "init_args": {"seconds": 15.0}},
            {"class_path": "LastCheckpoint", "init_args": {"every": max(2, int(0.7 * EVERY * self.speed))}},
        ]
        settings = self.out / "training.yaml"
        settings.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        self.command = [
            "--config", str(CONFIGS / "network" / f"{NETWORK}.yaml"), *self.data, "--config", str(settings),
            f"--data.batch_size={self.batch}", f"--data.workers={4 if work.cuda else 0}",
            f"--trainer.max_steps={steps}", f"--trainer.max_time={timedelta_of(seconds)}",
            f"--trainer.val_check_interval={max(2, steps // 4)}", f"--trainer.default_root_dir={self.run}",
            "--trainer.logger=false", f"--trainer.accelerator={'gpu' if work.cuda else 'cpu'}", "--trainer.devices=1",
        ]  # fmt: skip
        if work.quick:
            self.command.append(f"--model.net.channels={self.net['init_args']['channels']}")
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "diffwave_sde", "fit", *self.command])
        last, exported, ends = self.run / "checkpoints" / "last.ckpt", 0.0, began + seconds + 30
        while child.poll() is None:
            time.sleep(0.5)
            now = time.monotonic()
            if now > ends:
                child.send_signal(signal.SIGINT)  # it saves itself and stops
                ends = now + 20
            if last.is_file() and last.stat().st_mtime > exported and now - began > EVERY:
                exported, began_export = last.stat().st_mtime, now
                work.part("export on the way", self.export)
                print(f"exported after {now - began:.0f} s, in {time.monotonic() - began_export:.1f} s", flush=True)
                began = now
        if child.returncode:
            raise RuntimeError(f"the training ended with {child.returncode}; see {self.out / 'model.log'}")
        self.export()

    def export(self) -> None:
        """The last checkpoint as a model for others."""
        last = self.run / "checkpoints" / "last.ckpt"
        figures = self.evaluation / "evaluation.json"
        program([
            "export", f"--ckpt={last}", f"--out={self.model}", "--overwrite",
            f"--command=make gpu ({NETWORK}, {self.dataset}, batches of {self.batch})",
            *([f"--evaluation={figures}"] if figures.is_file() else []),
        ])  # fmt: skip
        size = os.path.getsize(self.model / "model.safetensors")
        self.work.stage.figures |= {"model, MB": size / 1e6, "step": torch_step(last)}
        self.work.check("size of the model, bytes", size, BYTES)

    def evaluate(self) -> None:
        """Fréchet distances over their floor."""
        quick = ["--n=4", "--resamples=2", "--embedding=log-mel", "--sampler=DDIM", "--sampler.steps=2"]
        full = ["--n=192", "--batch_size=64", "--resamples=10"]
        program([
            "evaluate", f"--ckpt={self.run / 'checkpoints' / 'last.ckpt'}", f"--device={self.work.device.type}",
            f"--out={self.evaluation}", *(quick if self.work.quick else full),
        ])  # fmt: skip
        found = json.loads((self.evaluation / "evaluation.json").read_text())["embeddings"]
        for name, groups in found.items():
            value = groups["all"]["frechet"]
            row = {"embedding": name, "Fréchet distance": f"{value['value']:.1f}", "floor": f"{value['floor']:.1f}"}
            row |= {"over the floor": f"{value['value'] / value['floor']:.2f}"}
            self.work.stage.row("The model's sounds against the data", row)


def torch_step(path: Path) -> int:
    """The optimizer steps of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]


def timedelta_of(seconds: float) -> str:
    """As the Trainer takes it, DD:HH:MM:SS."""
    hours, rest = divmod(int(timedelta(seconds=seconds).total_seconds()), 3600)
    return f"00:{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
