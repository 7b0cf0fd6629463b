"""Make new sounds from a checkpoint: WAV files, a picture of their spectrograms and a page to hear them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from diffwave_sde import audio, checkpoint, clipping, page, samplers
from diffwave_sde.atomic import atomic_write
from diffwave_sde.cli import cores, led, runs
from diffwave_sde.networks import BFloat16Network
from diffwave_sde.progress import progress_bar

Device = Literal["auto", "cpu", "cuda", "mps"]


def run(argv: list[str]) -> None:
    """Run `diffwave-sde sample`."""
    make(parser().parse_args(argv[1:]))


def make(config: Namespace) -> Path:
    """Make the sounds that the options ask for; the folder that holds them."""
    if config.n < 1:
        raise ValueError(f"--n {config.n}: ask for at least one sound")
    if config.batch_size < 1:
        raise ValueError(f"--batch_size {config.batch_size}: must be at least 1")
    if config.length is not None and config.length < 1:
        raise ValueError(f"--length {config.length}: a sound has at least one sample")
    sampler = parser().instantiate_classes(config).sampler
    ckpt = runs.given_or_newest(config.ckpt, "sample from")
    model = checkpoint.load(ckpt, config.weights, device(config.device), weak=config.weak)
    model.module.guidance = led.asked(model, config)
    label = labels(config.label, model, config.n)
    if config.precision == "bf16":
        for denoiser in (model.module.denoiser, model.module.denoiser.weak):
            if denoiser is not None:
                denoiser.net = BFloat16Network(denoiser.net)
    out = Path(config.out) if config.out else _default_out(model, config)
    writable(out)
    used = (sampler or model.module.sampler).resolve(model.module.denoiser.sde)
    _make(Folder(out, _record(model, used, config)), model, used, config, label)
    return out


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde sample", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str | None, help=runs.CKPT)
    p.add_argument("--n", type=int, default=16, help="number of sounds")
    p.add_argument(
        "--label", type=str | None, help="class or classes, a,b,...; in turn (default: all that the model knows)"
    )
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler (default: the one the model was trained with)"
    )
    led.add(p)
    p.add_argument(
        "--clip",
        type=Literal["none", "static", "dynamic"],
        default="none",
        help="keep each step's estimate of the sound within full scale: by clipping, or by Imagen's dynamic threshold",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="seed; sound number i of a seed is the same however many are made"
    )
    p.add_argument(
        "--out", type=str | None, help="folder for the sounds (default: RUN/sounds/step=N-seed=S, or sounds/MODEL/...)"
    )
    p.add_argument(
        "--batch_size", type=int, default=16, help="sounds made at a time; changes the speed, not the sounds"
    )
    p.add_argument("--length", type=int | None, help="length in samples (default: that of the training windows)")
    p.add_argument(
        "--weights", type=Literal["averaged", "raw"], default="averaged", help="averaged (EMA) or raw weights"
    )
    p.add_argument(
        "--precision",
        type=Literal["32", "bf16"],
        default="32",
        help="bf16: products of bfloat16 numbers, faster on newer GPUs and on CPUs with AMX or AVX512_BF16; the sounds "
        "of a seed are nearly the same",
    )
    p.add_argument("--device", type=Device, default="auto", help="where to compute; auto is a CUDA GPU if there is one")
    p.add_argument(
        "--cuda_graphs",
        action="store_true",
        help="capture the sampling of the first batch as CUDA graphs, and replay them for the others (default: launch "
        "every kernel); pays on a GPU for several batches; the sounds are the same",
    )
    return p


def device(name: str) -> str:
    """The torch device that `--device` means; on the CPU with as many threads as cores are free."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA GPU here; leave --device out")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: no such device here; leave --device out")
    if name == "cpu":
        cores.limit_threads()
    return name


