"""Sounds made during training, always from the same noise, so that the ear can follow what is learned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.callbacks.boards import log_sounds, log_spikes
from diffwave_sde.callbacks.generation import classes_of, gather_across_ranks, generate
from diffwave_sde.callbacks.last_checkpoint import interrupted
from diffwave_sde.callbacks.progress import say
from diffwave_sde.callbacks.spike_clips import write_clips
from diffwave_sde.samplers import Sampler
from diffwave_sde.sounds import history, page, run_page
from diffwave_sde.sounds.run_page import DATA, TEACHER
from diffwave_sde.tolerance import Tolerance


class SampleLogger(Callback):
    """Every `every` steps and at the end: sounds of each class in turn, with the averaged weights.

    Writes `samples/step=N/` with WAV files (32-bit floats, at the level that the model made) and pictures, and
    `samples/index.html`, which plays them beside examples of the training data, over all steps, those before a stop
    too; below them it draws the figures that MetricHistory keeps, and plays the clips of spikes. Loggers get the
    sounds as far as they can show them (`boards`).

    The page of a student has what its teacher makes of the same noises, so that one hears where it fails.

    Sound i is the same noise, `module.generators([i])`, and the same class, i modulo their number, at every step. The
    processes share the sounds out; rank 0 writes. Where one of them fails this time is left out, and told.
    Training is not disturbed:
    no random number of its own is drawn and the weights are put back bit for bit.

    Args:
        every: optimizer steps between two times; 0 for the end only.
        count: sounds.
        batch: sounds made at once by a process.
        sampler: null for the model's own.
        folder: the run's folder; null for the trainer's default_root_dir.
        first: optimizer steps before a first time, sooner than `every`; 0 for none.
    """

    split = "train"
    """Whose clips stand beside the sounds."""

    def __init__(
        self,
        every: int = 1000,
        count: int = 12,
        batch: int = 16,
        sampler: Sampler | None = None,
        folder: str | None = None,
        first: int = 0,
    ):
        if every < 0 or first < 0 or count < 1 or batch < 1:
            raise ValueError(
                f"every = {every} and first = {first} steps must be 0 or more, count = {count} and batch = {batch} "
                "sounds 1 or more"
            )
        self.every, self.count, self.batch, self.first = every, count, batch, first
        self.sampler, self.folder = sampler, folder
        self._tolerance = Tolerance()
        self._heard = 0  # the last step that was listened to

    # When

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # At the start of the next batch: the step, its validation and its checkpoint are complete by then.
        step = trainer.global_step
        due = (self.every and step % self.every == 0) or step == self.first
        if step and due and step != self._heard:
            self.listen(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The curves grow between two times of listening, and are there before the first.
        run = self._home(trainer).parent
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            with self._tolerance.of("writing the run's page"):
                if (run / history.FILE).exists():
                    run_page.write(run)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Whoever pressed Ctrl-C wants the prompt back, and will go on.
        if trainer.global_step != self._heard and not interrupted(trainer):
            self.listen(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"heard": self._heard}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._heard = state_dict["heard"]

    # What

    def listen(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the sounds of this step, write them, and show them; where that fails, say so. All ranks must call it."""
        self._heard = trainer.global_step
        with self._tolerance.of("listening to the model"):  # on all ranks, if on one
            self._listen(trainer, module)

    def _listen(self, trainer: Trainer, module: LightningModule) -> None:
        began, step = time.monotonic(), trainer.global_step
        names, classes = self._asked(trainer, module)
        rows = [f"{i:02d} {names[classes[i]]}" if classes else f"{i:02d}" for i in range(self.count)]
        title = f"Samples at step {step}"
        sounds = self._make(trainer, module, classes, title)
        with gather_across_ranks(trainer, title):
            if trainer.is_global_zero:
                with isolate_rng(include_cuda=False):
                    self._write(trainer, module, step, rows, names, classes, sounds)
                seconds = time.monotonic() - began
                say(
                    trainer,
                    f"step {step}: {self.count} sounds in {seconds:.1f} s, {self._home(trainer) / 'index.html'}",
                )

    def _asked(self, trainer: Trainer, module: LightningModule) -> tuple[Sequence[str], list[int] | None]:
        """The names of the classes, and which of them each sound is asked to be; or None."""
        return classes_of(trainer, module, self.count)

    def _make(self, trainer: Trainer, module: LightningModule, classes: list[int] | None, title: str) -> Tensor:
        """The sounds (count, T), on every rank."""
        return generate(trainer, module, range(self.count), classes, title, self.sampler, self.batch)

    def _home(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir) / "samples"

    def _write(self, trainer, module, step: int, rows: Sequence[str], names, classes, sounds: Tensor) -> None:
        home, rate = self._home(trainer), getattr(trainer.datamodule, "rate", audio.RATE)
        if not (home / DATA).exists() and (examples := self._examples(trainer, names, classes)) is not None:
            page.write_sounds(home / DATA, rows, examples, rate)
        if not (home / TEACHER).exists() and (theirs := self._teacher(module, classes, sounds.shape[-1])) is not None:
            page.write_sounds(home / TEACHER, rows, theirs, rate)
        files = page.write_sounds(home / f"step={step}", rows, sounds, rate)
        new = write_clips(home.parent / "spikes", home, trainer.datamodule)
        run_page.write(home.parent)
        log_sounds(trainer.loggers, step, [names[c] for c in classes] if classes else [""] * len(files), files)
        log_spikes(trainer.loggers, step, [home / run_page.SPIKES / f"step={n}" for n in new])

    @torch.no_grad()
    def _teacher(self, module: LightningModule, classes: Sequence[int] | None, length: int) -> Tensor | None:
        """What the teacher of a student makes of the same noises by its own sampler, (count, T); None without one."""
        teacher = getattr(getattr(module, "loss", None), "teacher", None)
        model = None if teacher is None else teacher.load().model
        if model is None:
            return None
        model.to(module.device)
        made = []
        for places in torch.arange(self.count).split(self.batch):
            label = None if classes is None else torch.tensor(classes, device=module.device)[places]
            made.append(model.sample(length, label, module.generators(places.tolist()))[:, 0].float().cpu())
        return audio.expand(torch.cat(made), getattr(module.trainer.datamodule, "mu", 0.0))

    def _examples(self, trainer: Trainer, names: Sequence[str], classes: Sequence[int] | None) -> Tensor | None:
        """Training clips of the classes of the sounds, (count, T), or None where the datamodule keeps no store."""
        data = trainer.datamodule
        if not hasattr(data, "store") or not hasattr(data, "splits"):
            return None
        rows, store = data.splits[self.split], data.store
        labels = store.label_ids[rows]
        chosen = []
        for i in range(self.count):
            of_class = rows[labels == classes[i]] if classes else rows
            turn = i // len(names) if classes else i
            chosen.append(of_class[turn % len(of_class)] if len(of_class) else -1)
        read = store.read(np.array([row for row in chosen if row >= 0]))
        out = torch.zeros(self.count, read.shape[-1])
        out[torch.tensor(chosen) >= 0] = audio.from_int16(read)
        return out
