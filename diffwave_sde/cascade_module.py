"""The LightningModule of a cascade: it wires the stages, the process and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffwave_sde import checkpoint
from diffwave_sde.cascade import CascadeModel, Handover, dct, handed, resize
from diffwave_sde.denoiser import Condition
from diffwave_sde.guidance import Guidance
from diffwave_sde.loss import Loss, NoiseDraw
from diffwave_sde.machine import sent
from diffwave_sde.model import KEY, first_mismatch
from diffwave_sde.networks import Network
from diffwave_sde.random import Generator, rand, randn, stream, streams
from diffwave_sde.samplers import Sampler
from diffwave_sde.sde import SDE
from diffwave_sde.training import NoiseBuckets, TrainingModule

AUGMENTATION = "augmentation"


class CascadeModule(CascadeModel, TrainingModule):
    """A cascade, and how it is trained: all stages from the same batches, or some of them.

    The stages have no weight in common, and what a stage is given to go by is made of the sounds of the data, so it
    does not matter which are trained together. One draw serves all: the noise and the noised sound to go by are those
    of the whole sound, of which each stage takes its band. `train/loss` and `val/loss` are means over the stages that
    are trained; `val/loss_base` and so on those of each.

    Args:
        base, middle, top, factors, sde, sampler, handover, levels, guidance, seed: as of `CascadeModel`.
        loss: the objective of every stage.
        train: names of the stages that are trained, base, middle, top; null for all.
        start: checkpoints, or runs' folders, of cascades whose trained stages are taken; of a stage that several have,
            the last one's.
        optimizer: the optimizer, given the parameters.
        scheduler: the learning-rate schedule, stepped once per optimizer step; null for a constant rate.
        label_dropout: share of training examples whose class is hidden; 0 to 1.
        compile: whether the networks are compiled (torch.compile) before training.
    """

    kind = "cascade"
    class_count = "classes"
    apart = frozenset({"net"})

    def __init__(
        self,
        base: Network,
        middle: Network,
        top: Network | None = None,
        factors: Sequence[int] = (5, 4),
        sde: SDE | None = None,
        loss: Loss | None = None,
        sampler: Sampler | None = None,
        handover: Handover | None = None,
        levels: Sequence[float] = (0.003, 0.3),
        guidance: Guidance | None = None,
        train: list[str] | None = None,
        start: list[str] | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        label_dropout: float = 0.1,
        compile: bool = False,
        seed: int = 0,
    ):
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout = {label_dropout:g} is a share: choose it between 0 and 1")
        super().__init__(base, middle, top, factors, sde, sampler, handover, levels, guidance, seed)
        for name in train or ():
            if name not in self.names:
                raise ValueError(f"train = {name}: no such stage; this cascade has {', '.join(self.names)}")
        if guidance is not None and guidance.weight != 1 and not label_dropout:
            raise ValueError(
                "guidance compares with no class, which label_dropout = 0 never trains: set it to 0.1, say"
            )
        self.loss = loss or Loss()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.measure, self.compile_net, self.label_dropout = False, compile, label_dropout
        self.active = [k for k, name in enumerate(self.names) if not train or name in train]
        self.start = list(start or ())
        self._not_taken: Exception | None = None
        for k, stage in enumerate(self.stages):
            stage.net.requires_grad_(k in self.active)
        self.buckets = nn.ModuleDict({f"{name}_loss": NoiseBuckets() for name in ("train", "val", "test")})

    # Wiring

    @property
    def process(self) -> SDE:
        return self.denoiser.sde

    @property
    def trained(self) -> list[nn.Module]:
        return list(self.stages)

    def optimized(self) -> Iterator[nn.Parameter]:
        return (p for k in self.active for p in self.stages[k].parameters() if p.requires_grad)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        whole = math.prod(self.factors)
        if data.length % whole:
            raise ValueError(
                f"data.length = {data.length}: the factors {list(self.factors)} need a multiple of {whole}; set it to "
                f"{data.length // whole * whole or whole}"
            )
        self.measure_bands(data.subsample(512), data.length)
        try:
            for path in self.start:
                self._take_stages(path)
        except (FileNotFoundError, ValueError) as error:  # a run that goes on has all stages in its checkpoint
            self._not_taken = error

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self._not_taken is not None and not self.batches:
            raise self._not_taken
        # Sounds are made during training, by all stages up to the last that is trained.
        before = [name for name in self.names[: self.active[0]] if name in self.missing]
        if before:
            raise ValueError(
                f"the stage {self.names[self.active[0]]} goes by {before[-1]}, which was never trained: add "
                "--model.start=[runs/NAME] of a run that has it, or train both together"
            )

    def measure_bands(self, clips: Iterable[Tensor], length: int) -> None:
        """Measure the standard deviation of the data in the band that each stage adds, and in that which it is told.

        Args:
            clips: waveforms (n, length), in pieces.
            length: samples.
        """
        lengths, power, count = self.lengths(length), 0.0, 0
        for piece in clips:
            y = dct(piece).square()
            power, count = power + y.sum(0), count + len(y)
        power, told = power / count, 0

        def deviation(first: int, last: int) -> float:
            # A band in which there is nothing would divide by nothing.
            return max(float(power[first:last].mean()) ** 0.5, 1e-4)

        for stage, own in zip(self.stages, lengths, strict=True):
            stage.sigma_data.fill_(deviation(told, own))
            if told:
                stage.sigma_handed.fill_(deviation(0, told))
            told = handed(own)

    def _take_stages(self, path: str) -> None:
        """Take the trained stages of a checkpoint that are not trained here.

        Raises:
            FileNotFoundError, ValueError: if there is none, or it is of other sounds or another layout.
        """
        loaded = checkpoint.load(path, cascade=True, complete=False)
        there = loaded.module
        if not isinstance(there, CascadeModel):
            raise ValueError(f"--model.start {path} is of one stage: give a run of a cascade")
        data = self.trainer.datamodule
        for what, mine, theirs in (
            ("factors", list(self.factors), list(there.factors)),
            ("length", data.length, loaded.length),
            ("rate", data.rate, loaded.rate),
            ("mu", data.mu, loaded.mu),
            ("classes", list(data.labels), list(loaded.labels)),
        ):
            if mine != theirs:
                raise ValueError(f"--model.start {path}: its {what} is {theirs} and here it is {mine}: make them alike")
        for k, name in enumerate(self.names):
            steps = int(there.steps_trained[k])
            if not steps:
                continue
            mine, theirs = self.stages[k].net, there.stages[k].net
            if wrong := first_mismatch(mine, theirs.state_dict()):
                raise ValueError(
                    f"--model.start {path}: the network of its stage {name} is another one ({wrong} differs): use the "
                    "configuration beside it, config.yaml"
                )
            # σ of its bands too, which its weights go by.
            self.stages[k].load_state_dict(there.stages[k].state_dict())
            self.steps_trained[k] = steps

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """D of the last stage, each stage asked once: u (B, 1, 1, T), t (B,) -> (B, 1, T); for the summary."""
        D, lengths = None, self.lengths(u.shape[-1])
        for stage, length in zip(self.stages, lengths, strict=True):
            level = None if D is None else torch.full_like(t, self.levels[1])
            label = None if condition is None else condition.label
            D = stage(resize(u, length), t, Condition(label=label, audio=D, level=level))
        return D

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, condition, draw = self.prepare_step(batch, self.batches)
        self.batches += 1
        losses = self.stage_losses(x, draw, condition)
        self.steps_trained[self.active] += 1
        mean = torch.stack(losses).mean(0)
        self.note_step(batch, draw, mean, self.buckets["train_loss"])
        self._log_stages("train", losses)
        # Their sum: no weight is in two of them, and the rate of each is that of a model of its own.
        return sum(one.mean() for one in losses)

    def condition(self, batch: Any, step: int, places: list[int], total: int) -> Condition:
        hidden = torch.rand(total, generator=stream(self.seed, "label", step))[places]
        label = torch.where(sent(hidden < self.label_dropout, batch.label.device), -1, batch.label)
        x = batch.audio
        return self._augmented(label, x, streams(self.seed, AUGMENTATION, step, rows=places, device=x.device))

    def _augmented(self, label: Tensor, x: Tensor, generator: Generator) -> Condition:
        """What the stages are told of x (B, 1, T): the sound with noise of a level drawn log-uniformly.

        Source: Saharia et al. 2022, section 2.3 (a level drawn for each example, which the stage is told).
        """
        low, high = self.levels
        share = rand((len(x),), generator, device=x.device)
        level = low * (high / low) ** share
        noise = randn(x.shape, generator, x.dtype, x.device)
        return Condition(label=label, audio=x + level[:, None, None] * noise, level=level)

    def stage_losses(self, x: Tensor, draw: NoiseDraw, condition: Condition) -> list[Tensor]:
        """The losses (B,) of the stages that are trained.

        Args:
            x: whole sounds (B, 1, T).
            draw: of the whole sounds.
            condition: with the whole sounds, noised, to go by.
        """
        lengths, losses = self.lengths(x.shape[-1]), []
        for k in self.active:
            # White noise of the whole sound is white noise in each band of it.
            own = replace(draw, eps=resize(draw.eps, lengths[k]))
            asked = Condition(label=condition.label)
            if k:
                asked = replace(condition, audio=resize(condition.audio, lengths[k - 1]))
            losses.append(self.loss.at(self.stages[k], resize(x, lengths[k]), own, asked))
        return losses

    def _log_stages(self, name: str, losses: list[Tensor], **options: Any) -> None:
        for k, one in zip(self.active, losses, strict=True):
            self.log(f"{name}/loss_{self.names[k]}", one.detach().mean(), batch_size=len(one), **options)

    # Validation

    def _evaluate(self, batch: Any, name: str) -> None:
        draw = self.fixed_draw(batch)
        noise = [stream(self.seed, AUGMENTATION, "validation", i) for i in batch.index.tolist()]
        losses = self.stage_losses(batch.audio, draw, self._augmented(batch.label, batch.audio, noise))
        mean = torch.stack(losses).mean(0)
        self.buckets[f"{name}_loss"].update(mean, self.sigma_of(draw))
        self._log_stages(name, losses, sync_dist=True)
        self.log(f"{name}/loss", mean.mean(), prog_bar=True, sync_dist=True, batch_size=len(batch.audio))

    # Sampling and checkpoints

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """New sounds of the classes of the batch, companded, (B, 1, T)."""
        return self.sample(batch.audio.shape[-1], batch.label, self.generators(batch.index.tolist()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        told = zip(self.names, self.steps_trained.tolist(), strict=True)
        checkpoint[KEY]["stages"] = {name: steps for name, steps in told if steps}
