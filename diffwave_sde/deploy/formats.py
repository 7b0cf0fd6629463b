"""What a model can be written as: its weights, or a graph with the numbers of its sampler."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from diffwave_sde.cascade import NAMES
from diffwave_sde.checkpoint import WEIGHTS, LoadedAutoencoder, LoadedModel
from diffwave_sde.deploy import graph, table

DTYPES = {"float16": torch.float16, "float32": torch.float32}

NUMBERS, SCRIPT = "sampling.json", "sample.py"
"""The files beside graphs."""

ONNX, PROGRAM = ".onnx", ".pt2"
"""The suffixes of graphs."""


def save_safetensors(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """The weights as safetensors, of sounds of any length.

    Raises:
        ValueError: if a weight is not finite, or too large for the dtype.
    """
    weights = model.module.exported.state_dict()
    stored = {name: _stored(name, x, dtype, model.path) for name, x in weights.items()}
    (folder / WEIGHTS).write_bytes(save(stored, {"format": "pt"}))  # save_file would let nobody else read it


def save_onnx(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """Each network with all that is around it as an ONNX graph, the numbers, and a script that takes both."""
    _save_graphs(graph.save_onnx, ONNX, model, folder, length)
    shutil.copyfile(Path(graph.__file__).with_name(SCRIPT), folder / SCRIPT)


def save_program(model: LoadedModel, folder: Path, dtype: str, length: int) -> None:
    """The same graphs as PyTorch's own, and the numbers."""
    _save_graphs(graph.save_program, PROGRAM, model, folder, length)


def _save_graphs(
    save: Callable[[graph.Graph, Path], None], suffix: str, model: LoadedModel, folder: Path, length: int
) -> None:
    numbers = table.numbers(model, length, suffix)  # first, since what cannot be written is told soon
    for name, one in graph.graphs(model.module, length):
        save(one, folder / f"{name}{suffix}")
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


def _weights(model: LoadedModel | LoadedAutoencoder) -> list[str]:
    return [WEIGHTS]


def _graphs(suffix: str, model: LoadedModel) -> list[str]:
    return [f"{name}{suffix}" for name in graph.names(model.module)]


def _use_safetensors(model: LoadedModel) -> str:
    return "```sh\ndiffwave-sde sample --ckpt {name} --n 16\n```"


def _use_onnx(model: LoadedModel) -> str:
    run = "```sh\npip install numpy onnxruntime\npython sample.py --n 16\n```"
    return f"{run}\n\n{_signatures(model, ONNX)}; `{NUMBERS}` has the numbers of the sampler."


def _use_program(model: LoadedModel) -> str:
    first = graph.names(model.module)[0]
    run = f'```python\ndenoise = torch.export.load("{first}{PROGRAM}").module()\nD = denoise(u, t, label)\n```'
    return f"{run}\n\n{_signatures(model, PROGRAM)}; `{NUMBERS}` has the numbers of the sampler."


def _signatures(model: LoadedModel, suffix: str) -> str:
    """What each graph answers, in words."""
    first, *others = graph.names(model.module)
    told = (
        f"`{first}{suffix}` answers D (B, 1, T) for u (B, S, 1, T) float32, t (B,) float64 and label (B,), -1 for none"
    )
    if "weak" in others:
        told += f"; `weak{suffix}` the same of a weaker network"
    if "decoder" in others:
        told += f". These are latents, of which `decoder{suffix}` makes the sounds x (B, 1, T): z (B, 1, N) is D"
    if up := [f"`{name}{suffix}`" for name in others if name not in ("weak", "decoder")]:
        told += (
            f"; {' and '.join(up)} the same at a higher rate for audio (B, 1, M) and level (B,) float32 too, which are "
            "what the graph before has made, with noise, and the noise level of that"
        )
    return told


class Format(NamedTuple):
    """What a model can be written as.

    file: the name of the file of a model of one network.
    save: what writes it, and what belongs to it, into a folder: from the model, the folder, the dtype and the length.
    dtypes: of the numbers, the default first.
    files: the names of all files of a model's weights, the first one first.
    use: how a model is used, for the card; {name} stands for its name.
    """

    file: str
    save: Callable[[LoadedModel, Path, str, int], None]
    dtypes: tuple[str, ...]
    files: Callable[[LoadedModel], list[str]]
    use: Callable[[LoadedModel], str]


FORMATS = {
    "safetensors": Format(WEIGHTS, save_safetensors, ("float16", "float32"), _weights, _use_safetensors),
    "onnx": Format(f"model{ONNX}", save_onnx, ("float32",), partial(_graphs, ONNX), _use_onnx),
    "program": Format(f"model{PROGRAM}", save_program, ("float32",), partial(_graphs, PROGRAM), _use_program),
}

HOLD_WEIGHTS = {WEIGHTS} | {
    f"{name}{suffix}" for name in ("model", "weak", "decoder", *NAMES) for suffix in (ONNX, PROGRAM)
}
"""All files that weights may be in, of any model in any format."""
