"""The LightningModule: it wires the network, the process, the loss and the sampler, and computes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from diffwave_sde.compatibility import renew_checkpoint
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.loss import Loss, NoiseDraw, Objective
from diffwave_sde.machine import sent
from diffwave_sde.model import KEY, Model, check_fit
from diffwave_sde.networks import Network
from diffwave_sde.optim import MuonAdamW, WarmupDecay  # noqa: F401  an optimizer to name on the command line
from diffwave_sde.parametrization import Parametrization
from diffwave_sde.random import stream
from diffwave_sde.resume import match_callbacks, match_data
from diffwave_sde.samplers import Sampler
from diffwave_sde.sde import SDE, float64

VALIDATION, TRAINING = "validation", "training"


def is_log_step(trainer: Trainer) -> bool:
    """Whether Lightning logs what the training step at hand gives it: asked within the step, as Lightning asks."""
    every = trainer.log_every_n_steps
    return every > 0 and ((trainer.global_step + 1) % every == 0 or trainer.should_stop)


class NoiseBuckets(Metric):
    """The mean loss by noise level, a bucket for each decade of σ = 1 / √snr: the mean over all hides everything."""

    higher_is_better = False
    full_state_update = False
    decades = range(-4, 3)

    def __init__(self) -> None:
        super().__init__()
        size = len(self.decades)
        self.add_state("total", torch.zeros(size), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(size), dist_reduce_fx="sum")

    def update(self, loss: Tensor, sigma: Tensor) -> None:
        """loss (B,), sigma (B,)."""
        bucket = sigma.to(loss.device).log10().floor().clamp(self.decades[0], self.decades[-1]).long() - self.decades[0]
        self.total.index_add_(0, bucket, loss.to(self.total))
        self.count.index_add_(0, bucket, torch.ones_like(loss).to(self.count))

    def compute(self) -> dict[str, Tensor]:
        """The mean loss of each bucket that holds any, by name."""
        names = [f"sigma=1e{d:+d}" for d in self.decades]
        counts = self.count.tolist()
        return {n: t / c for n, t, c, full in zip(names, self.total, self.count, counts, strict=True) if full > 0}


class DiffusionModule(Model, LightningModule):
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
        compile: whether the network is compiled (torch.compile) before training.
        seed: seed of every draw of training, validation and listening.
        weak: a network with less in it, for autoguidance, which learns beside the other one from the same batches; null
            for none.
        weak_every: of the clips it learns from every how manieth: its errors must be the other's, and larger.
    """

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
    ):
        if weak_every < 1:
            raise ValueError(f"weak_every = {weak_every} is a number of clips: at least 1, which is all of them")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout = {label_dropout:g} is a share: choose it between 0 and 1")
        super().__init__(net, sde, parametrization, sampler, guidance, sigma_data, seed, weak)
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
        self.optimizer, self.scheduler = optimizer, scheduler
        self.measure = sigma_data is None
        self.label_dropout, self.compile_net, self.weak_every = label_dropout, compile, weak_every
        self.buckets = nn.ModuleDict({f"{name}_loss": NoiseBuckets() for name in ("train", "val", "test")})
        self.metadata: dict[str, Any] = {}
        """What a checkpoint needs so that the model can be built and heard again; the command line fills it in."""
        self.last: dict[str, Tensor] = {}
        """The losses (B,), noise levels σ (B,), rows of the store (B,) and batch counter of the last training step."""
        self.batches = 0

    # Wiring

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.measure and data is not None:
            for denoiser in self.denoisers:
                denoiser.sigma_data.fill_(data.sigma_data)
        if stage == "fit" and data is not None:
            self.denoiser.sde.adapt(lambda: data.diameter)
        if stage == "fit":
            self.loss.begin(self.denoiser, self.sampler)
        length = getattr(data, "length", None)
        if stage == "fit" and length is not None:
            # One clip, from which Lightning's summary counts the operations of a call.
            inputs = torch.zeros(1, self.denoiser.sde.blocks, 1, length)
            self.example_input_array = inputs, torch.full((1,), 0.5 * self.denoiser.sde.t_max)
        if stage != "fit":
            self._compile()

    def on_fit_start(self) -> None:
        self._compile()  # after the summary, whose one call would be compiled for nothing

    def _compile(self) -> None:
        if self.compile_net:
            # In place, so that the names of the weights stay as they are.
            for denoiser in self.denoisers:
                denoiser.net.compile()

    @property
    def denoisers(self) -> list[Denoiser]:
        """All that is trained: the denoiser, and the weak one if there is one."""
        return [d for d in (self.denoiser, self.denoiser.weak) if d is not None]

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.denoiser.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, WarmupDecay) and self._attached:
            scheduler.set_total_steps(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    @property
    def _attached(self) -> bool:
        """Whether there is a trainer."""
        try:
            return self.trainer is not None
        except RuntimeError:  # Lightning's answer where there is none
            return False

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        return self.denoiser(u, t, condition)

    # Training

    def on_train_start(self) -> None:
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, WarmupDecay) and scheduler.notice:
            self.print(scheduler.notice)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, condition, draw = self.prepare_step(batch, self.batches)
        self.batches += 1
        losses = self.loss.at(self.denoiser, x, draw, condition)
        loss = losses.mean()
        if self.loss.time.learns:
            self._observe(draw, losses)
        sigma = self._sigma(draw)
        self.buckets["train_loss"].update(losses.detach(), sigma)
        self.last = {"losses": losses.detach(), "sigma": sigma, "index": batch.index}
        # Not for the progress bar, for which Lightning would read the value at every step, and wait for the GPU.
        self.log("train/loss", loss.detach(), batch_size=len(x))
        if is_log_step(self.trainer):
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log_dict({f"train/loss/{k}": v for k, v in self.buckets["train_loss"].compute().items()})
            self.buckets["train_loss"].reset()
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

    def _observe(self, draw: NoiseDraw, losses: Tensor) -> None:
        # Those of all processes, so that all draw from one law.
        pairs = torch.stack((float64(draw.t), float64(losses.detach() / draw.weight.to(losses))))
        t, losses = self.all_gather(pairs).reshape(-1, *pairs.shape).unbind(1)
        self.loss.time.observe(self.denoiser.sde, t.flatten(), losses.flatten())

    def prepare_step(self, batch: Any, counter: int) -> tuple[Tensor, Condition, NoiseDraw]:
        """The clips, condition and draws of training batch number `counter`: a pure function of these and the seed."""
        return self.replay(batch, counter, *self._share())

    def _share(self) -> tuple[int, int, int]:
        """This process's rank, the number of processes, and that of batches for a step of the optimizer."""
        if not self._attached:
            return 0, 1, 1
        return self.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches

    @staticmethod
    def _places(count: int, counter: int, rank: int, world: int, parts: int) -> tuple[int, list[int], int]:
        """The optimizer's step, the places of a batch's clips among all that it is made of, and how many these are.

        The place, not that in one process's share nor in one of several batches, decides what a clip draws.
        """
        step, part = divmod(counter, parts)
        return step, [(part * count + i) * world + rank for i in range(count)], count * world * parts

    def replay(
        self, batch: Any, counter: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> tuple[Tensor, Condition, NoiseDraw]:
        """As `prepare_step`, for any rank of any number of processes: what a spike's record is replayed with.

        `parts` batches are accumulated for a step of the optimizer.
        """
        x = batch.audio
        step, places, total = self._places(len(x), counter, rank, world, parts)
        torch.manual_seed(stream(self.seed, "dropout", counter, rank).initial_seed())
        generators = [stream(self.seed, TRAINING, step, p, device=x.device) for p in places]
        position = sent(torch.tensor(places), x.device)
        shared = stream(self.seed, TRAINING, step, "shared", device=x.device)
        self.loss.begin_step(step)
        draw = self.loss.draw(self.denoiser.sde, x, generators, position, total, shared)
        hidden = torch.rand(total, generator=stream(self.seed, "label", step))[places]
        label = torch.where(sent(hidden < self.label_dropout, x.device), -1, batch.label)
        return x, Condition(label=label), draw

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {**self.metadata, "batches": self.batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # In place: Lightning and its callbacks take the weights from there.
        renew_checkpoint(checkpoint)
        if KEY not in checkpoint:
            raise ValueError("the checkpoint was not written by diffwave-sde: give one from runs/NAME/checkpoints")
        if self._attached and getattr(self.trainer, "datamodule", None) is not None:
            match_data(checkpoint[KEY], self.trainer.datamodule)
        if self._attached and self.trainer.state.fn == "fit":
            match_callbacks(checkpoint, self.trainer.callbacks)
        self.batches = checkpoint[KEY]["batches"]
        check_fit(self, checkpoint["state_dict"])

    # Validation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def fixed_noise_loss(self, batch: Any) -> tuple[Tensor, NoiseDraw]:
        """The losses (B,) of clips as validation takes them, and what was drawn for it.

        A clip's time and noise follow from its place in the store: they are the same at every validation, so that
        "best" is not the luck of t, and on every device. Steps of the golden ratio spread the times evenly over any run
        of clips.
        """
        x = batch.audio
        quantile = (batch.index.double() * 0.6180339887498949 + 0.5) % 1
        noise = [stream(self.seed, VALIDATION, i) for i in batch.index.tolist()]
        draw = self.loss.draw(self.denoiser.sde, x, noise)
        # Of the law that is meant, not of one that moves as training goes on.
        draw = replace(draw, t=self.loss.time.law(self.denoiser.sde, quantile), weight=None)
        return self.loss.validate(self.denoiser, x, draw, Condition(label=batch.label)), draw

    def _evaluate(self, batch: Any, name: str) -> None:
        losses, draw = self.fixed_noise_loss(batch)
        self.buckets[f"{name}_loss"].update(losses, self._sigma(draw))
        self.log(f"{name}/loss", losses.mean(), prog_bar=True, sync_dist=True, batch_size=len(losses))

    def on_validation_epoch_end(self) -> None:
        self._log_buckets("val")

    def on_test_epoch_end(self) -> None:
        self._log_buckets("test")

    def _log_buckets(self, name: str) -> None:
        self.log_dict({f"{name}/loss/{k}": v for k, v in self.buckets[f"{name}_loss"].compute().items()})
        self.buckets[f"{name}_loss"].reset()

    def _sigma(self, draw: NoiseDraw) -> Tensor:
        return self.denoiser.sde.kernel(draw.t).snr.rsqrt().float()

    # Sampling

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """New sounds of the classes of the batch, companded, (B, 1, T)."""
        generators = self.generators(batch.index.tolist())
        return self.sample(batch.audio.shape[-1], batch.label, generators)
