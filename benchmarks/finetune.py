"""When is it worth starting from a model that is there? Fine-tuning beside training from nothing, with the same budget.

    python benchmarks/finetune.py --data /my/one-shots [--classes kick,tom] [--sizes 20,50,200] [--minutes 30]

Of a data set some sounds are set aside; of the others 20, 50, 200 are trained on (a tenth of them held out for early
stopping), the larger sets with all of the smaller ones. Each is done three ways: fine-tuned, from nothing with the same
augmentation and early stopping, and with the starting model as it is. The best checkpoint by held-out loss is measured
on the sounds set aside: loss; Fréchet distances over their floor; and whether sounds were learned by heart: how far
made sounds are from the nearest sound trained on, over the same distance of the real ones set aside (medians; 1 is as
far as a sound nobody has heard), and the share of them that is nearer than 99 % of real ones, beside that of the real
ones.

It goes on where it was stopped; `--quick` is a run of two minutes that only shows that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tables import markdown, write

from diffwave_sde import audio, checkpoint, finetuning, generate
from diffwave_sde.atomic import atomic_folder, atomic_write
from diffwave_sde.data.module import AudioDataModule, Batch
from diffwave_sde.data.store import Store
from diffwave_sde.metrics import Learned, LogMel, SoundSet, evaluate
from diffwave_sde.metrics.neighbours import Index
from diffwave_sde.module import DiffusionModule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WAYS = ("fine-tuned", "from nothing", "as it is")
DRAWS = 8  # noises of each sound set aside


def divided(store: Store, aside: int, sizes: list[int], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows set aside, and those of each size: at random by groups of near copies, the classes in turn."""
    order = np.random.default_rng(seed).permutation(len(store))
    # A class's turn comes as often as that of any other, as long as it has any left.
    turn = np.empty(len(store), np.int64)
    for label in range(len(store.labels)):
        mine = order[store.label_ids[order] == label]
        turn[mine] = np.arange(len(mine))
    rows = order[np.argsort(turn[order], kind="stable")]
    kept = rows[:aside]
    rest = rows[~np.isin(store.groups[rows], store.groups[kept])]
    if len(rest) < max(sizes):
        raise SystemExit(f"{len(rest)} sounds are left beside {len(kept)} set aside: fewer than {max(sizes)}")
    return kept, [rest[:size] for size in sizes]


def write_folder(folder: Path, store: Store, rows: np.ndarray) -> None:
    """The clips of these rows as files, a folder each class."""
    if folder.is_dir():
        return
    with atomic_folder(folder) as work:
        for row, clip in zip(rows.tolist(), store.read(rows), strict=True):
            file = work / store.labels[store.label_ids[row]] / f"{row:06d}.wav"
            file.parent.mkdir(exist_ok=True)
            audio.write(file, audio.from_int16(clip[None]).view(-1), store.rate, "PCM_24")


def train(options: argparse.Namespace, way: str, folder: Path, run: Path, sigma: float) -> None:
    """A run; it goes on if it was stopped."""
    done = run / "done"
    if done.exists():
        return
    argv = [
        sys.executable, "-m", "diffwave_sde", "fit", f"--data.dataset={folder}", f"--data.root={options.out / 'data'}",
        "--data.test=0", "--data.workers=0", f"--trainer.default_root_dir={run}", "--trainer.logger=false",
        "--trainer.enable_model_summary=false",
    ]  # fmt: skip
    if (run / "checkpoints" / "last.ckpt").exists():
        argv.append(f"--ckpt_path={run}")
    elif way == "from nothing":
        # What is there to spoil at a high rate? Its own rate, and its own fall of it.
        base = ["--model.optimizer.lr=1e-3", "--model.scheduler.warmup=100", "--model.scheduler.decay=0.4"]
        argv += ["--config", str(CONFIGS / "init.yaml"), *base, f"--model.sigma_data={sigma}"]
    else:
        argv.append(f"--init={options.init}")
    steps = 1 if way == "as it is" else options.steps
    argv += [f"--trainer.max_steps={steps}", f"--trainer.max_time=00:00:{options.minutes:02d}:00"]
    argv += ["--model.optimizer.lr=1e-12"] if way == "as it is" else []
    argv += [f"--trainer.val_check_interval={min(options.every, steps)}", *options.more]
    began = time.monotonic()
    subprocess.run(argv, check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})
    done.write_text(f"{time.monotonic() - began:.0f} s\n")


