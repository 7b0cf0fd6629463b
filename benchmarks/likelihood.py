"""Bits per sample, outliers and checkpoints: how the likelihood does what it is for.

    python benchmarks/likelihood.py [--part PART ...] [--count 24] [--markdown FILE]

bits: the model `drums` on new sounds of the recipes that it was trained on, beside FLAC, and beside a Gaussian with the
spectrum of other sounds of the class. outliers: the area under the ROC curve for wrong files planted among right ones.
checkpoints: how proxy, bound and flow rank the checkpoints of a small run. dequantise: what the laws of the places in a
cell are worth to a small model. tolerance: the flow of the model `drums`, of the first 2,000 samples of a sound of each
class, by fixed steps and by the adaptive solver.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from planted import KINDS, drum, plant
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown
from torch import Tensor

from diffwave_sde import audio, checkpoint
from diffwave_sde.collection.clips import Library
from diffwave_sde.collection.outliers import flac_bits, rank, spectral_bits
from diffwave_sde.collection.scores import Score, class_doubts
from diffwave_sde.data.items import pack
from diffwave_sde.likelihood import Bound, Dequantisation, Estimator, Flow, Proxy, bits_per_sample
from diffwave_sde.module import DiffusionModule
from diffwave_sde.networks import UNet
from diffwave_sde.random import stream
from diffwave_sde.sde import EDM

BATCH = 4
SHORT = 2000


def scored(model: checkpoint.LoadedModel, estimator: Estimator, x: Tensor, label: Tensor, title: str) -> Tensor:
    """Bits per sample of the sounds x (n, 1, T): (n,)."""
    found = []
    for first in track(range(0, len(x), BATCH), title, console=Console(stderr=True)):
        rows = slice(first, first + BATCH)
        generators = [stream("benchmark", first + i) for i in range(len(x[rows]))]
        bits, _ = bits_per_sample(model.module.denoiser, estimator, x[rows], label[rows], generators, model.mu)
        found.append(bits)
    return torch.cat(found)


def windows(x: Tensor) -> np.ndarray:
    """Waveforms (n, 1, T) as 16-bit integers (n, T)."""
    return np.stack([pack(one[0]) for one in x])


def bits(count: int) -> list[Table]:
    model = checkpoint.load("drums")
    sounds = [drum(i, seed=91) for i in range(count)]
    x, labels = torch.stack([s for s, _ in sounds])[:, None], [name for _, name in sounds]
    label = torch.tensor([model.labels.index(name) for name in labels])
    others = [drum(5000 + i, seed=92) for i in range(200)]
    law = {name: windows(torch.stack([s for s, own in others if own == name])[:, None]) for name in model.labels}
    own = windows(x)
    gaussian = torch.stack([spectral_bits(w[None], law[name])[0] for w, name in zip(own, labels, strict=True)])
    figures = {
        "flow, 24 steps": scored(model, Flow(1, steps=24), x, label, "flow"),
        "bound, at most": scored(model, Bound(1, 32), x, label, "bound"),
        "FLAC": flac_bits(own),
        "Gaussian": gaussian,
    }
    table = Table("class", "sounds", *figures, "exact zeros")
    for name in [*model.labels, "all"]:
        rows = torch.tensor([i for i, one in enumerate(labels) if name in (one, "all")])
        cells = [
            f"{float(f[rows].mean()):.2f} ± {float(f[rows].std()) / len(rows) ** 0.5:.2f}" for f in figures.values()
        ]
        table.add_row(name, str(len(rows)), *cells, f"{100 * float((x[rows] == 0).float().mean()):.0f} %")
    return [table]


def outliers(count: int) -> list[Table]:
    model = checkpoint.load("drums")
    right = [(*drum(i, seed=93), "right") for i in range(2 * count)]
    # Other drums spoilt, and other voices, than the ones that the rule was chosen on.
    wrong = [(*plant(kind, 500 + i, model.labels), kind) for kind in KINDS for i in range(count // 2)]
    x = torch.stack([s for s, _, _ in right + wrong])[:, None]
    labels, kinds = ([one[k] for one in right + wrong] for k in (1, 2))
    label = torch.tensor([model.labels.index(name) for name in labels])
    found = scored(model, Bound(1, 16), x, label, "bound")
    doubts, names = [], []
    for first in track(range(0, len(x), BATCH), "classes", console=Console(stderr=True)):
        more, which = class_doubts(model, x[first : first + BATCH], label[first : first + BATCH])
        doubts, names = doubts + more.tolist(), names + which
    files = tuple(str(i) for i in range(len(x)))
    library = Library(files, tuple(labels), files, windows(x), ())
    scores = [
        Score(files[i], labels[i], True, float(found[i]), 0.0, 0.0, 0.0, doubts[i], names[i]) for i in range(len(x))
    ]
    suspicion, excess = torch.zeros(len(x)), torch.zeros(len(x))
    for one in rank(library, scores):
        suspicion[one.row], excess[one.row] = one.suspicion, one.excess
    table = Table("planted", "plain likelihood", "less FLAC's bits", "excess over FLAC", "with classes (--rank)")
    ways = (found, found - flac_bits(library.windows), excess, suspicion)
    curves = {kind: [area(way, kinds, kind) for way in ways] for kind in KINDS}
    curves["mean"] = [sum(column) / len(KINDS) for column in zip(*curves.values(), strict=True)]
    for kind, areas in curves.items():
        table.add_row(kind, *(f"{value:.2f}" for value in areas))
    return [table]


def area(score: Tensor, kinds: list[str], kind: str) -> float:
    """The area under the ROC curve: how often a wrong file of this kind scores above a right one."""
    a = score[[i for i, one in enumerate(kinds) if one == kind]].double()[:, None]
    b = score[[i for i, one in enumerate(kinds) if one == "right"]].double()
    return float(((a > b).double() + 0.5 * (a == b).double()).mean())


def learning(at: Sequence[int], mu: float = 0.0) -> Iterator[DiffusionModule]:
    """A small model of the first 2,000 samples of drums, companded, after each of these steps."""
    torch.manual_seed(0)
    data = audio.compress(torch.stack([drum(i, seed=94)[0][:SHORT] for i in range(100)])[:, None], mu)
    net = UNet(1, 1, channels=(16, 32), factors=(5,), blocks=1, embedding=32, heads=2)
    module = DiffusionModule(net, EDM(sigma_min=2e-4), sigma_data=float(data.std()))
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    g = torch.Generator().manual_seed(1)
    for step in track(range(1, max(at) + 1), "training", console=Console(stderr=True)):
        x = data[torch.randint(len(data), (8,), generator=g)]
        loss = module.loss(module.denoiser, x, None, g).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in at:
            yield module.eval()
            module.train()


def short_drums(count: int) -> Tensor:
    """Their first 2,000 samples, (n, 1, T), of sounds that `learning` has not seen."""
    return torch.stack([drum(i, seed=95)[0][:SHORT] for i in range(count)])[:, None]


def asked(
    module: DiffusionModule,
    estimator: Estimator,
    held: Tensor,
    mu: float = 0.0,
    dequantisation: Dequantisation | None = None,
) -> str:
    """The mean bits per sample of the sounds, and its standard error among them."""
    own, label = [stream("held", i) for i in range(len(held))], torch.zeros(len(held), dtype=torch.long)
    found, _ = bits_per_sample(module.denoiser, estimator, held, label, own, mu, dequantisation)
    return f"{float(found.mean()):.3f} ± {float(found.std()) / math.sqrt(len(found)):.2f}"


def checkpoints(count: int) -> list[Table]:
    held, at = short_drums(count), (20, 80, 320)
    ways = {"proxy": Proxy(16), "bound, bits": Bound(2, 32), "flow, bits": Flow(1, steps=24)}
    table = Table("steps", *ways)
    for step, module in zip(at, learning(at), strict=True):
        table.add_row(str(step), *(asked(module, estimator, held) for estimator in ways.values()))
    return [table]


def dequantise(count: int) -> list[Table]:
    held = short_drums(count)
    ways = {
        f"{law}, {draws} draw{'s' * (draws > 1)}": Dequantisation(law, draws)
        for law in ("uniform", "variational")
        for draws in (1, 8)
    }
    table = Table("companding", *ways, "bound")
    for mu in (0.0, 255.0):
        (module,) = learning((320,), mu)
        cells = [asked(module, Flow(2, steps=48), held, mu, way) for way in ways.values()]
        table.add_row(f"μ = {mu:g}" if mu else "none", *cells, asked(module, Bound(2, 64), held, mu))
    return [table]


def tolerance(count: int) -> list[Table]:
    model = checkpoint.load("drums")
    sounds = {name: x[:SHORT] for x, name in (drum(i, seed=96) for i in range(11, -1, -1))}
    label = torch.tensor([model.labels.index(name) for name in sounds])
    table = Table("solver", *sounds, "calls of the network")
    ways = {f"{n} steps": Flow(2, steps=n) for n in (24, 48, 96)}
    ways |= {f"tolerance {t:g}": Flow(2, tolerance=t) for t in (1e-3, 1e-5)}
    for name, flow in ways.items():
        cells, calls = [], []
        for k, x in enumerate(sounds.values()):
            told = [0]
            bits, error = bits_per_sample(
                *(model.module.denoiser, flow, x[None, None], label[k : k + 1], [stream("tolerance", k)], model.mu),
                progress=lambda done, _, told=told: told.append(done),
            )
            cells.append(f"{float(bits):.3f} ± {float(error):.3f}")
            calls.append(told[-1])
        table.add_row(name, *cells, f"{sum(calls) / len(calls):.0f}")
        print(name, *cells, file=sys.stderr)
    return [table]


PARTS = {
    "bits": bits,
    "outliers": outliers,
    "checkpoints": checkpoints,
    "dequantise": dequantise,
    "tolerance": tolerance,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which of them")
    parser.add_argument("--count", type=int, default=24, help="sounds, and twice as many right ones among the wrong")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = [table for part in options.part for table in PARTS[part](options.count)]
    for table in tables:
        Console().print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()
