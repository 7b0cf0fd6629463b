"""What the distances of `evaluate` hear: each over its floor, for sounds made worse in ways that have names.

    python benchmarks/metrics.py [--dataset drums] [--count 100] [--markdown FILE]

Two sets of the data are drawn; the second is spoilt in one way at a time and laid against the first. A distance hears
what raises it above 1, and should not hear a gain, the polarity or a shift.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from embedding import CORRUPTIONS
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown, write
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.metrics import EMBEDDINGS, frechet, kernel, manifold
from diffwave_sde.metrics.evaluation import Discriminant
from diffwave_sde.random import stream


def _spoilt(name: str, strength: float) -> Callable[[Tensor], Tensor]:
    """A corruption of benchmarks/embedding.py, of one strength."""
    return lambda x: CORRUPTIONS[name].of(x, torch.full((len(x), 1), float(strength)), stream("spoilt"))


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "gain of -6 dB": lambda x: 0.5 * x,
    "polarity": lambda x: -x,
    "3 ms later": lambda x: torch.nn.functional.pad(x, (132, 0))[:, : x.shape[1]],
    "hiss at -80 dBFS": _spoilt("hiss", -80),
    "hiss at -60 dBFS": _spoilt("hiss", -60),
    "noise 40 dB below the sound": _spoilt("noise", 40),
    "noise 20 dB below the sound": _spoilt("noise", 20),
    "low pass at 5 kHz": _spoilt("low pass", 5000),
    "tails cut at 120 ms": _spoilt("tail cut", 120),
    "phases shuffled": _spoilt("shuffled phases", 1),
    "8 bits": _spoilt("quantisation", 8),
    "one sound, repeated": lambda x: x[:1].expand(len(x), -1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="drums", help="dataset, or a folder of sounds")
    parser.add_argument("--count", type=int, default=100, help="sounds in each of the two sets")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    data = AudioDataModule(options.dataset, mu=0, workers=0)
    data.prepare_data()
    data.setup("fit")
    rows = torch.randperm(len(data.store), generator=stream("rows")).numpy()[: 2 * options.count]
    sounds = audio.from_int16(data.store.read(rows))
    kinds = [data.labels[i] for i in data.store.label_ids[rows]]
    a, b = sounds.split(len(sounds) // 2)[:2]
    heads = [f"{name}: {what}" for name in EMBEDDINGS for what in ("Fréchet", "kernel", "coverage")]
    table = Table(f"{len(a)} of {options.dataset}", *heads)
    embeddings = [cls() for cls in EMBEDDINGS.values()]
    real = [e(a) for e in embeddings]
    floors = [frechet(r, e(b)) for r, e in zip(real, embeddings, strict=True)]

    def row(made: list[Tensor], kept: list[Tensor], base: list[float]) -> list[str]:
        cells = []
        for r, m, floor in zip(kept, made, base, strict=True):
            cells += [f"{frechet(r, m) / floor:.2f}", f"{kernel(r, m):.3f}", f"{manifold(r, m).coverage:.2f}"]
        return cells

    for name, spoil in track(SPOILT.items(), "listening", console=Console(stderr=True)):
        table.add_row(name, *row([e(spoil(b)) for e in embeddings], real, floors))
    # Classes swapped: the sounds of one laid against another, over the floor of the class that was asked for.
    for kind in sorted(set(kinds)):
        mine = [i for i, k in enumerate(kinds[: len(a)]) if k == kind]
        own = [i for i, k in enumerate(kinds[len(a) :]) if k == kind]
        for other in sorted(set(kinds) - {kind}):
            theirs = [i for i, k in enumerate(kinds[len(a) :]) if k == other]
            if min(map(len, (mine, own, theirs))) > 1:
                kept = [r[mine] for r in real]
                base = [frechet(r, e(b[own])) for r, e in zip(kept, embeddings, strict=True)]
                table.add_row(f"{kind} asked for, {other} made", *row([e(b[theirs]) for e in embeddings], kept, base))
    Console(width=160).print(table)
    for embedding, x in zip(embeddings, real, strict=True):
        told = Discriminant(x, kinds[: len(a)])(embedding(b))
        print(f"{embedding.name}: {sum(map(str.__eq__, told, kinds[len(a) :])) / len(told):.1%} of classes told")
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
