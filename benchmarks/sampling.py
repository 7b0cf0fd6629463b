"""How fast sounds are made, and what fewer calls cost.

    python benchmarks/sampling.py [--ckpt drums] [--threads 2] [--device cpu] [--markdown FILE]

First: a whole sampling by the model's own sampler and guidance, for one sound and for a batch, in each precision, and
on a CPU by onnxruntime where that is installed; over the time of its bare network calls; and the same number of calls
of CRASH's network and of audio-diffusion-pytorch's. All take turns, and a line's time is the least of its rounds.

Then, for samplers and numbers of steps: Fréchet distances of so many sounds from clips that were not trained on, over
those of the model's own sampler in 50 steps; each the mean over seeds of the noise, and the spread between them.

Last: the seconds of a request for one sound in a process that is warm, of `diffwave-sde sample --n 1` and of `--help`.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from network import networks, timed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown, mean, write

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import main as program
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.denoiser import Condition
from diffwave_sde.drafts import Draft
from diffwave_sde.guidance import Guidance
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.metrics import EMBEDDINGS, evaluate
from diffwave_sde.metrics.evaluation import SoundSet
from diffwave_sde.model import Model
from diffwave_sde.networks import BFloat16Network
from diffwave_sde.samplers import DefaultSampler, DPMSolver2M, DPMSolver3M, DPMSolverSDE, Sampler

PEERS = ("crash", "audio-diffusion-pytorch, 7 levels")


def model(name: str, device: torch.device, half: bool = False) -> checkpoint.LoadedModel:
    """A trained model, its products in bfloat16 if so wanted."""
    found = checkpoint.load(name, device=str(device))
    if half:
        found.module.denoiser.net = BFloat16Network(found.module.denoiser.net)
    return found


def sampling(module: Model, length: int, batch: int) -> Callable[[], object]:
    """A whole sampling of so many sounds."""
    label = torch.arange(batch) % 3

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return module.sample(length, label, module.generators(range(batch), seed=1))

    return call


def bare(module: Model, length: int, batch: int) -> Callable[[], object]:
    """The network calls of it and nothing else."""
    denoiser, device = module.denoiser, module.denoiser.sigma_data.device
    sampler = module.sampler.resolve(denoiser.sde)
    times = sampler.grid(denoiser.sde, sampler.steps)
    twice, weakly = passes(module, times, module.guided())
    u = {n: torch.randn(n, denoiser.sde.blocks, 1, length, device=device) for n in (batch, 2 * batch)}
    label = {n: torch.zeros(n, dtype=torch.long, device=device) for n in u}
    at = denoiser.nodes(times, u[batch])
    weak = denoiser.weak.nodes(times, u[batch]) if any(weakly) else None

    @torch.inference_mode()
    def call() -> None:
        for i, (doubled, led) in enumerate(zip(twice, weakly, strict=True)):
            n = batch * (1 + doubled)
            at(u[n], i, Condition(label=label[n]))
            if led:
                weak(u[batch], i, Condition(label=label[batch]))

    return call


def passes(module: Model, times: torch.Tensor, guidance: Guidance | None) -> tuple[list[bool], list[bool]]:
    """At which times the network is passed twice, and at which the weak one is."""
    led, denoiser = guidance or Guidance(1.0), module.denoiser
    return led.by_class(denoiser).acts(times).tolist(), led.by_weak(denoiser, denoiser.weak).acts(times).tolist()


def other(net: dict, length: int, batch: int, calls: int, device: torch.device) -> Callable[[], object]:
    """So many calls of another network."""
    torch.manual_seed(0)
    module = checkpoint.build({"net": net}, Model).to(device).eval()
    u = torch.randn(batch, 1, 1, length, device=device)
    t, label = torch.full((batch,), 0.5, dtype=torch.float64, device=device), torch.zeros(batch, dtype=torch.long)
    condition = Condition(label=label.to(device))

    @torch.inference_mode()
    def call() -> None:
        for _ in range(calls):
            module.denoiser(u, t, condition)

    return call


def onnx(name: str, folder: Path, batch: int, threads: int) -> Callable[[], object]:
    """A whole sampling by onnxruntime."""
    from diffwave_sde.deploy.sample import load, sample

    if not (folder / "graph").is_dir():
        program(["export", f"--ckpt={name}", "--format=onnx", f"--out={folder}/graph"])
    graph, table, weak = load(folder / "graph", threads)
    plan, rng = table["plans"][str(table["default"])], np.random.default_rng(0)
    label = np.arange(batch) % 3
    return lambda: sample(graph, table, label, lambda shape: rng.standard_normal(shape, np.float32), plan, weak)


def speeds(options: argparse.Namespace, device: torch.device, folder: Path) -> Table:
    """The first table."""
    halves = [False, True] if bfloat16_is_fast(device) else [False]
    models = {half: model(options.ckpt, device, half) for half in halves}
    own, length = models[False], models[False].length
    sampler = own.module.sampler.resolve(own.module.denoiser.sde)
    lines: dict[tuple[str, int], Callable[[], object]] = {}
    floors: dict[tuple[str, int], Callable[[], object]] = {}
    for batch in (1, options.batch):
        for half, found in models.items():
            key = f"{options.ckpt}, {'bfloat16' if half else 'float32'}", batch
            lines[key], floors[key] = sampling(found.module, length, batch), bare(found.module, length, batch)
        if device.type == "cpu" and all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime"))):
            lines[f"{options.ckpt}, onnxruntime", batch] = onnx(options.ckpt, folder, batch, options.threads)
    nets = networks()
    for name in () if options.no_peers else PEERS:
        if name in nets:
            lines[f"{name}, {sampler.steps} calls", 1] = other(nets[name], length, 1, sampler.steps, device)
    best = {key: float("inf") for key in (*lines, *(("bare", key) for key in floors))}
    for i in track(range(options.rounds), "timing", console=Console(stderr=True)):
        for key, call in lines.items():
            if i == 0 or key in floors or key[0].startswith(options.ckpt):
                best[key] = min(best[key], timed(call, device))
        for key, call in floors.items():
            best["bare", key] = min(best["bare", key], timed(call, device))
    table = Table(
        *("", "sounds at a time", "s a sound", "real-time factor", "over its bare calls"),
        title=f"{type(sampler).__name__}, {sampler.steps} steps, guidance {own.module.guided() or 'none'}; "
        f"{device} ({options.threads} threads)",
    )
    for (name, batch), _ in lines.items():
        seconds = best[name, batch]
        over = f"{seconds / best['bare', (name, batch)]:.3f}" if (name, batch) in floors else ""
        rate = batch * length / own.rate / seconds
        table.add_row(name, str(batch), f"{seconds / batch:.3f}", f"{rate:.2f}", over)
    return table


def samplers() -> dict[str, tuple[Sampler | None, Guidance | None, bool]]:
    """Ways of sampling: sampler, guidance, half precision; None is the model's own."""
    found: dict[str, tuple[Sampler | None, Guidance | None, bool]] = {}
    for steps in (50, 35, 28, 24, 20, 15, 10):
        found[f"DefaultSampler({steps})"] = (DefaultSampler(steps), None, False)
    for eta in (0.8, 0.6, 0.4):
        found[f"DefaultSampler(28), η = {eta} below σ = 0.3"] = (DefaultSampler(28, eta_low_noise=eta), None, False)
    found["DefaultSampler(28), bfloat16"] = (DefaultSampler(28), None, True)
    found["DefaultSampler(28), no guidance"] = (DefaultSampler(28), Guidance(1.0), False)
    found["DefaultSampler(28), guidance 2 from σ = 1"] = (DefaultSampler(28), Guidance(2.0, 1.0), False)
    for steps in (50, 35):
        found[f"DPMSolverSDE({steps}), η = 0.3"] = (DPMSolverSDE(steps, eta=0.3), None, False)
    for steps in (20, 15, 10):
        found[f"DPMSolver2M({steps})"] = (DPMSolver2M(steps), None, False)
    found["DPMSolver3M(15)"] = (DPMSolver3M(15), None, False)
    return found


