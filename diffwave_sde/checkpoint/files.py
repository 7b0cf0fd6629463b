"""Files of checkpoints and exported models: which one is meant, and what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffwave_sde import compatibility, plain
from diffwave_sde import recipe as recipes
from diffwave_sde.model import KEY

WEIGHTS, RECIPE = "model.safetensors", "config.yaml"
"""The files of an exported model."""

MODELS = Path(__file__).parents[1] / "models"
"""The models that come with the program, a folder each."""

_NEEDED = ("step", "labels", "rate", "length", "mu", "config")


def find(path: str | Path) -> Path:
    """The checkpoint meant by `path`: a file, a run's folder, of which it is the last, or an exported model's.

    Where there is no such path it may be the name of a model that comes with the program.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / "checkpoints" / "last.ckpt", path / "last.ckpt", path / WEIGHTS):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise FileNotFoundError(f"no checkpoint in {path}: it has no checkpoints/last.ckpt; train a model first")
    models = shipped()
    if str(path) in models:
        return models[str(path)] / WEIGHTS
    names = f", or a model that is here: {', '.join(models)}" if models else ""
    raise FileNotFoundError(f"no checkpoint at {path}: give a .ckpt file or a run's folder, such as runs/drums{names}")


def shipped() -> dict[str, Path]:
    """The folders of the models that come with the program, by name."""
    folders = sorted(file.parent for file in MODELS.glob(f"*/{WEIGHTS}"))
    return {folder.name: folder for folder in folders if not folder.name.startswith(".")}


def is_export(path: Path) -> bool:
    """Whether a file that `find` found is of an exported model: weights to listen to, and nothing to train on with."""
    return path.suffix == ".safetensors"


def licence(path: Path) -> str | None:
    """The licence in the card beside the weights of an exported model (`deploy.card`), where there is one."""
    if not is_export(path):
        return None
    try:
        card = path.with_name("README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^\| licence \| (.+?) \|$", card, re.MULTILINE)
    return found and found[1]


def newest(root: str | Path = "runs", name: str = "*", kind: str | None = None) -> Path | None:
    """The last checkpoint of the newest run in `root` that is called `name` (a pattern), if there is any.

    Args:
        kind: what it is to be of (`kind_of`); any kind by default. One that cannot be read counts as of every kind.
    """
    found = sorted(Path(root).glob(f"{name}/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)

    def fits(path: Path) -> bool:
        try:
            return kind is None or kind_of(path) == kind
        except ValueError:
            return True

    return next(filter(fits, found), None)


def kind_of(path: Path) -> str:
    """What a file that `find` found is of: "diffusion", a model of sounds; "cascade", "classifier" or "autoencoder".

    Raises:
        ValueError: if it is not a checkpoint of this program.
    """
    return read(path)[KEY].get("kind", "diffusion")


def best(folder: str | Path, monitor: str = "val/loss") -> Path | None:
    """The best checkpoint in a folder, whatever it is called, or None where none has been kept yet.

    Every checkpoint says which one was the best when it was written. `last.ckpt` may be older than the best one, so the
    newest that knows of one is asked. Where none does, it is the newest that is called `best*.ckpt`.

    Args:
        folder: a run's `checkpoints`.
        monitor: the metric that is meant; where none was kept by it, the one by any other metric.
    """
    folder = Path(folder)
    newest_first = sorted(folder.rglob("*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    others = []
    for file in newest_first:
        try:
            states = read(file).get("callbacks", {}).values()
        except ValueError:  # cut off as it was written
            continue
        for state in states:
            if not isinstance(state, dict) or not state.get("monitor") or not state.get("best_model_path"):
                continue
            path = Path(state["best_model_path"])
            # In this folder if it is there: the run may have been moved, or copied.
            if state.get("dirpath") and path.is_relative_to(state["dirpath"]):
                here = folder / path.relative_to(state["dirpath"])
                path = here if here.is_file() else path
            if path.is_file() and state["monitor"] == monitor:
                return path
            others += [path] * path.is_file()
    return next(iter(others), None) or next((file for file in newest_first if file.match("best*.ckpt")), None)


def flat_filename(filename: str) -> str:
    """A file's name, for ModelCheckpoint without `auto_insert_metric_name`, of which no metric makes a folder.

    What Lightning would put before each value, the metric's name and =, is in it; with _ for the / of `val/loss`:
    `best-{val/loss:.3f}` becomes `best-val_loss={val/loss:.3f}`.
    """
    return re.sub(r"\{([^:}]*)", lambda found: f"{found[1].replace('/', '_')}={found[0]}", filename)


def read(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file, under today's names; of an exported model, what it holds of them.

    Raises:
        ValueError: if the file is not a checkpoint of this program.
    """
    path = Path(path)
    state = _exported(path) if is_export(path) else _saved(path)
    recipes.check(state, KEY, path)
    compatibility.renew_checkpoint(state)
    if "config" in state[KEY]:
        state[KEY]["config"] = compatibility.renew(state[KEY]["config"])
    return state


def _saved(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint file."""
    try:
        # mmap: only the tensors that are used are read.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file fails in any way it likes
        raise ValueError(f"{path} is not a checkpoint, or it is damaged: {first_line(error)}") from None
    if not isinstance(state, dict) or KEY not in state:
        raise ValueError(f"{path} is not a checkpoint of diffwave-sde: give one from runs/NAME/checkpoints")
    return state


def _exported(path: Path) -> dict[str, Any]:
    """An exported model under the names of a checkpoint; its numbers in float32."""
    beside = path.with_name(RECIPE)
    try:
        recipe = plain.read(beside)
        missing = [key for key in _NEEDED if key not in recipe]
    except FileNotFoundError:
        raise ValueError(f"{path} has no {RECIPE} beside it to say what it is: copy the whole folder") from None
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{beside} cannot be read ({first_line(error)}): copy or export the model again") from None
    if missing:
        raise ValueError(f"{beside} is not of an exported model, it has no {missing[0]}: copy or export it again")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}): copy or export the model again") from None
    weights = {name: x.float() if x.is_floating_point() else x for name, x in weights.items()}
    return {"state_dict": weights, "global_step": recipe.pop("step"), KEY: recipe}


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
