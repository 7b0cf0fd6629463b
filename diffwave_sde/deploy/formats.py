"""What a model can be written as: its weights, or a graph with the numbers of its sampler."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from diffwave_sde.checkpoint import WEIGHTS, LoadedModel
from diffwave_sde.denoiser import Denoiser
from diffwave_sde.deploy import graph

DTYPES = {"float16": torch.float16, "float32": torch.float32}

NUMBERS, SCRIPT = "sampling.json", "sample.py"
"""The files beside a graph."""


def save_safetensors(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """The weights as safetensors, of sounds of any length.

    Raises:
        ValueError: if a weight is not finite, or too large for the dtype.
    """
    weights = model.module.exported.state_dict()
    stored = {name: _stored(name, x, dtype, model.path) for name, x in weights.items()}
    (folder / WEIGHTS).write_bytes(save(stored, {"format": "pt"}))  # save_file would let nobody else read it


def save_onnx(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """The network with its preconditioning as an ONNX graph, the sampler's numbers, and a script that takes both."""
    _save_graphs(graph.save_onnx, "model.onnx", model, folder, length)
    shutil.copyfile(Path(graph.__file__).with_name(SCRIPT), folder / SCRIPT)


def save_program(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """The same graph as PyTorch's own, and the sampler's numbers."""
    _save_graphs(graph.save_program, "model.pt2", model, folder, length)


def _save_graphs(
    save: Callable[[Denoiser, int, Path, float], None], name: str, model: LoadedModel, folder: Path, length: int
) -> None:
    """The graph of the model, that of its weak network if sounds take it, and the numbers."""
    module = model.module
    if len(stages := getattr(module, "stages", ())) > 1:
        raise ValueError(
            f"{model.path} is of a cascade of {len(stages)} stages, and a graph holds one network: leave --format out, "
            "which is safetensors"
        )
    if module.latents is not None:
        raise ValueError(
            f"{model.path} is a model of latents, and a graph holds one network: leave --format out, which is "
            "safetensors"
        )
    guidance = module.guided()
    weight = guidance.weight if guidance else 1.0
    save(module.denoiser, length, folder / name, weight)
    if guidance and guidance.auto != 1:
        save(module.denoiser.weak, length, folder / name.replace("model", "weak"), weight)
    numbers = {
        "rate": model.rate,
        "length": length,
        "mu": model.mu,
        "labels": list(model.labels) if module.denoiser.net.classes else [],
        **graph.sampling(module.denoiser, module.sampler, guidance, model.taught),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")


def _stored(name: str, x: Tensor, dtype: str, path: Path) -> Tensor:
    """A weight as it is written.

    Vectors stay float32: they are a thousandth of the size, and frequencies, norms and σ_data act on all the rest.
    """
    if not x.isfinite().all():
        raise ValueError(f"{path}: {name} holds a number that is not finite: take an earlier checkpoint")
    small = x.to(DTYPES[dtype], copy=True) if x.is_floating_point() and x.dim() > 1 else x.clone()
    if not small.isfinite().all():
        raise ValueError(f"{path}: {name} holds {x.abs().max():.6g}, and float16 ends at 65504: add --dtype float32")
    return small.contiguous()


class Format(NamedTuple):
    """What a model can be written as.

    file: its name.
    save: what writes it, and what belongs to it, into a folder: from the model, the folder, the dtype and the length.
    dtypes: of the numbers, the default first.
    use: how it is used, for the card.
    """

    file: str
    save: Callable[[LoadedModel, Path, str, int], None]
    dtypes: tuple[str, ...]
    use: str


FORMATS = {
    "safetensors": Format(
        WEIGHTS, save_safetensors, ("float16", "float32"), "```sh\ndiffwave-sde sample --ckpt {name} --n 16\n```"
    ),
    "onnx": Format(
        "model.onnx",
        save_onnx,
        ("float32",),
        "```sh\npip install numpy onnxruntime\npython sample.py --n 16\n```\n\n`model.onnx` answers D (B, 1, T) for "
        "u (B, S, 1, T), t (B,) and label (B,); `sampling.json` has the numbers of the sampler.",
    ),
    "program": Format(
        "model.pt2",
        save_program,
        ("float32",),
        '```python\ndenoise = torch.export.load("model.pt2").module()\nD = denoise(u, t, label)\n```\n\nD (B, 1, T) '
        "for u (B, S, 1, T) float32, t (B,) float64 and label (B,), -1 for none; `sampling.json` has the numbers of "
        "the sampler.",
    ),
}
