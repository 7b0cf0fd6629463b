"""A run on one of two processes, for test_distributed.py: `two_processes.py SOUNDS FOLDER CASE`."""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from small_run import make_data, make_model, make_trainer

from diffwave_sde.callbacks import EMA, SampleLogger, SpikeDetector

SOUNDS, FOLDER, CASE = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


class Jump(Callback):
    """A clip of rank 1 alone is beyond measure, and at another step no number."""

    def on_train_batch_start(self, trainer, module, batch, _):
        if trainer.global_step == 5 and trainer.global_rank == 1:
            batch.audio.mul_(1e3)
        if trainer.global_step == 6 and trainer.global_rank == 1:
            batch.audio.mul_(float("nan"))


class Break(Callback):
    """The first sampling of rank 1 fails."""

    def on_train_start(self, trainer, module):
        if trainer.global_rank == 1:
            module.sample = lambda *_, **__: 1 / 0


class Uneven(Callback):
    """Rank 0 validates two clips of three, rank 1 one; keeps what both come to."""

    def on_validation_end(self, trainer, module):
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(figures, FOLDER / f"figures-{trainer.global_rank}.pt")


def validate() -> None:
    data, rank = make_data(SOUNDS, 2), int(os.environ["RANK"])
    data.splits["validation"] = data.splits["train"][:3][rank::2]
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False, "limit_val_batches": 1.0}
    make_trainer(FOLDER, [Uneven()], **options).validate(make_model(), data)


def main() -> None:
    if CASE == "validate":
        validate()
        return
    # Rank 1 thinks that the run lives elsewhere: what rank 0 says counts.
    ema, module = EMA(0.9), make_model()
    detector = SpikeDetector(warmup=3, window=20, threshold=20, skip=True)
    extra = {"run": [Jump()], "error": [Break()]}[CASE]
    rank = int(os.environ["RANK"])
    callbacks = [ema, detector, SampleLogger(every=4, count=3), *extra]
    trainer = make_trainer(FOLDER if rank == 0 else FOLDER / "other", callbacks, devices=2, strategy="ddp", max_steps=8)
    try:
        trainer.fit(module, make_data(SOUNDS, 2))
    except Exception as error:
        (FOLDER / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        return
    (FOLDER / f"steps-{rank}").write_text(str(trainer.global_step))
    weights = [ema._raw, [p.detach() for p in ema._average_model.module.parameters()], ema.updates]
    torch.save(weights, FOLDER / f"rank-{rank}.pt")


main()
