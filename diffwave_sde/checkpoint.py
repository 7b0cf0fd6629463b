"""Models from checkpoints: a checkpoint holds its own configuration, so that its path is all one needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser

from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.module import KEY, DiffusionModule, check_fit


@dataclass(frozen=True)
class Trained:
    """A model as it was trained.

    module: the model, in evaluation mode.
    labels: names of its classes.
    rate: Hz; length: samples; mu: of the companding, 0 for none.
    step: optimizer steps taken.
    path: the checkpoint.
    """

    module: DiffusionModule
    labels: tuple[str, ...]
    rate: int
    length: int
    mu: float
    step: int
    path: Path


def find(path: str | Path) -> Path:
    """The checkpoint meant by `path`: a file, or a run's folder, of which it is the last.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / "checkpoints" / "last.ckpt", path / "last.ckpt"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise FileNotFoundError(f"no checkpoint in {path}: it has no checkpoints/last.ckpt; train a model first")
    raise FileNotFoundError(f"no checkpoint at {path}: give a .ckpt file or a run's folder, such as runs/drums")


def newest(root: str | Path = "runs", name: str = "*") -> Path | None:
    """The last checkpoint of the newest run in `root` that is called `name` (a pattern), if there is any."""
    found = Path(root).glob(f"{name}/checkpoints/last.ckpt")
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def read(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file.

    Raises:
        ValueError: if the file is not a checkpoint of this program.
    """
    try:
        # mmap: only the tensors that are used are read.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file fails in any way it likes
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint, or it is damaged: {first[:120]}") from None
    if not isinstance(state, dict) or KEY not in state:
        raise ValueError(f"{path} is not a checkpoint of diffwave-sde: give one from runs/NAME/checkpoints")
    return state


def data(path: str | Path, **changes: Any) -> AudioDataModule:
    """The sounds that a checkpoint was trained on.

    Args:
        path: as in `find`.
        changes: arguments of the data module other than those of training.

    Raises:
        ValueError: if the checkpoint does not say what it was trained on.
    """
    path = find(path)
    recipe = read(path)[KEY]
    if "config" not in recipe:
        raise ValueError(f"{path} does not say what it was trained on: train it through `diffwave-sde fit`")
    return AudioDataModule(**{**recipe["config"]["data"], "workers": 0, **changes})


def build(config: dict[str, Any]) -> DiffusionModule:
    """The module that `config`, the `model` part of a configuration, describes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DiffusionModule, "model")
    return parser.instantiate_classes(parser.parse_object({"model": config})).model


def load(path: str | Path, weights: Literal["averaged", "raw"] = "averaged", device: str = "cpu") -> Trained:
    """The model of a checkpoint.

    Args:
        path: as in `find`.
        weights: the averaged ones (EMA), or the raw ones as the optimizer left them.
        device: where to put it.
    """
    path = find(path)
    state = read(path)
    recipe = state[KEY]
    if "config" not in recipe:
        raise ValueError(f"{path} holds weights without a configuration: train it through `diffwave-sde fit`")
    module = build(recipe["config"]["model"])
    # Lightning's weight averaging leaves the averaged weights in state_dict and puts the raw ones beside them.
    values = state.get("current_model_state", state["state_dict"]) if weights == "raw" else state["state_dict"]
    check_fit(module, values)
    module.load_state_dict(values)
    return Trained(
        module.to(device).eval().requires_grad_(False),
        tuple(recipe["labels"]),
        recipe["rate"],
        recipe["length"],
        recipe["mu"],
        state["global_step"],
        path,
    )
