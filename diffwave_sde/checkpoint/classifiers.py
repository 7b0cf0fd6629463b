"""Classifiers from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffwave_sde.checkpoint.building import A, build, fill_part
from diffwave_sde.checkpoint.files import find, read
from diffwave_sde.classifier import Classifier
from diffwave_sde.model import KEY
from diffwave_sde.names import listed

if TYPE_CHECKING:
    from diffwave_sde.checkpoint.models import LoadedModel


def load_classifier(path: str | Path, model: LoadedModel | None = None) -> Classifier:
    """The classifier of a checkpoint, with its averaged weights, in evaluation mode; `labels` are its classes.

    Args:
        path: as in `find`.
        model: the model that is to be guided by it: it then stands on the model's device, and takes labels for the
            model's, by name. By default its own, on the CPU.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, of a model of sounds, or of other sounds than the model.
    """
    path = find(path)
    state = read(path)
    recipe = state[KEY]
    if recipe.get("kind") != "classifier":
        what = A.get(recipe.get("kind"), "a model of sounds")
        raise ValueError(f"{path} is of {what}, not of a classifier: train one with `make classifier`")
    classifier = build(recipe["config"]["model"], Classifier, path)
    fill_part(classifier, state, "classifier.")
    classifier.labels = tuple(recipe["labels"])
    classifier.eval().requires_grad_(False)
    return classifier if model is None else _fitted(classifier, recipe, path, model)


def _fitted(classifier: Classifier, recipe: dict[str, Any], path: Path, model: LoadedModel) -> Classifier:
    """The classifier of the checkpoint `path`, its labels and device those of a model."""
    for what in ("rate", "mu"):
        theirs, own = recipe[what], getattr(model, what)
        if theirs != own:
            raise ValueError(
                f"--classifier {path}: its {what} is {theirs:g} and that of {model.path} {own:g}: train one on sounds "
                "that are prepared in the same way"
            )
    if model.module.denoiser.net.classes:
        classifier.follow(model.labels)
        if not any(classifier.rows):
            raise ValueError(
                f"--classifier {path}: it knows {listed(classifier.labels)}, and {model.path} {listed(model.labels)}: "
                "they have no class in common"
            )
    return classifier.to(model.module.denoiser.sigma_data.device)
