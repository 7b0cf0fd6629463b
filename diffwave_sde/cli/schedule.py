"""Learn time grids for a model: for each number of steps the times with the best bound on the likelihood."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from diffwave_sde import checkpoint
from diffwave_sde.atomic import atomic_write
from diffwave_sde.cli import runs
from diffwave_sde.cli.model_options import Device, device
from diffwave_sde.cli.path_options import parse
from diffwave_sde.denoiser import Condition
from diffwave_sde.progress import progress_bar
from diffwave_sde.random import stream
from diffwave_sde.samplers.grids import CosineGrid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from diffwave_sde.samplers.learned import best_paths, errors, terms
from diffwave_sde.sde import SDE
from diffwave_sde.sounds.pictures import noise_levels_png


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde schedule", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("--ckpt", type=str | None, help=runs.CKPT)
    p.add_argument("--steps", type=str, default="5,10,20", help="numbers of steps, a,b,...")
    p.add_argument("--candidates", type=int, default=200, help="times to choose from, equal in the log-SNR")
    p.add_argument("--clips", type=int, default=32, help="training clips that the bound is measured on")
    p.add_argument("--seed", type=int, default=0, help="seed of the noise")
    p.add_argument(
        "--out", type=str | None, help="YAML file for the grids, a PNG beside it (default: RUN/schedule.yaml)"
    )
    p.add_argument("--device", type=Device, default="auto", help="where to compute; auto is a CUDA GPU if there is one")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde schedule`."""
    config = parse(parser(), argv[1:])
    try:
        steps = sorted({int(k) for k in config.steps.split(",")})
    except ValueError:
        raise ValueError(f"--steps {config.steps}: give whole numbers, such as 5,10,20") from None
    if not 2 <= steps[0] <= steps[-1] <= config.candidates:
        raise ValueError(f"--steps {config.steps}: each must lie between 2 and the {config.candidates} candidates")
    if config.clips < 1:
        raise ValueError(f"--clips {config.clips}: needs at least one")
    model = checkpoint.load(runs.given_or_newest(config.ckpt, "learn grids for"), "averaged", device(config.device))
    denoiser = model.module.denoiser
    data = checkpoint.data(model.path, batch_size=config.clips, augment=None)
    batch = next(iter(data.train_dataloader()))
    where = denoiser.sigma_data.device
    x = batch.audio.to(where)
    times = LogSNRGrid()(denoiser.sde, config.candidates)
    with progress_bar("times") as progress:
        task = progress.add_task("measuring the bound", total=len(times))
        error = errors(
            denoiser,
            x,
            times,
            Condition(label=batch.label.to(where)),
            [stream(config.seed, "schedule", i) for i in range(len(x))],
            lambda done, _: progress.update(task, completed=done),
        )
    table = terms(denoiser.sde, times, error)
    paths = best_paths(table, steps)
    out = Path(config.out) if config.out else (runs.folder_of(model.path) or Path(".")) / "schedule.yaml"
    with atomic_write(out) as temporary:
        temporary.write_text(yaml.safe_dump({k: times[paths[k]].tolist() for k in steps}, default_flow_style=None))
    _report(denoiser.sde, times, table, paths)
    picture = out.with_suffix(".png")
    _draw(picture, denoiser.sde, {k: times[paths[k]] for k in steps})
    print(
        f"{len(times)} network calls; grids in {out}: --sampler.grid LearnedGrid --sampler.grid.file {out}; "
        f"beside the fixed ones: {picture}"
    )


def _report(sde: SDE, times: torch.Tensor, table: torch.Tensor, paths: dict[int, list[int]]) -> None:
    view = Table("steps", "bound, nats per sample", "on Karras's grid")
    for k, path in paths.items():
        bounds = []
        nearest = (times[:, None] - KarrasGrid()(sde, k)).abs().argmin(0)
        for places in (torch.tensor(path), nearest.unique()):
            bounds.append(float(table[places[:-1], places[1:]].sum()))
        view.add_row(str(k), *(f"{b:.4g}" for b in bounds))
    Console().print(view)


def _draw(path: Path, sde: SDE, learned: dict[int, torch.Tensor]) -> None:
    """A picture of the noise levels at which the network is called, the learned grids beside the fixed ones."""
    fixed = {"uniform": UniformGrid(), "quadratic": QuadraticGrid(), "cosine": CosineGrid()}
    fixed |= {"log-SNR": LogSNRGrid(), "Karras, 7": KarrasGrid()}
    grids = {}
    for k, times in learned.items():
        rows = {"learned": times, **{name: grid(sde, k) for name, grid in fixed.items()}}
        grids[f"{k} steps"] = {name: sde.kernel(t).snr.rsqrt() for name, t in rows.items()}
    noise_levels_png(path, grids, marked="learned")
