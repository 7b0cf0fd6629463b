"""Write a model for others to use: a folder with its weights or its graph, what they are, and a card of facts.

Nothing of this machine goes along: no path, and of the training no more than how it was done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from diffwave_sde import checkpoint
from diffwave_sde.checkpoint import RECIPE, WEIGHTS, LoadedModel
from diffwave_sde.cli import guidance_options, runs
from diffwave_sde.cli.sample import writable
from diffwave_sde.data.sources import parts
from diffwave_sde.denoiser import Denoiser
from diffwave_sde.deploy import graph
from diffwave_sde.metrics.report import METRICS
from diffwave_sde.model import KEY
from diffwave_sde.module import DiffusionModule
from diffwave_sde.samplers.grids import LearnedGrid

CARD = "README.md"
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def save_safetensors(model: LoadedModel, folder: Path, options: Namespace) -> None:
    """The weights as safetensors."""
    weights = model.module.denoiser.state_dict()
    stored = {name: _stored(name, x, options.dtype, model.path) for name, x in weights.items()}
    (folder / WEIGHTS).write_bytes(save(stored, {"format": "pt"}))  # save_file would let nobody else read it


def save_onnx(model: LoadedModel, folder: Path, options: Namespace) -> None:
    """The network with its preconditioning as an ONNX graph, the sampler's numbers, and a script that takes both."""
    _save_graphs(graph.save_onnx, "model.onnx", model, folder, options)
    shutil.copyfile(Path(graph.__file__).with_name(SCRIPT), folder / SCRIPT)


def save_program(model: LoadedModel, folder: Path, options: Namespace) -> None:
    """The same graph as PyTorch's own, and the sampler's numbers."""
    _save_graphs(graph.save_program, "model.pt2", model, folder, options)


