"""What loggers show beside figures: sounds with their pictures, the clips of spikes, the loss over the noise level.

W&B gets tables with players, TensorBoard its audio and images, and a CSV logger a list of the files, `sounds.csv`.
Other loggers get the figures alone.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from diffwave_sde import audio
from diffwave_sde.callbacks import wandb as room
from diffwave_sde.sounds.run_page import SPIKE, by_noise_level
from diffwave_sde.tolerance import Tolerance

LIST = "sounds.csv"
_tolerance = Tolerance()
COLUMNS = ("step", "class", "sound", "file", "picture", "told")


def log_sounds(loggers: Sequence[Logger], step: int, kinds: Sequence[str], files: Sequence[Path]) -> None:
    """Log sounds made in training.

    Args:
        step: the optimizer's.
        kinds: the class of each, "" for none.
        files: their WAV files, with the picture of each beside it.
    """
    for logger in loggers:
        with _tolerance.of(f"showing sounds in {type(logger).__name__}"):
            if isinstance(logger, WandbLogger):
                room.log_sounds(logger, step, kinds, files)
            elif isinstance(logger, CSVLogger):
                _list(logger, [(step, kind, file.stem, file, "") for kind, file in zip(kinds, files, strict=True)])
            elif (board := _tensorboard(logger)) is not None:
                for file in files:
                    _show(board, f"samples/{file.stem}", file, step)
                board.flush()


def log_spikes(loggers: Sequence[Logger], step: int, folders: Sequence[Path]) -> None:
    """Log the clips of spikes.

    Args:
        step: the optimizer's at which they are logged; each is told with its own.
        folders: of the spikes, each with its clips and what is told of it.
    """
    spikes = [(folder, json.loads((folder / SPIKE).read_text(encoding="utf-8"))) for folder in folders]
    clips = [
        (told["step"], told["what"], folder / clip["file"], clip["told"])
        for folder, told in spikes
        for clip in told["clips"]
    ]
    for logger in loggers if clips else ():
        with _tolerance.of(f"showing spikes in {type(logger).__name__}"):
            if isinstance(logger, WandbLogger):
                room.log_spikes(logger, step, clips)
            elif isinstance(logger, CSVLogger):
                _list(logger, [(at, "spike", file.stem, file, f"{what}; {told}") for at, what, file, told in clips])
            elif (board := _tensorboard(logger)) is not None:
                for at, what, file, told in clips:
                    _show(board, f"spikes/{file.stem}", file, at)
                    board.add_text(f"spikes/{file.stem}", f"{what}; {told}", at)
                board.flush()


def log_noise_levels(loggers: Sequence[Logger], step: int, figures: Mapping[str, float]) -> None:
    """Log the validation loss over the noise level as one curve, where a logger has such; its points are figures too.

    Args:
        step: the optimizer's.
        figures: all of a validation, by name.
    """
    found = by_noise_level(figures).get("val/loss")
    for logger in loggers if found else ():
        if isinstance(logger, WandbLogger):
            with _tolerance.of("showing the loss by noise level in W&B"):
                room.log_noise_levels(logger, step, found)


def _tensorboard(logger: Logger) -> Any:
    """TensorBoard's writer, of whichever logger has one, or None."""
    writer = getattr(logger, "experiment", None)
    return writer if hasattr(writer, "add_audio") and hasattr(writer, "add_image") else None


def _show(board: Any, tag: str, file: Path, step: int) -> None:
    from PIL import Image

    wave, rate = audio.decode(file)
    board.add_audio(tag, wave[None].clamp(-1, 1), step, rate)
    picture = file.with_suffix(".png")
    if picture.exists():
        with Image.open(picture) as image:
            board.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _list(logger: CSVLogger, rows: Sequence[tuple[int, str, str, Path, str]]) -> None:
    """Add sounds to the list beside the figures, their files relative to it."""
    folder = Path(logger.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LIST
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for step, kind, name, wav, told in rows:
            places = [Path(os.path.relpath(p, folder)).as_posix() for p in (wav, wav.with_suffix(".png"))]
            writer.writerow((step, kind, name, *places, told))
