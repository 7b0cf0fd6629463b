"""Models of sounds from checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError
from torch import Tensor

from diffwave_sde import trust
from diffwave_sde.cascade import CascadeModel
from diffwave_sde.checkpoint.building import AUTOENCODER, CASCADE, A, Loaded, M, build, fill
from diffwave_sde.checkpoint.classifiers import load_classifier
from diffwave_sde.checkpoint.files import RECIPE, find, first_line, is_export, read
from diffwave_sde.model import KEY, Model, SoundModel, first_mismatch

_AS = {"classifier": "--classifier", AUTOENCODER: "--model.latent of `fit`"}


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """A model as it was trained.

    taught: steps of its sampler that a student learned, and no others; None for a model of any number.
    """

    module: SoundModel
    taught: int | None = None

    @property
    def hears(self) -> bool:
        """Whether it was trained on pairs, and goes by a context."""
        return getattr(self.module.denoiser.net, "context", "none") != "none"

    def check_hears(self, name: str) -> None:
        """Raise a ValueError of one line if it cannot go by the track of that name."""
        if not self.hears:
            raise ValueError(
                f"{self.path} was trained without contexts and cannot hear {name}: train one on pairs with --config "
                "configs/experiment/bass.yaml"
            )


def load(
    path: str | Path,
    weights: Literal["averaged", "raw"] = "averaged",
    device: str = "cpu",
    kind: type[Model] = Model,
    weak: str | Path | None = None,
    classifier: str | Path | None = None,
    cascade: bool = False,
    complete: bool = True,
    latent: bool = False,
) -> LoadedModel:
    """The model of a checkpoint.

    Args:
        path: as in `find`.
        weights: the averaged ones (EMA), or the raw ones as the optimizer left them.
        device: where to put it.
        kind: what it is wanted as; a DiffusionModule has its losses too.
        weak: the checkpoint of a weaker model to be guided away from (autoguidance), in place of its own if it has one.
        classifier: the checkpoint of a classifier to be guided by, where `guidance.classifier` is not 0; its classes
            are the model's by name.
        cascade: whether a cascade will do, a `CascadeModel`.
        complete: whether all of its stages must have been trained.
        latent: whether a model of latents will do, whose denoiser knows no waveforms.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, its parts do not fit one another, or a stage is missing.
    """
    path = find(path)
    state = read(path)
    recipe = state[KEY]
    if recipe.get("kind") == CASCADE:
        _check_cascade(path, cascade, weak, classifier)
        kind = CascadeModel if kind is Model else kind
    module = _model(path, state, weights, kind)
    if module.latents is not None:
        _check_latent(path, latent, weak, classifier)
    if complete and isinstance(module, CascadeModel) and module.missing:
        raise ValueError(
            f"{path} is of a cascade whose stage {module.missing[0]} was never trained: train it, `diffwave-sde fit "
            f"--config configs/experiment/cascade.yaml --model.train=[{module.missing[0]}] --model.start=[RUN]`"
        )
    if weak is not None:
        _attach_weak(module, recipe, path, find(weak))
    model = LoadedModel.of(module, state, path, device, taught=_taught(recipe["config"]))
    if classifier is not None:
        module.classifier = load_classifier(classifier, model)
    return model


def _taught(config: Any) -> int | None:
    """The steps that a student learned, by the configuration of its training."""
    loss = config.get("model", {}).get("loss") if isinstance(config, dict) else None
    if not isinstance(loss, dict):
        return None
    name, options = str(loss.get("class_path", "")).rpartition(".")[2], loss.get("init_args") or {}
    if name == "ProgressiveDistillation":
        return options.get("steps")
    segments = options.get("segments", 1)
    return segments if name.startswith("Consistency") and segments > 1 else None


def _check_cascade(path: Path, wanted: bool, weak: str | Path | None, classifier: str | Path | None) -> None:
    """Raise a ValueError of one line where a cascade will not do."""
    if not wanted:
        raise ValueError(f"{path} is of a cascade, which cannot be taken here yet: give a model of one stage")
    for name, value in {"weak": weak, "classifier": classifier}.items():
        if value is not None:
            raise ValueError(f"--{name} {value}: {path} is of a cascade, which is not guided by it yet: leave it out")


def _check_latent(path: Path, wanted: bool, weak: str | Path | None, classifier: str | Path | None) -> None:
    """Raise a ValueError of one line where a model of latents will not do."""
    if not wanted:
        raise ValueError(f"{path} is a model of latents, which cannot be taken here yet: give a model of waveforms")
    for name, value in {"weak": weak, "classifier": classifier}.items():
        if value is not None:
            raise ValueError(
                f"--{name} {value}: {path} is a model of latents, which is not guided by it yet: leave it out"
            )


def _model(path: Path, state: dict[str, Any], weights: str, kind: type[M]) -> M:
    """The model of what `read` found at `path`."""
    if state[KEY].get("kind", "diffusion") in _AS:
        raise ValueError(
            f"{path} is of {A[state[KEY]['kind']]}, which makes no sounds: give a model of sounds there, and this one "
            f"as {_AS[state[KEY]['kind']]}"
        )
    if "config" not in state[KEY]:
        raise ValueError(f"{path} holds weights without a configuration: train it through `diffwave-sde fit`")
    if not is_export(path):
        module = build(state[KEY]["config"]["model"], kind, path)
        fill(module, state, weights)
        return module
    if weights == "raw":
        raise ValueError(f"{path} holds the averaged weights alone: leave --weights out")
    return _complete(path, state[KEY], state["state_dict"], kind)


def _attach_weak(module: Model, recipe: dict[str, Any], path: Path, weaker: Path) -> None:
    """Let the model of the checkpoint `weaker` be the one that `module` is guided away from."""
    state = read(weaker)
    denoiser, theirs = _model(weaker, state, "averaged", Model).denoiser, state[KEY]
    for what in ("labels", "rate", "mu"):
        if theirs[what] != recipe[what]:
            raise ValueError(
                f"--weak {weaker}: its {what} is {theirs[what]} and that of {path} {recipe[what]}: take a model that "
                "was trained on the same sounds"
            )
    for what in ("sde", "parametrization"):
        mine, other = (_by_name(part["config"]["model"].get(what)) for part in (recipe, theirs))
        if mine != other:
            raise ValueError(
                f"--weak {weaker}: its {what} is another than that of {path}: take one of the same process"
            )
    denoiser.weak = None
    module.denoiser.weak = denoiser


def _by_name(config: Any) -> Any:
    """A part of a configuration, its classes by their names alone: a class may have moved to another file."""
    if isinstance(config, list):
        return [_by_name(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {k: str(v).rpartition(".")[2] if k == "class_path" else _by_name(v) for k, v in config.items()}


def _complete(path: Path, recipe: dict[str, Any], weights: dict[str, Tensor], kind: type[M]) -> M:
    """The model of an exported folder, which holds the denoiser alone."""
    beside = path.with_name(RECIPE)
    try:
        # Nobody listens with the optimizer, which may be a class of one's own, or of another version.
        config = {k: v for k, v in recipe["config"]["model"].items() if k not in ("optimizer", "scheduler")}
        module = build(config, kind, beside)
    except trust.Untrusted:
        raise
    except (ArgumentError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        by = recipe.get("version", "another version")
        raise ValueError(
            f"{beside}, written by {by}, describes no model that can be made: {first_line(error)}"
        ) from None
    if wrong := first_mismatch(module.exported, weights):
        raise ValueError(f"{path} is not of the model in {beside} ({wrong} differs): take both from one export")
    module.exported.load_state_dict(weights)
    if isinstance(module, CascadeModel):  # which stages were trained its weights do not tell
        told = recipe.get("stages", {})
        module.steps_trained.copy_(torch.tensor([told.get(name, 0) for name in module.names]))
    return module
