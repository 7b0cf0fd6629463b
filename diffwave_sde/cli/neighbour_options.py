"""The options of every verb that tells whether its sounds are copies: `--neighbours`, `--neighbours_data`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from diffwave_sde import checkpoint, generate
from diffwave_sde.names import printable
from diffwave_sde.progress import progress_bar

if TYPE_CHECKING:
    from diffwave_sde.metrics.neighbours import Index, Neighbour


def add(p: ArgumentParser) -> None:
    """Give a parser the options."""
    p.add_argument(
        "--neighbours",
        action="store_true",
        help="tell of each sound which training clip is nearest, and how near that is for a real one",
    )
    p.add_argument(
        "--neighbours_data",
        type=str | None,
        help="compare with these sounds, a folder or a dataset's name (default: what the model was trained on)",
    )


def add_redraw(p: ArgumentParser) -> None:
    """Give a parser the option that a verb has that can make another sound in the place of a copy."""
    p.add_argument(
        "--redraw_copies",
        action="store_true",
        help="make sounds anew that are nearer to a training clip than 99 of 100 real ones, "
        f"{generate.TRIES} times at most",
    )


def wanted(config: Namespace) -> bool:
    """Whether neighbours are asked for."""
    return config.neighbours or config.neighbours_data is not None or config.get("redraw_copies", False)


def index(config: Namespace, model: checkpoint.LoadedModel) -> Index:
    """The clips that the options compare with.

    Raises:
        ValueError: if they are not here.
    """
    # Where it is needed: with it comes Lightning, which takes longer to import than a sound to make.
    from diffwave_sde.metrics.neighbours import Index

    with progress_bar("clips", transient=True) as progress:
        task = progress.add_task("listening to the training clips", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if config.neighbours_data is not None:
            try:
                return Index.of_dataset(config.neighbours_data, model.length, tell)
            except ValueError as error:
                raise ValueError(f"--neighbours_data {error}") from error
        try:
            return Index.of_data(checkpoint.data(model.path), progress=tell)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"--neighbours: the sounds that {model.path} was trained on are not here ({error}): name them, or "
                "others to compare with, by --neighbours_data"
            ) from error


class Copies:
    """Tells which sounds are perhaps copies, and counts them.

    Args:
        index: of the training clips.
    """

    def __init__(self, index: Index):
        self.index, self.count = index, 0

    def __call__(self, sounds: Tensor) -> list[bool]:
        told = [one.suspicious for one in self.index.find(sounds)]
        self.count += sum(told)
        return told


def report(found: Sequence[Neighbour], index: Index) -> str:
    """What was found, in a line or two."""
    nearest = max(found, key=lambda one: (one.nearer, -one.distance))
    copies = [one for one in found if one.suspicious]
    name = printable(index.name)
    if not len(index.reference):
        return f"nearest to {name}: {nearest.distance:.1f} dB from {nearest.file}; no real sounds to compare that with"
    if not copies:
        return f"none of {len(found)} sounds is nearer to {name} than real ones are: the nearest is {nearest}"
    n = len(index.reference)
    real = f"99 % of {n} real sounds are to theirs" if n > 99 else f"any of {n} real sounds is to its own"
    return f"perhaps copies: {len(copies)} of {len(found)} sounds are nearer to a clip of {name} than {real}; {nearest}"
