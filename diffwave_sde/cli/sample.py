"""Make new sounds from a checkpoint: WAV files, a picture of their spectrograms and a page to hear them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from diffwave_sde import audio, checkpoint, guidance, page, samplers
from diffwave_sde.callbacks.listening import write_sounds
from diffwave_sde.cli import runs

Device = Literal["auto", "cpu", "cuda", "mps"]


def run(argv: list[str]) -> None:
    """Run `diffwave-sde sample`."""
    config = parser().parse_args(argv[1:])
    if config.n < 1:
        raise ValueError(f"--n {config.n}: ask for at least one sound")
    if config.batch_size < 1:
        raise ValueError(f"--batch_size {config.batch_size}: must be at least 1")
    if config.length is not None and config.length < 1:
        raise ValueError(f"--length {config.length}: a sound has at least one sample")
    sampler = parser().instantiate_classes(config).sampler
    model = checkpoint.load(runs.given_or_newest(config.ckpt, "sample from"), config.weights, device(config.device))
    label = labels(config.label, model, config.n)
    out = Path(config.out) if config.out else _default_out(model, config)
    writable(out)
    sounds, seconds = make(model, sampler, config, label)
    _write(out, sounds, label, model, sampler or model.module.sampler, config, seconds)


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde sample", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str | None, help="checkpoint, or a run's folder (default: the newest run in runs/)")
    p.add_argument("--n", type=int, default=16, help="number of sounds")
    p.add_argument(
        "--label", type=str | None, help="class or classes, a,b,...; in turn (default: all that the model knows)"
    )
    p.add_subclass_arguments(
        samplers.Sampler, "sampler", required=False, help="sampler (default: the one the model was trained with)"
    )
    p.add_argument(
        "--clip",
        type=Literal["none", "static", "dynamic"],
        default="none",
        help="keep each step's estimate of the sound within full scale: by clipping, or by Imagen's dynamic threshold",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="seed; sound number i of a seed is the same however many are made"
    )
    p.add_argument("--out", type=str | None, help="folder for the sounds (default: RUN/sounds/step=N-seed=S)")
    p.add_argument(
        "--batch_size", type=int, default=16, help="sounds made at a time; changes the speed, not the sounds"
    )
    p.add_argument("--length", type=int | None, help="length in samples (default: that of the training windows)")
    p.add_argument(
        "--weights", type=Literal["averaged", "raw"], default="averaged", help="averaged (EMA) or raw weights"
    )
    p.add_argument("--device", type=Device, default="auto", help="where to compute; auto is a CUDA GPU if there is one")
    return p


def device(name: str) -> str:
    """The torch device that `--device` means."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA GPU here; leave --device out")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: no such device here; leave --device out")
    return name


def labels(names: str | None, model: checkpoint.Trained, n: int) -> torch.Tensor:
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


def _default_out(model: checkpoint.Trained, config: Namespace) -> Path:
    folder = runs.folder_of(model.path)
    return (folder / "sounds" if folder else Path("sounds")) / f"step={model.step}-seed={config.seed}"


@torch.inference_mode()
def make(
    model: checkpoint.Trained, sampler: samplers.Sampler | None, config: Namespace, label: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Sounds (n, length) as waveforms in [-1, 1], and the seconds that it took to compute them."""
    sampler = sampler or model.module.sampler
    length = config.length or model.length
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} sounds"))
    out, start = [], time.perf_counter()
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=None) as bar:
        task = bar.add_task(f"sampling with {type(sampler).__name__}", total=config.n)
        for first in range(0, config.n, config.batch_size):
            rows = range(first, min(first + config.batch_size, config.n))

            def report(done: int, steps: int, rows: range = rows) -> None:
                bar.update(task, completed=rows.start + len(rows) * done / steps)

            x = model.module.sample(
                length,
                label[rows.start : rows.stop],
                model.module.generators(rows, config.seed),
                sampler,
                report,
                wrap=guidance.CLIPS.get(config.clip),
            )
            out.append(audio.expand(x[:, 0], model.mu).cpu())
    return torch.cat(out), time.perf_counter() - start


def _write(out, sounds, label, model, sampler, config, seconds) -> None:
    names = [model.labels[i] if i >= 0 else "sound" for i in label.tolist()]
    titles = [f"{i:03d} {name}" for i, name in enumerate(names)]
    files = [file.name for file in write_sounds(out, titles, sounds, model.rate)]
    note = (
        f"{model.path}, step {model.step:,}: {type(sampler).__name__}, {sampler.nfe} network calls a sound, "
        f"seed {config.seed}; at the level that the model made."
    )
    page.write(out / "index.html", "New sounds", titles, [page.Column("sounds", [out / f for f in files])], note)
    peaks = 20 * sounds.abs().amax(1).clamp_min(1e-6).log10()
    record = {
        "checkpoint": str(model.path),
        "step": model.step,
        "weights": config.weights,
        "sampler": type(sampler).__name__,
        "steps": getattr(sampler, "steps", None),
        "nfe": sampler.nfe,
        "clip": config.clip,
        "seed": config.seed,
        "length": sounds.shape[1],
        "sounds": [
            {"file": f, "label": n, "peak_dbfs": round(p, 2)}
            for f, n, p in zip(files, names, peaks.tolist(), strict=True)
        ],
    }
    with audio.replacing(out / "sounds.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1))
    table = Table("class", "sounds", "peak, dBFS (median)")
    for name in dict.fromkeys(names):
        level = peaks[[i for i, n in enumerate(names) if n == name]]
        table.add_row(name, str(len(level)), f"{level.median():.1f}")
    Console().print(table)
    duration = sounds.numel() / model.rate
    print(
        f"{len(files)} sounds in {out}/, {sampler.nfe} network calls each; {duration:.2f} s of sound "
        f"in {seconds:.2f} s, real-time factor {duration / seconds:.2f}; listen: {out / 'index.html'}"
    )
