"""Does a part follow its track? Pitch classes and onsets of parts against the true score and against other tracks'.

As `diffwave-sde evaluate` measures it (`metrics.agreement`), of new arrangements of the built-in pairs, of which none
was trained on; and of a model's parts that were made without a context.

    python benchmarks/conditioning.py                       the data alone
    python benchmarks/conditioning.py --ckpt runs/bass      with a model's
    python benchmarks/conditioning.py --ckpt runs/bass --joins --n 10    how windows of longer tracks are joined
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.table import Table
from tables import markdown

from diffwave_sde import audio, checkpoint, parts
from diffwave_sde.data import pairs
from diffwave_sde.metrics.agreement import FIGURES, agreement, asked_for, measure_part
from diffwave_sde.progress import progress_bar
from diffwave_sde.track import JOINS, Track

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


def change(x: np.ndarray, first: int, last: int, rate: int) -> float:
    """How much the levels of 24 bands of equal width below rate / 4 differ, dB, from 0.1 s before to 0.1 s after."""
    size = rate // 10

    def levels(piece: np.ndarray) -> np.ndarray:
        power = np.square(np.abs(np.fft.rfft(piece * np.hanning(size))))[: size // 4]
        return 10 * np.log10(np.array([band.sum() for band in np.array_split(power, 24)]) + 1e-4)

    return float(np.abs(levels(x[first - size : first]) - levels(x[last : last + size])).mean())


def joins(model: checkpoint.LoadedModel, count: int, steps: int, windows: int = 4) -> Table:
    """What happens where one window of a part takes over from another, beside the same moments of the true parts."""
    rate, length = model.rate, model.length
    contexts, true, scores = arrangements(count, rate, windows * length)
    labels = torch.arange(count) % max(len(model.labels), 1)
    table = Table("join", "change, dB", "of true parts there", "more, dB", "onset, own track", "seconds a part")
    for joined in JOINS:
        track, began = Track(contexts[0], length, joined=joined), time.perf_counter()
        sampler = type(model.module.sampler)(steps=steps)
        made = [
            parts.make(model, [i], labels[i : i + 1], Track(context, length, joined=joined), sampler=sampler)[0].numpy()
            for i, context in enumerate(contexts)
        ]
        seconds = (time.perf_counter() - began) / count
        spans = [(w * track.hop + track.known, w * track.hop + track.overlap) for w in range(1, track.count)]
        spans = [span for span in spans if span[1] + rate // 10 <= windows * length]
        here, there = (np.array([[change(x, *span, rate) for span in spans] for x in some]) for some in (made, true))
        more = (here - there).mean(1)
        onset = float(row("", made, scores, rate)[4])
        table.add_row(
            joined, f"{here.mean():.2f}", f"{there.mean():.2f}",
            f"{more.mean():.2f} ± {more.std(ddof=1) / count**0.5:.2f}", f"{onset:.3f}", f"{seconds:.1f}",
        )  # fmt: skip
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="checkpoint, or a run's folder, of a model trained on the bass pairs")
    parser.add_argument("--n", type=int, default=64, help="arrangements (default: 64)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument("--joins", action="store_true", help="compare how windows of longer tracks are joined")
    args = parser.parse_args()
    model = checkpoint.load(args.ckpt) if args.ckpt else None
    if args.joins:
        if model is None:
            parser.error("--joins: of a model; give --ckpt")
        print(f"{args.n} tracks of 4 windows, {args.steps} steps\n\n{markdown(joins(model, args.n, args.steps))}")
        return
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
