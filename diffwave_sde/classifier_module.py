"""The LightningModule of a noise-conditional classifier: it wires the network, the process and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffwave_sde.classifier import Classifier
from diffwave_sde.denoiser import Condition
from diffwave_sde.loss import CrossEntropy
from diffwave_sde.networks import Encoder
from diffwave_sde.sde import SDE
from diffwave_sde.training import NoiseBuckets, TrainingModule

FIGURES = ("loss", "accuracy")


class ClassifierModule(TrainingModule):
    """A classifier of noised sounds, for classifier guidance, and how it is trained.

    `val/loss` is the mean negative log probability of the class, in nats, and `val/accuracy` the share of clips whose
    class is found; both by decade of the noise level too, `val/accuracy/sigma=1e-1` and so on. Without anything to go
    by the loss is log K, and the accuracy that of the most frequent class.

    Args:
        net: the network.
        sde: the forward process whose noise levels it is trained at; it is not trained itself.
        loss: the cross-entropy, and the law of the noise levels.
        optimizer: the optimizer, given the parameters.
        scheduler: the learning-rate schedule, stepped once per optimizer step; null for a constant rate.
        sigma_data: standard deviation of the data; null to measure it on the training data.
        compile: whether the network is compiled (torch.compile) before training.
        seed: seed of every draw.
    """

    kind = "classifier"
    class_count = "outputs"

    def __init__(
        self,
        net: Encoder,
        sde: SDE | None = None,
        loss: CrossEntropy | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        sigma_data: float | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.classifier = Classifier(net, sde, sigma_data)
        self.classifier.sde.requires_grad_(False)
        self.loss = loss or CrossEntropy()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.measure, self.compile_net, self.seed = sigma_data is None, compile, seed
        names = ["train_loss", *(f"{name}_{figure}" for name in ("val", "test") for figure in FIGURES)]
        self.buckets = nn.ModuleDict({name: NoiseBuckets() for name in names})

    @property
    def process(self) -> SDE:
        return self.classifier.sde

    @property
    def trained(self) -> list[nn.Module]:
        return [self.classifier]

    def condition(self, batch: Any, step: int, places: list[int], total: int) -> Condition:
        return Condition(label=batch.label)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        return self.classifier(u, t)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, condition, draw = self.prepare_step(batch, self.batches)
        self.batches += 1
        losses = self.loss.at(self.classifier, x, draw, condition)
        self.note_step(batch, draw, losses, self.buckets["train_loss"])
        return losses.mean()

    def _evaluate(self, batch: Any, name: str) -> None:
        draw = self.fixed_draw(batch)
        log_prob = self.loss.log_prob(self.classifier, batch.audio, draw)
        figures = self.loss.of(log_prob, draw, Condition(label=batch.label)), log_prob.argmax(1) == batch.label
        for figure, values in zip(FIGURES, figures, strict=True):
            values = values.float()
            self.buckets[f"{name}_{figure}"].update(values, self.sigma_of(draw))
            self.log(f"{name}/{figure}", values.mean(), prog_bar=True, sync_dist=True, batch_size=len(values))

    def _log_evaluation(self, name: str) -> None:
        for figure in FIGURES:
            self.log_buckets(f"{name}/{figure}", self.buckets[f"{name}_{figure}"])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """log p(class) of the clips of the batch as they are, (B, K)."""
        t = torch.full((len(batch.audio),), self.process.t_min, dtype=torch.float64, device=batch.audio.device)
        kernel = self.process.kernel(t)
        return self.classifier.at(batch.audio, kernel.snr)
