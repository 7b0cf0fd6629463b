"""How probable a model in training finds validation clips, as a figure to choose a checkpoint by, or to stop by."""

from __future__ import annotations

import math
import time
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from diffwave_sde import audio
from diffwave_sde.callbacks.at_validation import AtValidation
from diffwave_sde.callbacks.ema import averaged
from diffwave_sde.callbacks.generation import evaluating, gather_across_ranks
from diffwave_sde.callbacks.progress import say
from diffwave_sde.likelihood import Bound, Proxy, bits_per_sample
from diffwave_sde.random import stream


class Likelihood(AtValidation):
    """At validation: the proxy of the likelihood of validation clips, or the bound in bits per sample.

    It logs `val/proxy` or `val/bound`, lower for a better model. All validations draw the same noises for the same
    clips, so that what changes is the model; the weights are the averaged ones, and training is not disturbed. For
    ModelCheckpoint give `monitor: val/proxy`, and the same for EarlyStopping.

    Args:
        method: proxy, which ranks checkpoints with little chance in it; or bound, in bits per sample, at most.
        every: validations between two times, from the first on.
        count: validation clips.
        terms: noise levels that each clip is asked at, a call of the network each.
        batch: clips at a time.
    """

    def __init__(
        self,
        method: Literal["proxy", "bound"] = "proxy",
        every: int = 1,
        count: int = 32,
        terms: int = 16,
        batch: int = 16,
    ):
        if method not in ("proxy", "bound"):
            raise ValueError(f"method = {method!r}: choose proxy or bound")
        if min(every, count, batch, terms) < 1:
            raise ValueError(
                f"every = {every} validations, count = {count} and batch = {batch} clips, terms = {terms}: must be 1 "
                "or more"
            )
        super().__init__(every, [f"val/{method}"])
        self.method, self.count, self.batch = method, count, batch
        self.estimator = Proxy(terms) if method == "proxy" else Bound(1, terms)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if getattr(pl_module, "latents", None) is not None:
            raise ValueError("callbacks.Likelihood: a model of latents says nothing of how likely a waveform is")

    def measure(self, trainer: Trainer, module: LightningModule) -> None:
        began, data = time.monotonic(), trainer.datamodule
        rows = data.splits["validation"][: self.count].tolist()
        mine = rows[trainer.global_rank :: trainer.world_size]
        own = averaged(trainer, module)
        with gather_across_ranks(trainer, "likelihood") as share, isolate_rng(), own, evaluating(module):
            for first in range(0, len(mine), self.batch):
                some = mine[first : first + self.batch]
                x = audio.from_int16(data.store.read(some))[:, None]
                label = torch.from_numpy(data.store.label_ids[some])
                generators = [stream(module.seed, "likelihood", row) for row in some]
                with trainer.precision_plugin.forward_context():
                    bits, _ = bits_per_sample(module.denoiser, self.estimator, x, label, generators, data.mu)
                share.update(zip(some, bits.tolist(), strict=True))
        # Every rank reckons it, so that every rank knows it.
        values = [share[row] for row in rows]
        value = sum(values) / len(values)
        name = f"val/{self.method}"
        module.log(name, value, batch_size=len(rows), rank_zero_only=False)
        told = "not finite" if not math.isfinite(value) else f"{value:.4f}"
        unit = " bits per sample" if self.method == "bound" else ""
        say(
            trainer,
            f"step {trainer.global_step}: {self.method} of the likelihood {told}{unit}, {len(rows)} clips in "
            f"{time.monotonic() - began:.1f} s",
        )
