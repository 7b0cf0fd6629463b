"""The LightningModule of a model of sounds: it wires the network, the process, the loss and the sampler, and computes
nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from diffwave_sde import checkpoint
from diffwave_sde.autoencoder import Autoencoder, LatentSounds
from diffwave_sde.autoencoder.latents import CLIPS
from diffwave_sde.denoiser import Condition
from diffwave_sde.guidance import Guidance
from diffwave_sde.looping import turned, turned_condition
from diffwave_sde.loss import Loss, NoiseDraw, Objective
from diffwave_sde.machine import sent
from diffwave_sde.model import Model
from diffwave_sde.networks import Network
from diffwave_sde.optim import MuonAdamW  # noqa: F401  an optimizer to name on the command line
from diffwave_sde.parametrization import Parametrization
from diffwave_sde.random import stream
from diffwave_sde.samplers import Sampler
from diffwave_sde.sde import SDE
from diffwave_sde.training import NoiseBuckets, TrainingModule


class DiffusionModule(Model, TrainingModule):
    """A diffusion model of short sounds, and how it is trained.

    Args:
        net: the network.
        sde: the forward process.
        parametrization: what the network's output stands for; Karras's preconditioning by default.
        loss: the objective.
        sampler: the sampler for listening during training and for prediction; DefaultSampler by default.
        guidance: how far sounds are guided, towards their class and away from the errors of the weak network; null for
            not at all. Of no effect where there is one class, or no weak network.
        optimizer: the optimizer, given the parameters.
        scheduler: the learning-rate schedule, stepped once per optimizer step; null for a constant rate.
        sigma_data: standard deviation of the data; null to measure it on the training data.
        label_dropout: share of training examples whose class is hidden, so that the model also knows no class; 0 to 1.
        audio_dropout: of data that are pairs, the share of training examples whose context is hidden, from half of them
            the class too; 0 to 1.
        compile: whether the network is compiled (torch.compile) before training.
        seed: seed of every draw of training, validation and listening.
        weak: a network with less in it, for autoguidance, which learns beside the other one from the same batches; null
            for none.
        weak_every: of the clips it learns from every how manieth: its errors must be the other's, and larger.
        val_draws: times and noises that each clip is validated with. Where a handful of clips is held out, one each
            tells more of the draws than of the model.
        latent: a run, or a checkpoint, of an autoencoder (`fit --config configs/experiment/vae.yaml`): the model is one
            of its latents, and holds it. Null for one of waveforms.
        autoencoder: that autoencoder, where it is at hand already, as in a checkpoint; null to take it from `latent`,
            or for none.
    """

    kind = "diffusion"
    class_count = "classes"

    def __init__(
        self,
        net: Network,
        sde: SDE | None = None,
        parametrization: Parametrization | None = None,
        loss: Objective | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        sigma_data: float | None = None,
        label_dropout: float = 0.1,
        compile: bool = False,
        seed: int = 0,
        weak: Network | None = None,
        weak_every: int = 8,
        val_draws: int = 1,
        audio_dropout: float = 0.1,
        latent: str | None = None,
        autoencoder: Autoencoder | None = None,
    ):
        if val_draws < 1:
            raise ValueError(f"val_draws = {val_draws} is a number of noises for each clip: choose at least 1")
        if weak_every < 1:
            raise ValueError(f"weak_every = {weak_every} is a number of clips: at least 1, which is all of them")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout = {label_dropout:g} is a share: choose it between 0 and 1")
        if not 0 <= audio_dropout <= 1:
            raise ValueError(f"audio_dropout = {audio_dropout:g} is a share: choose it between 0 and 1")
        self.taken_from = None
        if latent is not None and autoencoder is None:
            self.taken_from = checkpoint.load_autoencoder(latent)
            autoencoder = self.taken_from.module
        super().__init__(net, sde, parametrization, sampler, guidance, sigma_data, seed, weak, autoencoder)
        sde = self.denoiser.sde
        self.loss = loss or Loss()
        learned = any(p.requires_grad for p in sde.parameters())
        if learned and weak is not None:
            raise ValueError(
                f"{type(sde).__name__} is learned with the network, and a weak one would have a say in it: add "
                "--model.weak=null"
            )
        if learned and not self.loss.invariant:
            # Any other loss it would lower by running to where the loss is least.
            raise ValueError(
                f"{type(sde).__name__} is learned with the network, which the bound on the likelihood alone can teach: "
                "add --model.loss.weight=LikelihoodWeight --model.loss.time=UniformTime, or take configs/sde/vdm.yaml"
            )
        if guidance is not None and guidance.weight != 1 and not label_dropout:
            raise ValueError(
                "guidance compares with no class, which label_dropout = 0 never trains: set it to 0.1, say"
            )
        if guidance is not None and guidance.audio != 1 and net.context != "none" and not audio_dropout:
            raise ValueError(
                "guidance.audio compares with no context, which audio_dropout = 0 never trains: set it to 0.1, say"
            )
        self.optimizer, self.scheduler, self.audio_dropout = optimizer, scheduler, audio_dropout
        self.measure = sigma_data is None
        self.label_dropout, self.compile_net, self.weak_every = label_dropout, compile, weak_every
        self.val_draws = val_draws
        self.buckets = nn.ModuleDict({f"{name}_loss": NoiseBuckets() for name in ("train", "val", "test")})
        # Lightning's own mean divides by the batch size of one process: wrong where they have unequal shares.
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in ("val", "test")})

    # Wiring

    @property
    def process(self) -> SDE:
        return self.denoiser.sde

    def noised(self, data: Any) -> Any:
        return data if self.latents is None else LatentSounds(data, self.latents)

    def encoded(self, batch: Any) -> Any:
        return batch if self.latents is None else batch._replace(audio=self.latents.encode(batch.audio))

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.latents is not None and data is not None:
            if self.taken_from is not None:
                self.taken_from.check(data)
            self.latents.measure(data.subsample(CLIPS))
        super().setup(stage)
        if stage == "fit":
            self.loss.begin(self.denoiser, self.sampler, started="started_from" in self.metadata)

    @property
    def trained(self) -> list[nn.Module]:
        return self.denoisers

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self.denoiser(u, t, condition)

    # Training

    def replay(
        self, batch: Any, counter: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> tuple[Tensor, Condition, NoiseDraw]:
        """As of every module; loops are turned by any share of their length, for a network that is told of it."""
        x, condition, draw = super().replay(batch, counter, rank, world, parts)
        if not getattr(self.denoiser.net, "circular", False) or self.latents is not None:
            return x, condition, draw
        step, places, total = self._places(len(x), counter, rank, world, parts)
        turn = sent(torch.rand(total, generator=stream(self.seed, "turn", step))[places], x.device)
        return turned(x, turn), turned_condition(condition, turn, x), draw

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, condition, draw = self.prepare_step(batch, self.batches)
        self.batches += 1
        self.taken = x, condition, draw
        losses = self.loss.at(self.denoiser, x, draw, condition)
        self.note_step(batch, draw, losses, self.buckets["train_loss"])
        loss = losses.mean()
        return loss if self.denoiser.weak is None else loss + self._weak_loss(x, draw, condition)

    def _weak_loss(self, x: Tensor, draw: NoiseDraw, condition: Condition) -> Tensor:
        """The loss of the weak network, which has no weight in common with the other."""
        rank, world, parts = self._share()
        step, places, total = self._places(len(x), self.batches - 1, rank, world, parts)
        every = min(self.weak_every, total)
        # Others at every step, since each place has its own range of noise levels. A process that has none of them
        # takes one for nothing, since all must bring a gradient.
        rows = [i for i, place in enumerate(places) if place % every == step % every]
        some = sent(torch.tensor(rows or [0]), x.device)
        losses = self.loss.at(self.denoiser.weak, x[some], draw[some], condition[some])
        # Its mean over all processes and batches of a step is that over all the clips that are taken.
        loss = losses.sum() * (world * parts / len(range(step % every, total, every)) if rows else 0.0)
        self.log("train/weak_loss", losses.detach().mean(), batch_size=len(some))
        return loss

    def condition(self, batch: Any, step: int, places: list[int], total: int) -> Condition:
        hidden = torch.rand(total, generator=stream(self.seed, "label", step))[places] < self.label_dropout
        context = _context(batch)
        if context is not None:
            # A draw of its own, so that the classes of data without contexts are hidden as ever. Half of those without
            # a context lose their class too: guidance asks for each alone, and for neither.
            draw = torch.rand(total, generator=stream(self.seed, "context", step))[places]
            hidden = hidden | (draw < 0.5 * self.audio_dropout)
            kept = sent(draw >= self.audio_dropout, context.device)
            context = context * kept[:, None, None].to(context)
        return Condition(torch.where(sent(hidden, batch.label.device), -1, batch.label), context)

    # Validation

    def fixed_noise_loss(self, batch: Any, number: int = 0) -> tuple[Tensor, NoiseDraw]:
        """The losses (B,) of clips as validation takes them, and what was drawn for it: always the same."""
        batch = self.encoded(batch)
        draw = self.fixed_draw(batch, number)
        return self.loss.validate(self.denoiser, batch.audio, draw, Condition(batch.label, _context(batch))), draw

    def _evaluate(self, batch: Any, name: str) -> None:
        means = []
        for number in range(self.val_draws):
            losses, draw = self.fixed_noise_loss(batch, number)
            self.buckets[f"{name}_loss"].update(losses, self.sigma_of(draw))
            means.append(losses.float())
        self.means[name].update(sum(means) / len(means))
        self.log(f"{name}/loss", self.means[name], prog_bar=True, batch_size=len(batch.audio))

    # Sampling

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """New sounds of the classes of the batch, companded, (B, 1, T)."""
        generators = self.generators(batch.index.tolist())
        return self.sample(batch.audio.shape[-1], batch.label, generators, audio=_context(batch))


def _context(batch: Any) -> Tensor | None:
    """What the parts of a batch go with, where its data are pairs."""
    return getattr(batch, "context", None)