def qualities(options: argparse.Namespace, device: torch.device) -> Table:
    """The second table."""
    models = {half: model(options.ckpt, device, half) for half in (False, True)}
    real = held_out(options.dataset)
    embeddings, seeds = [kind() for kind in EMBEDDINGS.values()], [int(seed) for seed in options.seeds.split(",")]
    table = Table(
        "",
        "passes of the network a sound, and of the weak one",
        *[f"{n}, over its 50 steps" for n in EMBEDDINGS],
        *EMBEDDINGS,
        caption=f"{options.sounds} sounds, seeds {options.seeds}",
    )
    lines = {k: line for k, line in samplers().items() if not line[2] or bfloat16_is_fast(device)}
    if options.only:
        lines = {k: line for k, line in lines.items() if k in options.only.split(";")}
    steps = [(name, seed) for name in lines for seed in seeds]
    values: dict[str, list[dict]] = {name: [] for name in lines}
    for name, seed in track(steps, "listening", console=Console(stderr=True)):
        sampler, guidance, half = lines[name]
        sounds, _ = generated(models[half], sampler, guidance, options.sounds, seed)
        found = evaluate(real, sounds, embeddings, resamples=10, count=options.sounds)["embeddings"]
        values[name].append({k: v["all"]["frechet"] for k, v in found.items()})
    first = next(iter(values.values()))
    for name, (sampler, guidance, half) in lines.items():
        module = models[half].module
        own_sampler = sampler.resolve(module.denoiser.sde)
        times = own_sampler.grid(module.denoiser.sde, own_sampler.steps)
        twice, weakly = map(sum, passes(module, times, module.guided(guidance)))
        ratios = [
            [one[k]["value"] / other[k]["value"] for one, other in zip(values[name], first, strict=True)]
            for k in EMBEDDINGS
        ]
        floors = [[one[k]["value"] / one[k]["floor"] for one in values[name]] for k in EMBEDDINGS]
        cells = [mean(v, 2) for v in ratios] + [f"{mean(v, 2)} floors" for v in floors]
        table.add_row(name, f"{len(times) + twice}" + (f" and {weakly}" if weakly else ""), *cells)
    return table