def measure(options: argparse.Namespace, run: Path, store: Store, aside: np.ndarray, sounds: Path) -> dict[str, Any]:
    """All figures of a run."""
    best = checkpoint.best(run / "checkpoints") or run / "checkpoints" / "last.ckpt"
    loaded = checkpoint.load(best, kind=DiffusionModule)
    module, labels = loaded.module, list(loaded.labels)
    rows = aside[np.isin(store.label_ids[aside], [store.labels.index(label) for label in labels])]
    clips = audio.from_int16(store.read(rows)).view(len(rows), -1)
    names = [store.labels[i] for i in store.label_ids[rows]]
    module.val_draws = DRAWS
    losses = []
    with torch.inference_mode():
        for first in range(0, len(rows), 16):
            part = slice(first, first + 16)
            ids = torch.tensor([labels.index(name) for name in names[part]])
            batch = Batch(clips[part, None], ids, torch.from_numpy(rows[part].astype(np.int64)))
            losses += [module.fixed_noise_loss(batch, k)[0] for k in range(DRAWS)]
    made, _ = generate.make_sounds(
        checkpoint.load(best), sounds, generate.ask(loaded, options.sounds), subtype="PCM_24", batch_size=16
    )
    files = [made.sounds[i] for i in range(options.sounds)]
    waves = torch.stack([audio.read(sounds / one["file"])[0] for one in files])
    found = evaluate(
        SoundSet(clips, tuple(names), "set aside"),
        SoundSet(waves, tuple(one["label"] for one in files), "made"),
        [LogMel(), Learned()],
        resamples=10,
    )
    index = Index.of_data(checkpoint.data(best))
    near, real = index.find(waves), index.find(clips)

    def typical(some: list) -> float:
        return float(np.median([one.distance for one in some]))

    figures = {name: table["all"]["frechet"] for name, table in found["embeddings"].items()}
    return {
        "step": loaded.step,
        "steps": checkpoint.load(run).step,
        "loss": float(torch.cat(losses).mean()),
        **{name: figure["value"] / figure["floor"] for name, figure in figures.items()},
        "away": typical(near) / typical(real),
        "nearer": float(np.mean([one.suspicious for one in near])),
        "nearer_real": float(np.mean([one.suspicious for one in real])),
        "nearest": str(max(near, key=lambda one: (one.nearer, -one.distance))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", default="drums", help="the model to start from")
    parser.add_argument("--data", default="hydrogen", help="a folder of sounds, or a dataset's name")
    parser.add_argument("--classes", help="classes to take, a,b,...; all by default")
    parser.add_argument("--sizes", default="20,50,200", help="sounds to train on")
    parser.add_argument("--aside", type=int, default=100, help="sounds set aside")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each run at most")
    parser.add_argument("--minutes", type=int, default=30, help="minutes of each run at most, below 60")
    parser.add_argument("--every", type=int, default=100, help="steps between two validations")
    parser.add_argument("--sounds", type=int, default=96, help="sounds made by each model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of a run")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="folder of the runs; it goes on there")
    parser.add_argument("--ways", default=",".join(WAYS), help="which of the three")
    parser.add_argument("--more", nargs="*", default=[], help="further options of `fit`, for all runs")
    parser.add_argument("--quick", action="store_true", help="twelve sounds, four steps: does it work?")
    parser.add_argument("--markdown", type=Path, help="file for the table, as Markdown")
    options = parser.parse_args()
    if options.quick:
        options.data, options.classes, options.sizes, options.aside = "drums", None, "12", 12
        options.steps, options.every, options.sounds, options.out = 4, 2, 6, options.out.with_name("finetune-quick")
    torch.set_num_threads(options.threads)
    options.out = options.out.resolve()
    data = AudioDataModule(
        options.data,
        root=str(options.out / "data" if options.quick else "data"),
        mu=0,
        workers=0,
        classes=options.classes.split(",") if options.classes else None,
        count=60 if options.quick else 6000,
    )
    data.prepare_data()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    aside, parts = divided(data.store, options.aside, sizes, seed=0)
    sigma = float(finetuning.Start.read(options.init).denoiser.sigma_data)
    table = Table(
        "sounds", "way", "step of best, of all", "loss", "log-mel", "learned", "away from trained", "near copies"
    )
    for size, rows in zip(sizes, parts, strict=True):
        folder = options.out / f"sounds-{size}"
        write_folder(folder, data.store, rows)
        for way in options.ways.split(","):
            home = options.out / f"{size}-{way.replace(' ', '-')}"
            result = home / "result.json"
            if not result.exists():
                train(options, way, folder, home, sigma)
                figures = measure(options, home, data.store, aside, home / "made")
                with atomic_write(result) as temporary:
                    temporary.write_text(json.dumps(figures, indent=1))
            f = json.loads(result.read_text())
            table.add_row(
                *(str(size), way, f"{f['step']:,} of {f['steps']:,}", f"{f['loss']:.4f}"),
                *(f"{f[name]:.1f}" for name in ("log-mel", "learned")),
                *(f"{f['away']:.2f}", f"{f['nearer']:.0%} ({f['nearer_real']:.0%})"),
            )
            Console().print(table)
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
