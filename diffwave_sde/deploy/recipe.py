"""The configuration of a model as it goes along with an export: without what holds on one machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffwave_sde.checkpoint import LoadedAutoencoder, LoadedModel
from diffwave_sde.data.sources import parts
from diffwave_sde.names import folder_name
from diffwave_sde.samplers.grids import LearnedGrid


def portable(recipe: dict[str, Any], model: LoadedModel | LoadedAutoencoder) -> dict[str, Any]:
    """A checkpoint's recipe with its step and, of a model of sounds, σ_data, without what holds on one machine alone.

    The folder of the stores goes, of the folders of a data set and of a teacher the name stays, and a learned grid
    becomes its times.

    Raises:
        ValueError: if another value names a file.
    """
    config = recipe["config"]
    data = {key: value for key, value in config["data"].items() if key not in ("root", "disks")}
    if "dataset" in data:
        data["dataset"] = " + ".join(folder_name(Path(part).name) or "data" for part in parts(data["dataset"]))
    # Runs whose stages a cascade took, or whose latents a model is of, are on this machine, and in the weights.
    options = {key: value for key, value in config["model"].items() if key not in ("start", "latent")}
    config = {**config, "model": _inline_files(options, "model", model), "data": data}
    denoiser = getattr(model.module, "denoiser", None)
    sigma = {} if denoiser is None else {"sigma_data": float(denoiser.sigma_data)}
    return {"step": model.step, **{k: v for k, v in recipe.items() if k != "config"}, **sigma, "config": config}


def _inline_files(value: Any, where: str, model: LoadedModel | LoadedAutoencoder, steps: int | None = None) -> Any:
    """A configuration that needs no file; `steps` are those of the sampler around a grid."""
    if isinstance(value, list):
        return [_inline_files(v, where, model, steps) for v in value]
    if isinstance(value, dict):
        steps = value.get("steps", steps)
        kind, _, name = str(value.get("class_path")).rpartition(".")
        if name == LearnedGrid.__name__:
            times = LearnedGrid(value["init_args"]["file"])(model.module.denoiser.sde, steps).tolist()
            return {"class_path": f"{kind}.TimesGrid", "init_args": {"times": times}}
        # What a student learned from is told; nobody needs it to listen.
        value = {k: Path(v).name if k == "teacher" and isinstance(v, str) else v for k, v in value.items()}
        return {k: _inline_files(v, f"{where}.{k}", model, steps) for k, v in value.items()}
    if isinstance(value, str) and ("/" in value or "\\" in value):
        raise ValueError(f"{model.path}: {where} is {value}, a file that others have not; train without it")
    return value
