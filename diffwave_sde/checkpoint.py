"""Models from checkpoints: a checkpoint holds its own configuration, so that its path is all one needs.

So does the folder that `diffwave-sde export` writes, `model.safetensors` with `config.yaml` beside it: wherever sounds
are made it stands for a checkpoint. Such folders in `models/` come with the program, and are known by their names.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from jsonargparse import ArgumentError, ArgumentParser
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffwave_sde import compatibility, plain, trust
from diffwave_sde import recipe as recipes
from diffwave_sde.autoencoder import Autoencoder
from diffwave_sde.cascade import CascadeModel
from diffwave_sde.classifier import Classifier
from diffwave_sde.model import KEY, Model, SoundModel, check_fit, first_mismatch
from diffwave_sde.names import listed

if TYPE_CHECKING:
    from diffwave_sde.data.module import AudioDataModule

WEIGHTS, RECIPE = "model.safetensors", "config.yaml"
"""The files of an exported model."""

MODELS = Path(__file__).with_name("models")
"""The models that come with the program, a folder each."""

CASCADE, AUTOENCODER = "cascade", "autoencoder"
"""The kinds of a checkpoint that holds a cascade, and of one that holds an autoencoder alone."""

_A = {"classifier": "a classifier", AUTOENCODER: "an autoencoder", CASCADE: "a cascade"}
_AS = {"classifier": "--classifier", AUTOENCODER: "--model.latent of `fit`"}
_NEEDED = ("step", "labels", "rate", "length", "mu", "config")


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was trained.

    module: the model, in evaluation mode.
    labels: names of its classes.
    rate: Hz; length: samples; mu: of the companding, 0 for none.
    step: optimizer steps taken.
    path: the checkpoint, or the weights of an exported model.
    taught: steps of its sampler that a student learned, and no others; None for a model of any number.
    """

    module: SoundModel
    labels: tuple[str, ...]
    rate: int
    length: int
    mu: float
    step: int
    path: Path
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


@dataclass(frozen=True)
class LoadedAutoencoder:
    """An autoencoder as it was trained: its fields are those of a `LoadedModel`, `module` in evaluation mode."""

    module: Autoencoder
    labels: tuple[str, ...]
    rate: int
    length: int
    mu: float
    step: int
    path: Path

    def check(self, data: Any) -> None:
        """Raise a ValueError of one line if it was trained on sounds that are prepared otherwise than these data."""
        for what, unit in {"rate": " Hz", "length": " samples", "mu": ""}.items():
            theirs, own = getattr(self, what), getattr(data, what)
            if theirs != own:
                raise ValueError(
                    f"--model.latent {self.path}: its {what} is {theirs:g}{unit} and that of the data {own:g}{unit}: "
                    "take an autoencoder of sounds that are prepared in the same way"
                )

    def fill(self, autoencoder: Autoencoder) -> None:
        """Give its weights to another one; raise a ValueError of one line if that is of another layout."""
        if wrong := first_mismatch(autoencoder, self.module.state_dict()):
            raise ValueError(
                f"--model.latent {self.path}: its layout is another than --model.autoencoder ({wrong} differs): leave "
                "--model.autoencoder out"
            )
        autoencoder.load_state_dict(self.module.state_dict())


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
        raise ValueError(f"{path} is not a checkpoint, or it is damaged: {_first(error)}") from None
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
        raise ValueError(f"{beside} cannot be read ({_first(error)}): copy or export the model again") from None
    if missing:
        raise ValueError(f"{beside} is not of an exported model, it has no {missing[0]}: copy or export it again")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({_first(error)}): copy or export the model again") from None
    weights = {name: x.float() if x.is_floating_point() else x for name, x in weights.items()}
    return {"state_dict": weights, "global_step": recipe.pop("step"), KEY: recipe}


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


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


M = TypeVar("M", bound=nn.Module)


