"""Sounds made in the middle of training, by all processes together, without disturbing it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor, nn

from diffwave_sde import audio
from diffwave_sde.callbacks.ema import averaged
from diffwave_sde.progress import progress_bar
from diffwave_sde.samplers import Sampler


def classes_of(trainer: Trainer, module: LightningModule, count: int) -> tuple[tuple[str, ...], list[int] | None]:
    """The names of the classes, and which of them each of `count` sounds is asked to be: all in turn, or None."""
    # Without a datamodule of sounds, the batches tell no classes.
    names = tuple(getattr(trainer.datamodule, "labels", ())) if module.denoiser.net.classes else ()
    return names, [i % len(names) for i in range(count)] if names else None


def generate(
    trainer: Trainer,
    module: LightningModule,
    numbers: Sequence[int],
    classes: Sequence[int] | None,
    title: str,
    sampler: Sampler | None = None,
    batch: int = 16,
) -> Tensor:
    """The sounds of these numbers as waveforms (n, T), on every rank; all ranks must call it.

    With the averaged weights, in evaluation mode, each sound from `module.generators([number])`. No random number of
    training is drawn, and the weights and modes are put back bit for bit. An error on one rank is raised on all.

    Args:
        numbers: of the sounds.
        classes: class id of each, or None.
        title: what the progress bar says, and an error on another rank.
        sampler: the model's own by default.
        batch: sounds made at once by a process.
    """
    for callback in trainer.callbacks:
        if hasattr(callback, "pause"):  # the clocks of training
            callback.pause(clear=True)
    data, n = trainer.datamodule, len(numbers)
    mu, length = getattr(data, "mu", 0.0), getattr(data, "length", audio.LENGTH)
    contexts = data.contexts(n) if hasattr(data, "contexts") and module.denoiser.net.context != "none" else None
    mine = list(range(trainer.global_rank, n, trainer.world_size))
    made: dict[int, Tensor] = {}
    with gather_across_ranks(trainer, title) as share:
        display = progress_bar("sounds", Console(), transient=True, show=trainer.is_global_zero)
        with isolate_rng(), averaged(trainer, module), evaluating(module), display:
            task = display.add_task(title, total=len(mine))
            for first in range(0, len(mine), batch):
                places = mine[first : first + batch]
                label = torch.tensor([classes[i] for i in places], device=module.device) if classes else None
                generators = module.generators([numbers[i] for i in places])

                def advance(done: int, steps: int, first: int = first, sounds: int = len(places)) -> None:
                    display.update(task, completed=first + sounds * done / steps)

                with trainer.precision_plugin.forward_context():
                    heard = {} if contexts is None else {"audio": contexts[places].to(module.device)}
                    y = module.sample(length, label, generators, sampler, advance, **heard)
                made |= dict(zip(places, audio.expand(y.float().cpu(), mu)[:, 0], strict=True))
        share.update(made)
    return torch.stack([share[i] for i in range(n)])


@contextmanager
def gather_across_ranks(trainer: Trainer, title: str) -> Iterator[dict]:
    """What each rank puts into the dict within it, all of them have after it; an error on one is an error on all.

    Nobody waits for a rank that has failed: the exchange is where all of them meet, whatever happened before it.

    Args:
        title: what the other ranks say has failed.
    """
    mine: dict = {}
    error: BaseException | None = None
    try:
        yield mine
    except Exception as caught:
        error = caught
    if trainer.world_size > 1:
        everyone: list = [None] * trainer.world_size
        text = "".join(traceback.format_exception(error)) if error else None
        torch.distributed.all_gather_object(everyone, (text, mine))
        failed = [(rank, text) for rank, (text, _) in enumerate(everyone) if text]
        if failed and error is None:
            raise RuntimeError(f"{title} failed on rank {failed[0][0]}:\n{failed[0][1]}")
        for _, theirs in everyone:
            mine.update(theirs)
    if error is not None:
        raise error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, in eager mode: other batch sizes would make a compiled network compile again."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield
    finally:
        for m, training in modes.items():
            m.training = training
