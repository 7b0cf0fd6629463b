"""Does a part follow its track? Pitch classes and onsets of parts against the true score and against other tracks'.

As `diffwave-sde evaluate` measures it (`metrics.agreement`), of new arrangements of the built-in pairs, of which none
was trained on; and of a model's parts that were made without a context.

    python benchmarks/conditioning.py                       the data alone
    python benchmarks/conditioning.py --ckpt runs/bass      with a model's
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.table import Table
from tables import markdown

from diffwave_sde import audio, checkpoint
from diffwave_sde.data import pairs
from diffwave_sde.metrics.agreement import FIGURES, agreement, asked_for, measure_part
from diffwave_sde.progress import progress_bar

SEED = 1  # other arrangements than those of training


def row(name: str, parts: list[np.ndarray], scores: list[pairs.Score], rate: int) -> list[str]:
    """A line of the table: against their own scores, against those of other tracks, and how likely by chance."""
    heard = [measure_part(x, rate) for x in parts]
    asked = [asked_for(score, len(parts[0]), rate) for score in scores]
    cells = [name]
    for figure in FIGURES.values():
        found = agreement(heard, asked, figure)
        cells += [f"{found.value:.3f}", f"{found.shuffled:.3f}", f"{found.p:.4f}"]
    return cells


def arrangements(count: int, rate: int, length: int) -> tuple[torch.Tensor, list[np.ndarray], list[pairs.Score]]:
    """Contexts (count, length), true parts and scores."""
    made = [pairs.render(i, SEED, rate, length) for i in range(count)]
    contexts = torch.from_numpy(np.stack([context for context, _, _ in made])).float()
    return contexts, [part for _, part, _ in made], [score for _, _, score in made]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="checkpoint, or a run's folder, of a model trained on the bass pairs")
    parser.add_argument("--n", type=int, default=64, help="arrangements (default: 64)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    args = parser.parse_args()
    model = checkpoint.load(args.ckpt) if args.ckpt else None
    rate, length = (model.rate, model.length) if model else (pairs.RATE, 24_000)
    contexts, parts, scores = arrangements(args.n, rate, length)
    rows = [row("true parts", parts, scores, rate)]
    if model is not None:
        sampler = type(model.module.sampler)(steps=args.steps)
        label = torch.arange(args.n) % max(len(model.labels), 1)
        given = audio.compress(contexts, model.mu)[:, None]
        with torch.inference_mode(), progress_bar("sounds") as bar:
            for name, context in (("made for the track", given), ("made without one", torch.zeros_like(given))):
                task, made = bar.add_task(name, total=args.n), []
                for i in range(0, args.n, 16):
                    some = slice(i, min(i + 16, args.n))
                    noise = model.module.generators(range(some.start, some.stop), 0)
                    x = model.module.sample(length, label[some], noise, sampler, audio=context[some])
                    made += list(audio.expand(x[:, 0], model.mu).double().numpy())
                    bar.update(task, completed=some.stop)
                rows.append(row(name, made, scores, rate))
    titles = (f"{figure}, {which}" for figure in FIGURES for which in ("own track", "another's", "p"))
    table = Table("parts", *titles)
    for cells in rows:
        table.add_row(*cells)
    print(f"{args.n} arrangements of {length / rate:.1f} s\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
