"""The sounds that a checkpoint was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffwave_sde.checkpoint.files import find, read
from diffwave_sde.model import KEY

if TYPE_CHECKING:
    from diffwave_sde.data.module import AudioDataModule


def data(path: str | Path, **changes: Any) -> AudioDataModule:
    """The sounds that a checkpoint was trained on.

    Args:
        path: as in `find`.
        changes: arguments of the data module other than those of training.

    Raises:
        ValueError: if the checkpoint does not say what it was trained on, or the sounds are others now.
    """
    # Of Lightning, which takes longer to import than a sound to make; who only listens does without.
    from diffwave_sde.data.module import AudioDataModule
    from diffwave_sde.resume import match_data

    path = find(path)
    recipe = read(path)[KEY]
    if "config" not in recipe:
        raise ValueError(f"{path} does not say what it was trained on: train it through `diffwave-sde fit`")
    found = AudioDataModule(**{**recipe["config"]["data"], "workers": 0, **changes})
    found.prepare_data()
    match_data(recipe, found, changes)
    return found
