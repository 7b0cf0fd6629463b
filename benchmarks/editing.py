"""What editing does to sounds, on the shipped model and built-in drums that it has not learnt from.

    python benchmarks/editing.py [--ckpt drums] [--only variation,seams,repairs,guidance] [--count 24] [--markdown FILE]

variation   how far a variation is from its sound, by strength
seams       how loud the clicks are where a made part meets the file, beside those of untouched sounds and of a bare cut
repairs     signal to error in what was lost, beside linear interpolation and the damaged file itself
guidance    class accuracy and recall, by weight of the guidance towards a class (and of a --classifier)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown
from torch import Tensor

from diffwave_sde import audio, checkpoint
from diffwave_sde.data.builtin import render
from diffwave_sde.editing import Editor, Projected
from diffwave_sde.editing import restoration as repair
from diffwave_sde.editing.operations import METHODS
from diffwave_sde.editing.projection import between
from diffwave_sde.guidance import Guidance
from diffwave_sde.metrics import frechet, manifold
from diffwave_sde.metrics.evaluation import accuracy
from diffwave_sde.metrics.learned import Learned

SEED = 77  # of sounds that no shipped model has seen
MS = 44  # samples


def windows(count: int, length: int, seed: int = SEED) -> tuple[Tensor, list[str]]:
    """Built-in drums as the model sees them, (n, T), and their classes."""
    sounds = [render("drums", i, seed, audio.RATE, max(length / audio.RATE + 0.06, 0.1)) for i in range(count)]
    return torch.stack([audio.window(torch.from_numpy(s.samples), length) for s in sounds]), [s.label for s in sounds]


def ratio(signal: Tensor, error: Tensor) -> float:
    """Signal to error, dB."""
    return float(10 * (signal.square().sum() / error.square().sum().clamp_min(1e-12)).log10())


def quantiles(values: list[float]) -> str:
    """Median, and the 90th percentile."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{x.median():.2f} ({x.quantile(0.9):.2f})"


def variation(options: argparse.Namespace, model: checkpoint.LoadedModel) -> Table:
    """Distance of variations from their sound."""
    x, labels = windows(options.count, model.length)
    embed = Learned()
    own = embed(x)
    same = torch.tensor([[a == b for b in labels] for a in labels]) & ~torch.eye(len(x), dtype=torch.bool)
    typical = float(torch.cdist(own, own)[same].median())
    table = Table("strength", "distance, of that between two sounds of a class", "signal to change, dB", "calls")
    for strength in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        made, calls = [], 0
        for i, label in enumerate(track(labels, f"strength {strength:g}")):
            editor = Editor(model, model.labels.index(label))
            made.append(editor.vary(x[i], strength, [i])[0])
            calls = editor.nfe
        made = torch.stack(made)
        far = (embed(made) - own).norm(dim=1) / typical
        change = [ratio(a, b - a) for a, b in zip(x, made, strict=True)]
        table.add_row(f"{strength:g}", quantiles(far.tolist()), quantiles(change), str(calls))
    return table


def click(x: Tensor, at: int) -> float:
    """How far the sharpest corner within 1 ms of a sample stands out, dB over the corners of 10 ms on both sides.

    A corner is the absolute second difference.
    """
    corners = x.double().diff(n=2).abs()
    near = corners[max(at - MS, 0) : at + MS]
    around = torch.cat((corners[max(at - 11 * MS, 0) : max(at - MS, 0)], corners[at + MS : at + 11 * MS]))
    return float(20 * (near.max().clamp_min(1e-9) / around.square().mean().sqrt().clamp_min(1e-9)).log10())


def seams(options: argparse.Namespace, model: checkpoint.LoadedModel) -> Table:
    """Clicks at both ends of a made part."""
    x, labels = windows(options.count, model.length)
    first, last = 44 + 50 * MS, 44 + 150 * MS
    free = torch.zeros(model.length, dtype=torch.bool)
    free[first:last] = True
    table = Table("what stands from 50 to 150 ms", "click, dB: median (90 %)", "calls")

    def row(name: str, of: Callable[[int], Tensor], calls: Callable[[], int] = lambda: 0) -> None:
        levels = []
        for i in track(range(len(x)), name):
            made = of(i)
            levels += [click(made, first), click(made, last)]
        table.add_row(name, quantiles(levels), str(calls() or ""))

    row("the sound itself", lambda i: x[i])
    row("another sound of its class, cut in", lambda i: torch.where(free, x[(i + 3) % len(x)], x[i]))
    for repeats, method in ((1, "projection"), (3, "projection"), (1, "posterior")):
        editors = {name: Editor(model, model.labels.index(name), repeats=repeats) for name in set(labels)}
        row(
            f"made anew, --method {method} --resample {repeats}",
            lambda i, editors=editors, method=method: editors[labels[i]].inpaint(x[i], free, [i], method)[0],
            lambda editors=editors: next(iter(editors.values())).nfe,
        )
    return table


