"""The LightningModule of an autoencoder: it wires the autoencoder and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from diffwave_sde.autoencoder import Adversary, Autoencoder, Reconstruction
from diffwave_sde.random import stream, streams
from diffwave_sde.training import BaseTrainingModule

BOTTLENECK, NAMES = "bottleneck", ("val", "test")


class CodeUsage(Metric):
    """The share of a codebook's rows that are taken at all, and the perplexity of those that are, e^entropy.

    Of several codebooks the means over them. Perplexity is the number of rows that are as good as in even use.

    Args:
        codes: rows of each codebook.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, codes: Iterable[int]) -> None:
        super().__init__()
        self.codes = tuple(codes)
        for number, count in enumerate(self.codes):
            self.add_state(f"counts{number}", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """codes (B, N, Q), long."""
        for number, (count, taken) in enumerate(zip(self.codes, codes.flatten(0, 1).unbind(-1), strict=True)):
            state = getattr(self, f"counts{number}")
            state += torch.bincount(taken.to(state.device), minlength=count)

    def compute(self) -> dict[str, Tensor]:
        """`codebook_usage`, 0 to 1, and `perplexity`, from 1 to the rows of a codebook."""
        usage, perplexity = [], []
        for number in range(len(self.codes)):
            counts = getattr(self, f"counts{number}").double()
            p = counts / counts.sum().clamp_min(1)
            usage.append((counts > 0).double().mean())
            perplexity.append(torch.special.entr(p).sum().exp())
        return {
            "codebook_usage": torch.stack(usage).mean().float(),
            "perplexity": torch.stack(perplexity).mean().float(),
        }


class AutoencoderModule(BaseTrainingModule):
    """An autoencoder of short sounds, and how it is trained.

    The loss is the STFT distance, the mean absolute error, each with its weight, and what the bottleneck adds. A
    validation logs `val/loss`, `val/stft`, `val/l1`, and `val/bottleneck` or, of a quantised one, whose bottleneck adds
    to the loss of training alone, `val/codebook_usage` and `val/perplexity`; its reconstructions go by the latents'
    means, without chance.

    Args:
        autoencoder: the network.
        loss: distances of a reconstruction.
        adversary: what learns to tell reconstructions from sounds, against which the autoencoder is trained; null for
            none. `val/loss` is without it: what moves measures nothing.
        optimizer: the optimizer, given the parameters.
        scheduler: the learning-rate schedule, stepped once per optimizer step; null for a constant rate.
        compile: whether the autoencoder is compiled (torch.compile) before training.
        seed: seed of every draw.
    """

    kind = "autoencoder"
    class_count = "classes"
    apart = frozenset({"loss"})

    def __init__(
        self,
        autoencoder: Autoencoder,
        loss: Reconstruction | None = None,
        adversary: Adversary | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        if not any(True for _ in self.autoencoder.parameters()):
            raise ValueError(f"{type(self.autoencoder).__name__} has nothing to learn: take ConvAutoencoder")
        self.loss, self.adversary = loss or Reconstruction(), adversary
        self.optimizer, self.scheduler, self.compile_net, self.seed = optimizer, scheduler, compile, seed
        # Lightning's own mean divides by the batch size of one process: wrong where they have unequal shares.
        figures = ("loss", "stft", "l1", BOTTLENECK)
        self.means = nn.ModuleDict({f"{n}_{f}": MeanMetric(nan_strategy="disable") for n in NAMES for f in figures})
        self.usage = nn.ModuleDict({n: CodeUsage(self.autoencoder.codes) for n in NAMES if self.autoencoder.codes})

    @property
    def networks(self) -> list[nn.Module]:
        return [part for part in (self.autoencoder, self.adversary) if part is not None]

    def optimized(self) -> Iterable[nn.Parameter]:
        return chain.from_iterable(part.parameters() for part in self.networks)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.world_size > 1:
            self.autoencoder.synchronize()

    def forward(self, x: Tensor) -> Tensor:
        """The reconstructions of x (B, 1, T), without chance."""
        return self.autoencoder.decode(self.autoencoder.encode(x), x.shape[-1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.audio
        rank, world, parts = self._share()
        step, places, _ = self._places(len(x), self.batches, rank, world, parts)
        # k-means and restarted codes take torch's own generator: a run that goes on is to draw as it would have.
        torch.manual_seed(stream(self.seed, "codes", self.batches, rank).initial_seed())
        y, bottled = self.autoencoder(x, streams(self.seed, "latent", step, rows=places, device=x.device))
        found = self.loss(y, x)
        losses = self.loss.total(found) + bottled.loss
        parts = {"stft": found.stft, "l1": found.l1.mean(), BOTTLENECK: bottled.loss.mean()}
        if self.adversary is not None:
            contest = self.adversary(y, x)
            losses = losses + self.adversary.total(contest, step)
            parts |= contest._asdict()
        self.batches += 1
        self.last = {"losses": losses.detach(), "index": batch.index}
        self.log_step(losses)
        self.log_dict({f"train/{k}": v.detach() for k, v in parts.items()}, batch_size=len(x))
        return losses.mean()

    def _evaluate(self, batch: Any, name: str) -> None:
        x = batch.audio
        noise = [stream(self.seed, "validation", i) for i in batch.index.tolist()]
        _, bottled = self.autoencoder(x, noise)
        found = self.loss(self(x), x)
        losses = self.loss.total(found) + bottled.loss
        values = {"loss": losses, "stft": found.stft.expand(len(x)), "l1": found.l1}
        if bottled.codes is None:
            values[BOTTLENECK] = bottled.loss
        for figure, value in values.items():
            mean = self.means[f"{name}_{figure}"]
            mean.update(value.float())
            self.log(f"{name}/{figure}", mean, prog_bar=figure == "loss", batch_size=len(x))
        if bottled.codes is not None:
            self.usage[name].update(bottled.codes)

    def _log_evaluation(self, name: str) -> None:
        if name in self.usage:
            self.log_dict({f"{name}/{k}": v for k, v in self.usage[name].compute().items()})
            self.usage[name].reset()

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The reconstructions of the clips of the batch, companded, (B, 1, T)."""
        return self(batch.audio)