def _save_graphs(
    save: Callable[[Denoiser, int, Path], None], name: str, model: LoadedModel, folder: Path, options: Namespace
) -> None:
    """The graph of the model, that of its weak network if sounds take it, and the numbers."""
    module = model.module
    guidance = module.guided()
    save(module.denoiser, options.length, folder / name)
    if guidance and guidance.auto != 1:
        save(module.denoiser.weak, options.length, folder / name.replace("model", "weak"))
    numbers = {
        "rate": model.rate,
        "length": options.length,
        "mu": model.mu,
        "labels": list(model.labels) if module.denoiser.net.classes else [],
        **graph.sampling(module.denoiser, module.sampler, guidance),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")


class Format(NamedTuple):
    """What a model can be written as.

    file: its name.
    save: what writes it, and what belongs to it, into a folder.
    dtypes: of the numbers, the default first.
    use: how it is used, for the card.
    """

    file: str
    save: Callable[[LoadedModel, Path, Namespace], None]
    dtypes: tuple[str, ...]
    use: str


NUMBERS, SCRIPT = "sampling.json", "sample.py"
"""The files beside a graph."""

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


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde export", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str, required=True, help="checkpoint, or a run's folder")
    guidance_options.add(p)
    p.add_argument("--out", type=str, required=True, help="folder to write, such as models/NAME")
    p.add_argument(
        "--format",
        type=Literal[tuple(FORMATS)],
        default="safetensors",
        help="safetensors, the weights, for this program; onnx, a graph for onnxruntime with a script that samples "
        "from it; program, a graph for torch.export.load",
    )
    p.add_argument(
        "--dtype",
        type=Literal[tuple(DTYPES)] | None,
        help="numbers of matrices; vectors are float32 (default: float16; graphs are float32)",
    )
    p.add_argument("--length", type=int | None, help="samples of a graph's sounds (default: those of the training)")
    p.add_argument("--licence", type=str, default="not stated", help="the card's line on who may do what with it")
    p.add_argument("--command", type=str | None, help="the card's line on the command that trained it")
    p.add_argument(
        "--evaluation", type=str | None, help="evaluation.json of `diffwave-sde evaluate`, for the card (default: none)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote (default: refuse)")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde export`."""
    config = parser().parse_args(argv[1:])
    out = Path(config.out).resolve()
    _vacant(out, config.out, config.overwrite)
    form = FORMATS[config.format]
    config.dtype = config.dtype or form.dtypes[0]
    if config.dtype not in form.dtypes:
        raise ValueError(f"--dtype {config.dtype}: {form.file} is in {form.dtypes[0]}; leave --dtype out")
    if config.length is not None and (config.length < 1 or form.file == WEIGHTS):
        raise ValueError(f"--length {config.length}: for graphs alone (--format onnx, program), and at least 1 sample")
    figures = "" if config.evaluation is None else _figures(Path(config.evaluation))
    model = checkpoint.load(config.ckpt, kind=DiffusionModule, weak=config.weak)  # the card tells its loss
    config.length = config.length or model.length
    recipe = portable(checkpoint.read(model.path)[KEY], model)
    if config.weak:
        theirs = checkpoint.read(checkpoint.find(config.weak))[KEY]["config"]["model"]
        recipe["config"]["model"]["weak"] = theirs["net"]
    model.module.guidance = guidance_options.resolve_guidance(model, config)
    if guidance_options.explicit_options(config):
        recipe["config"]["model"]["guidance"] = asdict(model.module.guidance)
    writable(out.parent)
    with _replacing(out) as folder:
        with Console(stderr=True).status(f"writing {form.file}"):
            form.save(model, folder, config)
        both = "; both are one model, which `diffwave-sde sample` takes" if form.file == WEIGHTS else ""
        head = f"# What {form.file} is{both}.\n"
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        (folder / RECIPE).write_text(head + text, encoding="utf-8")
        size = _size(folder / form.file, config.dtype)
        facts = [*_facts(model, recipe), ("size", size), ("licence", config.licence)]
        if config.command:
            facts.append(("trained by", f"`{config.command}`"))
        (folder / CARD).write_text(_card(out.name, model, form.use, facts) + figures, encoding="utf-8")
    print(f"{Path(config.out) / form.file}: {size}, step {model.step:,}; {RECIPE} and {CARD} are beside it")


def portable(recipe: dict[str, Any], model: LoadedModel) -> dict[str, Any]:
    """A checkpoint's recipe with its step and σ_data, without what holds on one machine alone.

    The folder of the stores goes, of a data set's folder the name stays, and a learned grid becomes its times.

    Raises:
        ValueError: if another value names a file.
    """
    config = recipe["config"]
    data = {key: value for key, value in config["data"].items() if key not in ("root", "disks")}
    if "dataset" in data:
        data["dataset"] = " + ".join(runs.name_of(part) for part in parts(data["dataset"]))
    config = {**config, "model": _alone(config["model"], "model", model), "data": data}
    sigma = {"sigma_data": float(model.module.denoiser.sigma_data)}
    return {"step": model.step, **{k: v for k, v in recipe.items() if k != "config"}, **sigma, "config": config}


def _alone(value: Any, where: str, model: LoadedModel, steps: int | None = None) -> Any:
    """A configuration that needs no file; `steps` are those of the sampler around a grid."""
    if isinstance(value, list):
        return [_alone(v, where, model, steps) for v in value]
    if isinstance(value, dict):
        steps = value.get("steps", steps)
        kind, _, name = str(value.get("class_path")).rpartition(".")
        if name == LearnedGrid.__name__:
            times = LearnedGrid(value["init_args"]["file"])(model.module.denoiser.sde, steps).tolist()
            return {"class_path": f"{kind}.TimesGrid", "init_args": {"times": times}}
        return {k: _alone(v, f"{where}.{k}", model, steps) for k, v in value.items()}
    if isinstance(value, str) and ("/" in value or "\\" in value):
        raise ValueError(f"{model.path}: {where} is {value}, a file that others have not; train without it")
    return value


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


def _vacant(out: Path, given: str, overwrite: bool) -> None:
    """Raise an OSError of one line where something is that must not be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{given} is a file: choose another --out")
    if not overwrite:
        raise FileExistsError(f"{given} exists: add --overwrite to replace it, or choose another --out")
    graphs = {form.file.replace("model", "weak") for form in FORMATS.values()}
    own = {RECIPE, CARD, NUMBERS, SCRIPT, *(form.file for form in FORMATS.values()), *graphs}
    if foreign := sorted(p.name for p in out.iterdir() if p.name not in own):
        raise FileExistsError(f"{given} holds {foreign[0]}, which no export wrote: choose another --out, or move it")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when it is whole, and is removed when it is not."""
    folder, old = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            os.replace(out, old)
        os.replace(folder, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not out.exists():
            os.replace(old, out)
        shutil.rmtree(folder, ignore_errors=True)


# The card


def _facts(model: LoadedModel, recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    module, config = model.module, recipe["config"]
    yield "data set", f"{config['data'].get('dataset', 'not told')}; σ of the data {recipe['sigma_data']:.4g}"
    yield "classes", ", ".join(model.labels) if module.denoiser.net.classes else "none"
    companding = f"companded by mu-law, mu = {model.mu:g}" if model.mu else "not companded"
    seconds = f"{model.length:,} samples ({model.length / model.rate:.3f} s)"
    yield "sounds", f"mono, {model.rate:,} Hz, {seconds}, {companding}"
    yield "process", type(module.denoiser.sde).__name__
    yield "parametrization", type(module.denoiser.parametrization).__name__
    yield "loss", f"{type(module.loss).__name__}, {type(module.loss.weight).__name__}"
    yield "network", type(module.denoiser.net).__name__
    if module.denoiser.weak is not None:
        yield "weak network", type(module.denoiser.weak.net).__name__
    yield "trained", f"{model.step:,} steps"
    yield "version", f"diffwave-sde {recipe.get('version', 'unknown')}"
    sampler = module.sampler.resolve(module.denoiser.sde)
    steps = sampler.steps
    yield "sampler", type(sampler).__name__ + (f", {steps} steps" if steps else "")
    yield "guidance", str(module.guided() or "none")
    yield "weights", f"{sum(p.numel() for p in module.denoiser.parameters()):,}, averaged over the training"


def _size(file: Path, dtype: str) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB in {dtype}"


def _card(name: str, model: LoadedModel, use: str, facts: Iterable[tuple[str, str]]) -> str:
    classes = f": {', '.join(model.labels)}" if model.module.denoiser.net.classes else ""
    return (
        f"# {name}\n\nA diffusion model of short sounds{classes}. {RECIPE} tells all that it was made with.\n\n"
        f"{use.replace('{name}', name)}\n\n" + _table(("", ""), facts)
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |\n"

    head = list(head)
    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def _figures(file: Path) -> str:
    """The part of the card that an evaluation fills: every figure beside its floor.

    Raises:
        ValueError: if the file is none that `diffwave-sde evaluate` wrote.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        text = (
            "\n## Measured\n\nEach figure ± its spread over resamplings; after it the floor, the same figure of real "
            "sounds against other real sounds.\n"
        )
        for name, parts in found["embeddings"].items():
            head = [name, *(f"{part} ({figures['count']})" for part, figures in parts.items())]
            shown = [(k, title) for k, title in METRICS.items() if any(k in figures for figures in parts.values())]
            rows = [[title, *(_figure(figures.get(key)) for figures in parts.values())] for key, title in shown]
            text += "\n" + _table(head, rows)
        rows = [
            (f"{name.replace('_', ' ')}, {m['unit']}", _number(m["difference"]), _number(m["floor"]))
            for name, m in found["measurements"].items()
        ]
        text += "\n" + _table(("measurement", "difference", "floor"), rows)
        near = found["neighbours"]
        return text + (
            f"\nCloser to a training sound than real ones are to one another: {near['close']:.1%}; closer to another "
            f"generated one: {near['duplicates']:.1%} (real ones: {near['repeated']:.1%}).\n"
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"--evaluation {file}: no such file; make it with `diffwave-sde evaluate`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"--evaluation {file}: not an evaluation.json of `diffwave-sde evaluate`") from None


def _figure(figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    value, spread, floor = (_number(figure[key]) for key in ("value", "spread", "floor"))
    return f"{value} ± {spread} ({floor})"


def _number(x: float | None) -> str:
    return "none" if x is None else f"{x:.{1 if abs(x) >= 10 else 3}f}"