def interpolated(x: Tensor, lost: Tensor) -> Tensor:
    """x with the lost samples on the straight line between those around them."""
    import numpy as np

    known = (~lost).nonzero().flatten().numpy()
    places = np.arange(len(x))
    return torch.from_numpy(np.interp(places, known, x[~lost].numpy())).to(x)


def repairs(options: argparse.Namespace, model: checkpoint.LoadedModel) -> Table:
    """Signal to error in the lost samples."""
    x, labels = windows(options.count, model.length)
    table = Table("damage", "as it is", "linear interpolation", "restored", "mean of 4 restored")

    def row(name: str, damage: Callable[[Tensor], tuple[Tensor, Tensor]], mend: Callable) -> None:
        results: list[list[float]] = [[], [], [], []]
        for i in track(range(len(x)), name):
            damaged, lost = damage(x[i])
            editor = Editor(model, model.labels.index(labels[i]))
            made = mend(editor, damaged, lost)
            for values, y in zip(results, (damaged, interpolated(damaged, lost), made[0], made.mean(0)), strict=True):
                values.append(ratio(x[i][lost], (y - x[i])[lost]))
        table.add_row(name, *map(quantiles, results))

    def gap(milliseconds: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def damage(sound: Tensor) -> tuple[Tensor, Tensor]:
            lost = torch.zeros(len(sound), dtype=torch.bool)
            lost[44 + 40 * MS : 44 + (40 + milliseconds) * MS] = True
            return torch.where(lost, 0.0, sound), lost

        return damage

    def clipped(decibels: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        level = audio.PEAK * 10 ** (decibels / 20)
        return lambda sound: (sound.clamp(-level, level), sound.abs() > level)

    def declip(editor: Editor, damaged: Tensor, lost: Tensor) -> Tensor:
        low, high = repair.clip_bounds(damaged, float(damaged.abs().max()) * 0.9999)
        low, high = low.clamp(-1, 1), high.clamp(-1, 1)
        return editor.given(len(damaged), lambda d: Projected(d, between(low, high)), range(4))

    for milliseconds in (2, 10, 30):
        row(
            f"gap of {milliseconds} ms, 40 ms after the onset",
            gap(milliseconds),
            lambda e, y, lost: e.inpaint(y, lost, range(4), options.method),
        )
    for decibels in (-3.0, -6.0, -12.0):
        row(f"clipped at {decibels:g} dB of the peak", clipped(decibels), declip)
    return table


def scales(options: argparse.Namespace) -> Iterator[tuple[str, Guidance]]:
    """What sounds are guided by."""
    for weight in (1.0, 1.5, 2.0, 3.0, 5.0):
        yield f"classifier-free, weight {weight:g}", Guidance(weight, 1.0, 20.0)
    if options.classifier:
        for scale in (0.5, 1.0, 2.0, 4.0):
            yield f"classifier beside the class, scale {scale:g}", Guidance(1.0, classifier=scale)
        for scale in (0.0, 0.5, 1.0, 2.0, 4.0):
            # A weight of 0 is the model without a class, at all noise levels.
            yield f"classifier alone, scale {scale:g}", Guidance(0.0, classifier=scale)


def guidance(options: argparse.Namespace, model: checkpoint.LoadedModel) -> Table:
    """Class accuracy, diversity and distance of guided sounds."""
    real, labels = windows(6 * options.count, model.length)
    embed = Learned()
    own = embed(real)
    names = [model.labels[i % len(model.labels)] for i in range(4 * options.count)]
    ids = torch.tensor([model.labels.index(name) for name in names])
    table = Table("guidance", "accuracy", "recall", "coverage", "Fréchet distance (learned)")
    for name, asked in scales(options):
        sounds = []
        for first in track(range(0, len(names), 16), name):
            numbers = list(range(first, min(first + 16, len(names))))
            generators = model.module.generators(numbers, 1)
            with torch.no_grad():
                x = model.module.sample(model.length, ids[numbers], generators, guidance=asked)
            sounds.append(audio.expand(x[:, 0], model.mu))
        mine = embed(torch.cat(sounds))
        told = accuracy(own, labels, mine, names)
        found = manifold(own, mine)
        table.add_row(
            name, f"{told.value:.3f}", f"{found.recall:.2f}", f"{found.coverage:.2f}", f"{frechet(own, mine):.3f}"
        )
    return table


PARTS = {"variation": variation, "seams": seams, "repairs": repairs, "guidance": guidance}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="drums", help="checkpoint, run or exported model (default drums)")
    parser.add_argument("--classifier", help="a classifier's run, for the part guidance (default: without)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas (default: all)")
    parser.add_argument(
        "--method",
        default="posterior",
        choices=METHODS,
        help="how gaps are filled, for the part repairs (default posterior)",
    )
    parser.add_argument("--count", type=int, default=24, help="sounds (default 24)")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    model, text = checkpoint.load(options.ckpt), ""
    if options.classifier:
        model.module.classifier = checkpoint.load_classifier(options.classifier, model)
    for name in options.only.split(","):
        table = PARTS[name](options, model)
        Console().print(table)
        text += f"## {name}\n\n{markdown(table)}\n"
        if options.markdown:
            options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