def labels(names: str | None, model: checkpoint.LoadedModel, n: int) -> torch.Tensor:
    """Class ids (n,) of `names` in turn; all classes in turn by default; -1 where the model knows none."""
    known = list(model.labels)
    if not model.module.denoiser.net.classes:
        if names:
            raise ValueError(f"--label {names}: {model.path} was trained without classes; leave --label out")
        return torch.full((n,), -1)
    asked = [name.strip() for name in names.split(",")] if names else known
    for name in asked:
        if name not in known:
            raise ValueError(f"--label {name}: the model knows {', '.join(known)}")
    ids = torch.tensor([known.index(name) for name in asked])
    return ids.repeat(-(-n // len(ids)))[:n]


def writable(folder: Path) -> None:
    """Make a folder, or raise an OSError of one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None


def _default_out(model: checkpoint.LoadedModel, config: Namespace) -> Path:
    return runs.place(model.path, "sounds") / f"step={model.step}-seed={config.seed}"


def _record(model: checkpoint.LoadedModel, sampler: samplers.Sampler, config: Namespace) -> dict[str, Any]:
    """All that the sounds follow from, but for their numbers and classes."""
    return {
        "checkpoint": str(model.path),
        "written": model.path.stat().st_mtime,
        "step": model.step,
        "weights": config.weights,
        "sampler": type(sampler).__name__,
        "steps": sampler.steps,
        "options": config.sampler.as_dict() if config.sampler else "the model's own",
        "guidance": str(model.module.guided() or "none"),
        "weak": config.weak and str(checkpoint.find(config.weak)),
        "clip": config.clip,
        "seed": config.seed,
        "length": config.length or model.length,
        "device": config.device,
        "precision": config.precision,
    }


class Folder:
    """A folder of sounds that grows batch by batch: WAV files, `sounds.json` and a page, always of one another.

    Sounds that it holds already, made in the same way, are kept: a run that was stopped goes on, or is extended.

    Args:
        path: the folder.
        record: all that the sounds follow from.
    """

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self.record = path, json.loads(json.dumps(record, default=str))
        self.nfe, self.sounds = 0, {}
        try:
            old = json.loads((path / "sounds.json").read_text())
            if {k: old.get(k) for k in self.record} == self.record:
                self.nfe = old["nfe"]
                self.sounds = {s["number"]: s for s in old["sounds"] if (path / s["file"]).is_file()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # no sounds yet, or none that it could tell anything of

    def holds(self, number: int, label: str) -> bool:
        """Whether sound `number` of this class is there."""
        return self.sounds.get(number, {}).get("label") == label

    def add(self, numbers: list[int], names: list[str], sounds: torch.Tensor, rate: int, nfe: int) -> None:
        """Write sounds (n, length), and the list and the page of all there are."""
        titles = [f"{i:03d} {name}" for i, name in zip(numbers, names, strict=True)]
        files = page.write_sounds(self.path, titles, sounds, rate)
        peaks = 20 * sounds.abs().amax(1).clamp_min(1e-6).log10()
        for i, file, name, peak in zip(numbers, files, names, peaks.tolist(), strict=True):
            self.sounds[i] = {"number": i, "file": file.name, "label": name, "peak_dbfs": round(peak, 2)}
        self.sounds = dict(sorted(self.sounds.items()))
        self.nfe = max(self.nfe, nfe)
        self.finish()

    def finish(self) -> None:
        """Write the list and the page."""
        with atomic_write(self.path / "sounds.json") as temporary:
            text = json.dumps({**self.record, "nfe": self.nfe, "sounds": list(self.sounds.values())}, indent=1)
            temporary.write_text(text, encoding="utf-8")
        note = (
            f"{self.record['checkpoint']}, step {self.record['step']:,}: {self.record['sampler']}, {self.nfe} network "
            f"calls a sound, guidance {self.record['guidance']}, seed {self.record['seed']}; "
            "at the level that the model made."
        )
        titles = [Path(s["file"]).stem.replace("-", " ") for s in self.sounds.values()]
        column = page.Column("sounds", [self.path / s["file"] for s in self.sounds.values()])
        page.write(self.path / "index.html", "New sounds", titles, [column], note)


def _make(folder: Folder, model: checkpoint.LoadedModel, sampler: samplers.Sampler, config: Namespace, label) -> None:
    """Make what the folder lacks, and say how it went."""
    names = [model.labels[i] if i >= 0 else "sound" for i in label.tolist()]
    missing = [i for i in range(config.n) if not folder.holds(i, names[i])]
    made, seconds = 0, 0.0
    wrap = clipping.CLIPS.get(config.clip)
    captured = model.module.capture(sampler, wrap) if config.cuda_graphs else None
    with progress_bar("sounds") as progress:
        task = progress.add_task(f"sampling with {type(sampler).__name__}", total=config.n)
        for first in range(0, len(missing), config.batch_size):
            rows = missing[first : first + config.batch_size]
            done = config.n - len(missing) + first

            def report(step: int, steps: int, done: int = done, rows: list[int] = rows) -> None:
                progress.update(task, completed=done + len(rows) * step / steps)

            began = time.perf_counter()
            if captured is None:
                draw = partial(model.module.sample, sampler=sampler, wrap=wrap)
                sounds = _sounds(model, draw, config, rows, label[rows], report)
            else:  # which makes as many as it was captured for
                padded = (rows * config.batch_size)[: config.batch_size]
                sounds = _sounds(model, captured, config, padded, label[padded], report)[: len(rows)]
            seconds += time.perf_counter() - began
            made += sounds.numel()
            folder.add(rows, [names[i] for i in rows], sounds, model.rate, sampler.nfe)
    table = Table("class", "sounds", "peak, dBFS (median)")
    for name in dict.fromkeys(names):
        level = torch.tensor([folder.sounds[i]["peak_dbfs"] for i in range(config.n) if names[i] == name])
        table.add_row(name, str(len(level)), f"{level.median():.1f}")
    Console().print(table)
    there = f", {config.n - len(missing)} of which were there already" if len(missing) < config.n else ""
    duration = made / model.rate
    speed = f"; {duration:.2f} s of sound in {seconds:.2f} s, real-time factor {duration / seconds:.2f}" if made else ""
    how = folder.record["guidance"]
    how = "" if how == "none" else f" (more work where guided, {how})"
    page_at = folder.path / "index.html"
    print(f"{config.n} sounds in {folder.path}/{there}, {folder.nfe} network calls each{how}{speed}; listen: {page_at}")


@torch.inference_mode()
def _sounds(
    model: checkpoint.LoadedModel,
    draw: Callable[..., torch.Tensor],
    config: Namespace,
    numbers: list[int],
    label: torch.Tensor,
    report: Callable[[int, int], None],
) -> torch.Tensor:
    """The sounds of these numbers, (n, length), as waveforms in [-1, 1]."""
    generators = model.module.generators(numbers, config.seed)
    x = draw(config.length or model.length, label, generators, progress=report)
    return audio.expand(x[:, 0], model.mu).cpu()
