"""What the LightningModules share: draws, optimizer, schedule, compilation, and what a checkpoint holds.

A module of a kind wires what it trains and computes its loss; all draws of a step follow from the seed, the step and a
clip's place in the global batch alone (`random.stream`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from diffwave_sde.checkpoint_io import protect
from diffwave_sde.compatibility import renew_checkpoint
from diffwave_sde.denoiser import Condition
from diffwave_sde.loss import NoisedLoss, NoiseDraw
from diffwave_sde.machine import sent
from diffwave_sde.model import KEY, check_fit
from diffwave_sde.optim import WarmupDecay
from diffwave_sde.random import stream, streams
from diffwave_sde.resume import match_callbacks, match_data
from diffwave_sde.sde import SDE, float64
from diffwave_sde.tolerance import protect_loggers

VALIDATION, TRAINING = "validation", "training"


def is_log_step(trainer: Trainer) -> bool:
    """Whether Lightning logs what the training step at hand gives it: asked within the step, as Lightning asks."""
    every = trainer.log_every_n_steps
    return every > 0 and ((trainer.global_step + 1) % every == 0 or trainer.should_stop)


class NoiseBuckets(Metric):
    """The mean of a figure by noise level, a bucket for each decade of σ = 1 / √snr: the mean over all hides all."""

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
        """The mean of each bucket that holds any, by name."""
        names = [f"sigma=1e{d:+d}" for d in self.decades]
        counts = self.count.tolist()
        return {n: t / c for n, t, c, full in zip(names, self.total, self.count, counts, strict=True) if full > 0}


class BaseTrainingModule(LightningModule):
    """A network and a loss in training: what all kinds have in common.

    A subclass sets the attributes below, and says what a step computes.

    kind: what it trains, as a checkpoint says.
    class_count: the argument of its networks that the number of the data's classes is, where it is null.
    apart: options of the model that are not those of base.yaml.
    optimizer: given the parameters.
    scheduler: the learning rate's schedule, given the optimizer, or None.
    compile_net: whether the networks are compiled before training.
    seed: of all draws.
    """

    kind: str
    class_count: str
    apart: frozenset[str] = frozenset({"net", "loss"})
    optimizer: Callable[[Iterable], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None
    compile_net: bool
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}
        """What a checkpoint needs so that the model can be built and heard again; the command line fills it in."""
        self.last: dict[str, Tensor] = {}
        """The losses (B,) and rows of the store (B,) of the last training step, and noise levels σ (B,) if any."""
        self.taken: tuple[Tensor, Condition, NoiseDraw] | None = None
        """The clips, condition and draw of the last training step, where it can be replayed from them."""
        self.batches = 0

    @property
    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """All that is trained, and compiled where asked for."""

    @abstractmethod
    def optimized(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimizer is given."""

    # Wiring

    def setup(self, stage: str) -> None:
        if stage == "fit":
            protect(self.trainer, self)
            protect_loggers(self.trainer)
        else:
            self._compile()

    def on_fit_start(self) -> None:
        self._compile()  # after the summary, whose one call would be compiled for nothing

    def _compile(self) -> None:
        if self.compile_net:
            # In place, so that the names of the weights stay as they are.
            for network in self.networks:
                network.compile()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.optimized())
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

    # Training

    def on_train_start(self) -> None:
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, WarmupDecay) and scheduler.notice:
            self.print(scheduler.notice)

    def log_step(self, losses: Tensor) -> None:
        """Log a training step's losses (B,)."""
        # Not for the progress bar, for which Lightning would read the value at every step, and wait for the GPU.
        self.log("train/loss", losses.detach().mean(), batch_size=len(losses))
        if is_log_step(self.trainer):
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    # Validation

    @abstractmethod
    def _evaluate(self, batch: Any, name: str) -> None:
        """Log the figures of a batch of a validation ("val") or a test ("test"), or keep them for its end."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    @abstractmethod
    def _log_evaluation(self, name: str) -> None:
        """Log what a validation or a test has gathered, at its end."""

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {**self.metadata, "kind": self.kind, "batches": self.batches}

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
        if "started_from" in checkpoint[KEY]:  # which a run that goes on is not told again
            self.metadata["started_from"] = checkpoint[KEY]["started_from"]
        check_fit(self, checkpoint["state_dict"])


class TrainingModule(BaseTrainingModule):
    """A network, a process and a loss at drawn noise levels, in training.

    A subclass sets the attributes below too.

    buckets: NoiseBuckets of each figure, train_loss, val_loss and test_loss among them.
    loss: it draws times and noise.
    measure: whether the standard deviation of the data is measured.
    val_draws: times and noises that each clip is validated with.
    """

    buckets: nn.ModuleDict
    loss: NoisedLoss
    measure: bool
    val_draws: int = 1

    @property
    @abstractmethod
    def process(self) -> SDE:
        """The forward process."""

    @property
    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """All that is trained: modules with a network, `net`, and the data's standard deviation, `sigma_data`."""

    @abstractmethod
    def condition(self, batch: Any, step: int, places: list[int], total: int) -> Condition:
        """What the clips of a training batch are said to be.

        Args:
            batch: the clips.
            step: the optimizer's.
            places: of the clips in the global batch.
            total: clips in the global batch.
        """

    # Wiring

    @property
    def networks(self) -> list[nn.Module]:
        return [part.net for part in self.trained]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        data = self.noised(data)
        if self.measure:
            for part in self.trained:
                part.sigma_data.fill_(data.sigma_data)
        self.process.adapt(lambda: data.diameter)
        length = getattr(data, "length", None)
        if length is not None:
            # One clip, from which Lightning's summary counts the operations of a call.
            inputs = torch.zeros(1, self.process.blocks, 1, length)
            self.example_input_array = inputs, torch.full((1,), 0.5 * self.process.t_max)

    def noised(self, data: Any) -> Any:
        """What is noised of the data: its `sigma_data`, `diameter` and `length`."""
        return data

    def encoded(self, batch: Any) -> Any:
        """A batch of clips with what is noised of them in their place."""
        return batch

    def optimized(self) -> Iterable[nn.Parameter]:
        return self.trained[0].parameters()

    # Draws

    def prepare_step(self, batch: Any, counter: int) -> tuple[Tensor, Condition, NoiseDraw]:
        """The clips, condition and draws of training batch number `counter`: a pure function of these and the seed."""
        return self.replay(batch, counter, *self._share())

    def replay(
        self, batch: Any, counter: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> tuple[Tensor, Condition, NoiseDraw]:
        """As `prepare_step`, for any rank of any number of processes: what a spike's record is replayed with.

        `parts` batches are accumulated for a step of the optimizer.
        """
        batch = self.encoded(batch)
        x = batch.audio
        step, places, total = self._places(len(x), counter, rank, world, parts)
        torch.manual_seed(stream(self.seed, "dropout", counter, rank).initial_seed())
        generators = streams(self.seed, TRAINING, step, rows=places, device=x.device)
        position = sent(torch.tensor(places), x.device)
        shared = stream(self.seed, TRAINING, step, "shared", device=x.device)
        self.loss.begin_step(step)
        draw = self.loss.draw(self.process, x, generators, position, total, shared)
        return x, self.condition(batch, step, places, total), draw

    def fixed_draw(self, batch: Any, number: int = 0) -> NoiseDraw:
        """The times and noise at which validation takes the clips of a batch.

        They follow from a clip's place in the store and the number of the draw, below `val_draws`: they are the same at
        every validation, so that "best" is not the luck of t, and on every device. Steps of the golden ratio spread the
        times evenly over any run of clips, and over the draws of one.
        """
        place = batch.index.double() * self.val_draws + number
        quantile = (place * 0.6180339887498949 + 0.5) % 1
        more = (number,) if number else ()
        noise = [stream(self.seed, VALIDATION, i, *more) for i in batch.index.tolist()]
        draw = self.loss.draw(self.process, batch.audio, noise)
        # Of the law that is meant, not of one that moves as training goes on.
        return replace(draw, t=self.loss.time.law(self.process, quantile), weight=None)

    def sigma_of(self, draw: NoiseDraw) -> Tensor:
        """The noise levels σ = 1 / √snr of a draw, (B,)."""
        return self.process.kernel(draw.t).snr.rsqrt().float()

    # Training

    def note_step(self, batch: Any, draw: NoiseDraw, losses: Tensor, buckets: NoiseBuckets) -> None:
        """Log a training step's losses (B,), keep them for callbacks, and show them to a law of times that learns."""
        if self.loss.time.learns:
            self._observe(draw, losses)
        sigma = self.sigma_of(draw)
        buckets.update(losses.detach(), sigma)
        self.last = {"losses": losses.detach(), "sigma": sigma, "index": batch.index}
        self.log_step(losses)
        if is_log_step(self.trainer):
            self.log_buckets("train/loss", buckets)

    def _observe(self, draw: NoiseDraw, losses: Tensor) -> None:
        # Those of all processes, so that all draw from one law.
        pairs = torch.stack((float64(draw.t), float64(losses.detach() / draw.weight.to(losses))))
        t, losses = self.all_gather(pairs).reshape(-1, *pairs.shape).unbind(1)
        self.loss.time.observe(self.process, t.flatten(), losses.flatten())

    def log_buckets(self, name: str, buckets: NoiseBuckets) -> None:
        """Log the means by noise level, and begin anew."""
        self.log_dict({f"{name}/{k}": v for k, v in buckets.compute().items()})
        buckets.reset()

    # Validation

    def _log_evaluation(self, name: str) -> None:
        """Log what the buckets of a validation or a test hold at its end."""
        self.log_buckets(f"{name}/loss", self.buckets[f"{name}_loss"])