def build(config: dict[str, Any], kind: type[M], origin: Path | None = None) -> M:
    """What the `model` part of a configuration describes, of this kind: as much of it as the kind has arguments for.

    Args:
        config: in plain types.
        kind: the class that it describes.
        origin: the file that it came from, whose classes are to be this program's own (`trust`); null for one's own.

    Raises:
        Untrusted: if it names others.
    """
    if origin is not None:
        trust.check(config, origin)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "model")
    known = inspect.signature(kind).parameters
    given = {k: v for k, v in config.items() if k in known}
    return parser.instantiate_classes(parser.parse_object({"model": given})).model


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
    model = LoadedModel(
        module.to(device).eval().requires_grad_(False),
        tuple(recipe["labels"]),
        recipe["rate"],
        recipe["length"],
        recipe["mu"],
        state["global_step"],
        path,
        _taught(recipe["config"]),
    )
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
            f"{path} is of {_A[state[KEY]['kind']]}, which makes no sounds: give a model of sounds there, and this one "
            f"as {_AS[state[KEY]['kind']]}"
        )
    if "config" not in state[KEY]:
        raise ValueError(f"{path} holds weights without a configuration: train it through `diffwave-sde fit`")
    if not is_export(path):
        module = build(state[KEY]["config"]["model"], kind, path)
        _fill(module, state, weights)
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
        what = _A.get(recipe.get("kind"), "a model of sounds")
        raise ValueError(f"{path} is of {what}, not of a classifier: train one with `make classifier`")
    classifier = build(recipe["config"]["model"], Classifier, path)
    _fill_part(classifier, state, "classifier.")
    classifier.labels = tuple(recipe["labels"])
    classifier.eval().requires_grad_(False)
    return classifier if model is None else _fitted(classifier, recipe, path, model)


def load_autoencoder(path: str | Path, device: str = "cpu") -> LoadedAutoencoder:
    """The autoencoder of a checkpoint, with its averaged weights; or that which a model of latents holds.

    Args:
        path: as in `find`.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or of anything else.
    """
    path = find(path)
    state = read(path)
    recipe = state[KEY]
    config = (recipe.get("config") or {}).get("model") or {}
    own = recipe.get("kind") == AUTOENCODER
    if not config.get("autoencoder"):
        what = _A.get(recipe.get("kind"), "a model of sounds")
        raise ValueError(
            f"{path} is of {what}, not of an autoencoder: train one with `diffwave-sde fit --config "
            "configs/experiment/vae.yaml`"
        )
    autoencoder = build({"autoencoder": config["autoencoder"]}, _Holder, path).autoencoder
    _fill_part(autoencoder, state, "autoencoder." if own else "latents.autoencoder.")
    return LoadedAutoencoder(
        autoencoder.to(device).eval().requires_grad_(False),
        tuple(recipe["labels"]),
        recipe["rate"],
        recipe["length"],
        recipe["mu"],
        state["global_step"],
        path,
    )


class _Holder(nn.Module):
    """What has an autoencoder and nothing else, as a configuration describes it."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder


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


def _by_name(config: Any) -> Any:
    """A part of a configuration, its classes by their names alone: a class may have moved to another file."""
    if isinstance(config, list):
        return [_by_name(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {k: str(v).rpartition(".")[2] if k == "class_path" else _by_name(v) for k, v in config.items()}


def _fill(module: Model, state: dict[str, Any], weights: str) -> None:
    """Put the weights of a checkpoint into its model."""
    # Lightning's weight averaging leaves the averaged weights in state_dict and puts the raw ones beside them.
    values = state.get("current_model_state", state["state_dict"]) if weights == "raw" else state["state_dict"]
    values = {name: value for name, value in values.items() if hasattr(module, name.partition(".")[0])}
    check_fit(module, values)
    module.load_state_dict(values)


def _fill_part(part: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Put the weights of a checkpoint whose names begin with a prefix into a part of its model."""
    values = {name.removeprefix(prefix): x for name, x in state["state_dict"].items() if name.startswith(prefix)}
    check_fit(part, values)
    part.load_state_dict(values)


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
        raise ValueError(f"{beside}, written by {by}, describes no model that can be made: {_first(error)}") from None
    if wrong := first_mismatch(module.exported, weights):
        raise ValueError(f"{path} is not of the model in {beside} ({wrong} differs): take both from one export")
    module.exported.load_state_dict(weights)
    if isinstance(module, CascadeModel):  # which stages were trained its weights do not tell
        told = recipe.get("stages", {})
        module.steps_trained.copy_(torch.tensor([told.get(name, 0) for name in module.names]))
    return module
