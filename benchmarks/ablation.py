"""What each choice of the default is worth, and how other networks fare in the same time.

    python benchmarks/ablation.py --table choices [--steps 1000] [--seeds 0,1,2] [--markdown FILE]
    python benchmarks/ablation.py --table peers [--minutes 10] [--seeds 0]
    python benchmarks/ablation.py --table real [--dataset hydrogen]

Every line is the default training with something changed: `diffwave-sde fit` with the options shown, in a process of
its own. Then as many sounds of each class are made and laid against clips that were not trained on: Fréchet distances
over their floor (real against real at the same count), each the mean over seeds and the spread between them; and the
share whose class a classifier of the data recognises. Of `real`, the loss of clips held out as well, and how far
generated sounds are from the nearest one trained on, over the same distance of clips held out (medians, log-mel). The
cost of a network call, in batches of eight, is measured when all is done, line by line in turn, and told over that of
the first line.

`choices` gives each line the same steps, `peers` the same time. Runs are kept in --root, and what is there already is
not trained or measured again: a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from peers import SMALL
from rich.console import Console
from rich.table import Table
from tables import markdown, mean, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffwave_sde import audio, checkpoint
from diffwave_sde.atomic import atomic_write
from diffwave_sde.guidance import Guidance
from diffwave_sde.metrics import EMBEDDINGS, LogMel, evaluate
from diffwave_sde.metrics.evaluation import SoundSet, neighbours
from diffwave_sde.module import DiffusionModule
from diffwave_sde.samplers import DPMSolver2M, DPMSolverSDE

HERE = Path(__file__).resolve().parent
LEAN = [
    "--trainer.logger=false",
    "--trainer.callbacks=[EMA, Progress, LastCheckpoint]",
    "--trainer.limit_val_batches=0",
]
PEER = "--model.net=peers.AudioDiffusion"
SMALLER = [f"--model.net.{name}={value}" for name, value in SMALL.items()]
CONFIGS = HERE.parent / "configs"
V = ["--config", str(CONFIGS / "sde" / "cosine-vp.yaml"), "--config", str(CONFIGS / "loss" / "v.yaml")]
NET, LOSS = "--model.net.init_args", "--model.loss.init_args"

TABLES: dict[str, dict[str, list[str]]] = {
    "choices": {
        "default": [],
        "no multiresolution": [f"{NET}.multiresolution=false"],
        "no gate": [f"{NET}.gate=false"],
        "no compressed view": [f"{NET}.compress=false"],
        "no position": [f"{NET}.position=0"],
        "no attention": [f"{NET}.bottleneck=none"],
        "FNet": [f"{NET}.bottleneck=fnet"],
        "sine window": [f"{NET}.front.init_args.window=sine"],
        "normalised frame by frame": [f"{NET}.norm=frame"],
        "noise to 20": ["--model.sde.init_args.sigma_max=20"],
        "log σ ~ N(-3, 2²)": [f"{LOSS}.time.init_args.mean=-3", f"{LOSS}.time.init_args.std=2"],
        "log σ ~ N(-1.2, 1.2²) (Karras)": [f"{LOSS}.time.init_args.mean=-1.2", f"{LOSS}.time.init_args.std=1.2"],
        "rate constant": ["--model.scheduler.init_args.decay=0"],
        "five iterations of Newton and Schulz": ["--model.optimizer.init_args.iterations=5"],
        "AdamW": ["--model.optimizer=AdamW", "--model.optimizer.lr=5e-4", "--model.optimizer.betas=[0.9,0.99]"],
        "mu-law": ["--config", str(CONFIGS / "experiment" / "mu-law.yaml")],
        "DDPM": ["--config", str(CONFIGS / "experiment" / "ddpm.yaml")],
    },
    "peers": {
        "default": [],
        "crash": ["--config", str(CONFIGS / "network" / "crash.yaml")],
        "audio-diffusion-pytorch, 7 levels": [PEER, *SMALLER],
        "audio-diffusion-pytorch, 9 levels": [PEER],
        "audio-diffusion-pytorch, 7 levels, its own V diffusion": [PEER, *SMALLER, *V],
    },
    "real": {
        "default": [],
        "polarity": ["--data.augment=Augment", "--data.augment.polarity=0.5"],
        "gain": ["--data.augment=Augment", "--data.augment.gain=6"],
        "pitch": ["--data.augment=Augment", "--data.augment.pitch=1"],
        "shift": ["--data.augment=Augment", "--data.augment.shift=3"],
        "decay": ["--data.augment=Augment", "--data.augment.decay=20"],
        "mix": ["--data.augment=Augment", "--data.augment.mix=0.3"],
        "all of them": ["--config", str(CONFIGS / "data" / "augmented.yaml")],
    },
}

# Runs of the default, and of DDPM, whose own sampler takes a thousand calls, heard otherwise.
HEARD: dict[str, dict] = {
    "no guidance": {"guidance": Guidance(1.0)},
    "guidance at all noise levels": {"guidance": Guidance(2.0)},
    "the flow": {"sampler": DPMSolver2M(35)},
    "DDPM": {"sampler": DPMSolverSDE(35, eta=0.3)},
}
TABLES["choices"] |= {line: TABLES["choices"].get(line, []) for line in HEARD}
TABLES["peers"] |= {"no guidance": []}


def plain(line: str) -> str:
    """The name of a line, as part of a path."""
    return "".join(c if c.isalnum() else "-" for c in line.lower()).strip("-")


def fit(options: argparse.Namespace, args: list[str], home: Path, seed: int, steps: int, log: Path) -> float:
    """Trains one line for so many steps; the seconds that the command took."""
    own = CONFIGS / "data" / f"{options.dataset}.yaml"
    data = ["--config", str(own)] if own.is_file() else [f"--data.dataset={options.dataset}"]
    command = [sys.executable, "-m", "diffwave_sde", "fit", *data, *LEAN, *args]
    command += [f"--seed_everything={seed}", f"--model.seed={seed}", f"--data.seed={options.data_seed}"]
    command += [f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={home}", *options.args]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    start = time.perf_counter()
    with log.open("a") as out:
        code = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise SystemExit(f"training stopped with status {code}; see {log}")
    return time.perf_counter() - start


def trained(options: argparse.Namespace, line: str, args: list[str], seed: int) -> Path:
    """The checkpoint of a line, trained now if it is not there."""
    budget = f"{options.minutes:g}min" if options.minutes else f"{options.steps}"
    line = line if args else "default"
    home = options.root / f"{plain(line)}-{plain(options.dataset)}-{budget}-{seed}"
    done = home / "done.json"
    if not done.is_file():
        home.mkdir(parents=True, exist_ok=True)
        log = home / "fit.log"
        steps = options.steps
        if options.minutes:
            # How many steps the time is good for must be known before, since the rate falls towards an end. Two trials
            # tell, the longer one so long that its steps take more than its start may vary.
            few, some = 2, 6
            short, long = (fit(options, args, home / f"trial-{n}", seed, n, log) for n in (few, some))
            while long - short < 20:
                some *= 3
                long = fit(options, args, home / f"trial-{some}", seed, some, log)
            steps = max(2, round(60 * options.minutes * (some - few) / (long - short)))
        seconds = fit(options, args, home, seed, steps, log)
        with atomic_write(done) as temporary:
            temporary.write_text(json.dumps({"steps": steps, "seconds": seconds}))
    return home


@torch.inference_mode()
def measured(options: argparse.Namespace, line: str, home: Path) -> dict:
    """The figures of a trained line, kept beside its checkpoint."""
    what = "blind" if options.blind else "by-class"
    kept = home / f"figures-{options.sounds}-{what}-{plain(line) if line in HEARD else 'own'}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    model = checkpoint.load(home, kind=DiffusionModule)
    module, classes = model.module, len(model.labels)
    data = checkpoint.data(checkpoint.find(home), mu=0)
    data.prepare_data()
    data.setup("fit")

    def read(*parts: str) -> tuple[Tensor, list[str]]:
        rows = torch.cat([torch.as_tensor(data.splits[part]) for part in parts]).sort().values.numpy()
        clips = audio.from_int16(data.store.read(rows)).view(len(rows), -1)
        return clips, [data.store.labels[i] for i in data.store.label_ids[rows]]

    clips, labels = read("validation", "test")
    label = torch.arange(options.sounds) % classes
    sounds = [
        module.sample(model.length, label[i], module.generators(i.tolist(), seed=1), **HEARD.get(line, {}))[:, 0]
        for i in torch.arange(options.sounds).split(12)
    ]
    generated = audio.expand(torch.cat(sounds), model.mu)
    asked = [model.labels[i] for i in label.tolist()]
    if not module.denoiser.net.classes or options.blind:
        labels, asked = [""] * len(labels), [""] * len(asked)
    found = evaluate(
        SoundSet(clips, tuple(labels), "held out"),
        SoundSet(generated, tuple(asked), "generated"),
        [kind() for kind in EMBEDDINGS.values()],
        resamples=10,
        count=options.sounds,
    )
    heard, held, known = (LogMel()(x) for x in (generated, clips, read("train")[0][:2000]))
    figures = {
        "val/loss": float(torch.cat([module.fixed_noise_loss(batch)[0] for batch in data.val_dataloader()]).mean()),
        # How far a generated sound is from the nearest one trained on, where one that nobody has seen is 1.
        "away": float(neighbours(known, heard).distance.median() / neighbours(known, held).distance.median()),
        "weights": sum(p.numel() for p in module.denoiser.parameters()),
        "embeddings": found["embeddings"],
        **json.loads((home / "done.json").read_text()),
    }
    with atomic_write(kept) as temporary:
        temporary.write_text(json.dumps(figures, indent=1))
    return figures


@torch.inference_mode()
def costs(homes: list[Path], rounds: int = 8) -> list[tuple[float, float]]:
    """FLOPs and seconds of a network call, per clip in batches of eight, of the run in each folder.

    All runs take their turn in each round, and the least of a run's times is its time: the machine is not ours alone.
    """
    calls = []
    for home in homes:
        model = checkpoint.load(home)
        denoiser = model.module.denoiser
        u = torch.randn(8, denoiser.sde.blocks, 1, model.length)
        calls.append(partial(denoiser, u, torch.full((8,), 0.5, dtype=torch.float64)))
    flops, times = [], [[] for _ in calls]
    for call in calls:
        with FlopCounterMode(display=False) as counter:
            call()
        flops.append(counter.get_total_flops() / 8)
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) / 8)
    return [(f, min(t)) for f, t in zip(flops, times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=list(TABLES), default="choices", help="which lines")
    parser.add_argument("--only", help="names of lines, a;b;... (default: all of the table)")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of each line (default 1000)")
    parser.add_argument("--minutes", type=float, default=0.0, help="minutes of training instead, as many for each line")
    parser.add_argument("--seeds", default="0", help="seeds, a,b,... (default 0)")
    parser.add_argument("--dataset", default="drums", help="a name of configs/data, or a folder of sounds")
    parser.add_argument("--data-seed", type=int, default=0, help="seed of the data and its splits (default 0)")
    parser.add_argument("--sounds", type=int, default=60, help="sounds to make of each line (default 60)")
    parser.add_argument(
        "--blind", action="store_true", help="compare without regard to classes, as where a line has none"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--root", type=Path, default=Path("runs/ablation"), help="where runs are kept")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    parser.add_argument("args", nargs="*", help="further options of `fit`, for all lines, after --")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = TABLES[options.table]
    chosen = options.only.split(";") if options.only else list(lines)
    if unknown := [line for line in chosen if line not in lines]:
        parser.error(f"--only {unknown[0]}: choose from {'; '.join(lines)}")
    options.blind = options.blind or options.table == "peers"
    seeds = [int(s) for s in options.seeds.split(",")]
    budget = f"{options.minutes:g} minutes" if options.minutes else f"{options.steps} steps"
    table = Table(
        *("", "M weights", "GFLOP a call", "cost of a call", "steps", *[f"{name}, over floor" for name in EMBEDDINGS]),
        *(() if options.blind else ("right class",)),
        *(("val/loss", "away from trained") if options.table == "real" else ()),
        title=f"{Path(options.dataset).name}, {budget}, seeds {options.seeds}, {options.threads} threads",
    )
    console = Console()
    found, homes = {}, {}
    for line in chosen:
        for seed in seeds:
            console.print(f"{line}, seed {seed}")
            home = homes[line] = trained(options, line, lines[line], seed)
            found.setdefault(line, []).append(measured(options, line, home))
    spent = dict(zip(chosen, costs([homes[line] for line in chosen]), strict=True))
    for line, figures in found.items():
        parts = [f["embeddings"] for f in figures]
        flops, seconds = spent[line]
        cells = [f"{figures[0]['weights'] / 1e6:.1f}", f"{flops / 1e9:.1f}", f"{seconds / spent[chosen[0]][1]:.2f}"]
        cells.append(f"{figures[0]['steps']}")
        for name in EMBEDDINGS:
            all_ = [p[name]["all"]["frechet"] for p in parts]
            cells.append(mean([f["value"] / f["floor"] for f in all_]))
        if not options.blind:
            cells.append(mean([p["learned"]["all"]["accuracy"]["value"] for p in parts], 2))
        if options.table == "real":
            cells += [mean([f["val/loss"] for f in figures], 4), mean([f["away"] for f in figures], 2)]
        table.add_row(line, *cells)
    table.caption = f"a call of the first line: {1e3 * spent[chosen[0]][1]:.1f} ms a clip"
    console.print(table)
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