def held_out(dataset: str) -> SoundSet:
    """The clips of a data set that are not trained on."""
    data = AudioDataModule(dataset, mu=0, workers=0)
    data.prepare_data()
    data.setup("fit")
    rows = np.sort(np.concatenate([data.splits[part] for part in ("validation", "test")]))
    clips = audio.from_int16(data.store.read(rows))
    return SoundSet(clips, tuple(data.labels[i] for i in data.store.label_ids[rows]), "held out")


def generated(
    own: checkpoint.LoadedModel,
    sampler: Sampler | None,
    guidance: Guidance | None,
    count: int,
    seed: int,
    draft: Draft | None = None,
) -> tuple[SoundSet, int]:
    """So many sounds of a model, its classes in turn, and the calls that each took; from a draft if there is one."""
    label, made = torch.arange(count) % len(own.labels), []
    sampler = (sampler or own.module.sampler).resolve(own.module.denoiser.sde)
    with torch.inference_mode():
        for i in torch.arange(count).split(20):
            generator = own.module.generators(i.tolist(), seed)
            if draft is None:
                x = own.module.sample(own.length, label[i], generator, sampler, guidance=guidance)
            else:
                x = draft.sample(own, sampler, None, (), own.length, label[i], generator)
            made.append(x[:, 0])
    sounds = audio.expand(torch.cat(made), own.mu).cpu()
    return SoundSet(sounds, tuple(own.labels[i] for i in label.tolist()), "generated"), sampler.nfe


def starts(options: argparse.Namespace, device: torch.device, folder: Path) -> Table:
    """The third table."""
    warm = {}
    for half in [False, True] if bfloat16_is_fast(device) else [False]:
        found = model(options.ckpt, device, half)
        request = sampling(found.module, found.length, 1)
        request()
        warm["bfloat16" if half else "float32"] = min(timed(request, device) for _ in range(5))
    commands = {
        "diffwave-sde sample --n 1": ["sample", f"--ckpt={options.ckpt}", "--n=1", f"--device={device}"],
        "diffwave-sde --help": ["--help"],
        "diffwave-sde fit --help": ["fit", "--help"],
    }
    table = Table("", "s, least of three")
    for name, seconds in warm.items():
        table.add_row(f"one sound, in a warm process, {name}", f"{seconds:.2f}")
    for name, arguments in commands.items():
        taken = []
        for i in range(3):
            out = [f"--out={folder}/{i}"] if "sample" in arguments else []
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "diffwave_sde", *arguments, *out], check=True, capture_output=True)
            taken.append(time.perf_counter() - start)
        table.add_row(f"`{name}`", f"{min(taken):.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="drums", help="checkpoint, run or model (default: the model drums)")
    parser.add_argument("--dataset", default="drums", help="what its sounds are laid against (default drums)")
    parser.add_argument("--batch", type=int, default=8, help="sounds at a time, beside one (default 8)")
    parser.add_argument("--sounds", type=int, default=60, help="sounds for the second table (default 60)")
    parser.add_argument("--seeds", default="1", help="seeds of the noise for the second table, 1,2,... (default 1)")
    parser.add_argument("--only", help="lines of the second table, A;B;... (default all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default: cores)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--tables", default="speed,quality,start", help="which of the three (default all)")
    parser.add_argument("--no-peers", action="store_true", help="no other networks in the first table")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    wanted = options.tables.split(",")
    tables = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in wanted:
            tables.append(speeds(options, device, folder))
        if "quality" in wanted:
            tables.append(qualities(options, device))
        if "start" in wanted:
            tables.append(starts(options, device, folder))
    for table in tables:
        Console().print(table)
    write(options.markdown, "\n".join(f"{t.title or ''}\n\n{markdown(t)}" for t in tables))


if __name__ == "__main__":
    main()
