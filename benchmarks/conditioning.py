"""Does a part follow its track? Pitch classes and onsets of parts against the true score and against other tracks'.

    pitch    share of the frames within the score's notes whose strongest pitch class is the note's
    onset    F-measure of the part's onsets against the score's, within 50 ms

Each is computed of the true parts (its ceiling, since each measurement errs), of the parts of a model, of the model's
without a context, and of either against the scores of other tracks (its floor).

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
from diffwave_sde.progress import progress_bar

SEED = 1  # other arrangements than those of training
TOLERANCE = 0.05  # s


def chroma(x: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """The strongest pitch class of each frame of 0.19 s, from 38 to 330 Hz: (frames,), -1 where it is quiet.

    A pitch's evidence is the geometric mean of its first two harmonics, or its first alone where that is stronger.
    """
    size = round(0.19 * rate)
    padded = np.pad(x, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    spectrum = np.abs(np.fft.rfft(frames, 16_384, axis=1))
    midi = np.arange(27, 52)
    hz = 440 * 2 ** ((midi - 69) / 12)
    first, second, third = (spectrum[:, np.rint(n * hz * 16_384 / rate).astype(int)] for n in (1, 2, 3))
    evidence = first + 0.5 * second + 0.3 * third
    classes = np.stack([evidence[:, midi % 12 == k].max(1) for k in range(12)], 1)
    loud = np.sqrt(np.square(frames).mean(1))
    return np.where(loud > 0.1 * loud.max(), classes.argmax(1), -1)


def onsets(x: np.ndarray, rate: int) -> np.ndarray:
    """Times, s, at which the level rises by more than 2 dB within 23 ms, the steepest within 80 ms of each other."""
    hop = rate // 86
    power = np.square(np.pad(x, (hop, hop))[: (len(x) // hop) * hop + hop]).reshape(-1, hop).mean(1)
    level = 10 * np.log10(np.convolve(power, [0.5, 0.5], "same") + 1e-6)
    rise = np.maximum(level[2:] - level[:-2], 0)
    near = 7
    peaks = [i for i, r in enumerate(rise) if r > 2 and r == rise[max(0, i - near) : i + near + 1].max()]
    return np.array(peaks) * hop / rate


def pitch_agreement(x: np.ndarray, score: pairs.Score, rate: int) -> float:
    """Share of the frames within notes that have the note's pitch class; a quiet frame has none."""
    hop = rate // 50
    found, time = chroma(x, rate, hop), np.arange(1 + len(x) // hop) * hop / rate
    right = total = 0
    for note in score.bass:
        inside = (time[: len(found)] >= max(note.start, 0) + 0.06) & (time[: len(found)] < note.end - 0.02)
        right += int((found[inside] == note.midi % 12).sum())
        total += int(inside.sum())
    return right / max(total, 1)


def onset_agreement(x: np.ndarray, score: pairs.Score, rate: int) -> float:
    """The F-measure of the onsets, each matched once."""
    end = len(x) / rate
    wanted = [note.start for note in score.bass if 0.05 <= note.start < end - 0.05]
    found = [at for at in onsets(x, rate) if at >= 0.05]
    left = list(wanted)
    for at in found:
        near = min(left, key=lambda one: abs(one - at), default=None)
        if near is not None and abs(near - at) <= TOLERANCE:
            left.remove(near)
    hits = len(wanted) - len(left)
    return 2 * hits / max(len(wanted) + len(found), 1)


def row(name: str, parts: list[np.ndarray], scores: list[pairs.Score], rate: int) -> list[str]:
    """A line of the table: against their own scores, and against those of other tracks."""
    cells = [name]
    for agreement in (pitch_agreement, onset_agreement):
        for shift in (0, 1):
            others = scores[shift:] + scores[:shift]
            cells.append(f"{np.mean([agreement(x, s, rate) for x, s in zip(parts, others, strict=True)]):.3f}")
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
    parser.add_argument("--n", type=int, default=48, help="arrangements (default: 48)")
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
    table = Table("parts", "pitch, own track", "pitch, another's", "onset, own track", "onset, another's")
    for cells in rows:
        table.add_row(*cells)
    print(f"{args.n} arrangements of {length / rate:.1f} s\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
