"""What autoencoders give back of held-out sounds.

    python benchmarks/autoencoders.py RUN ... [--n 192] [--batch 16] [--markdown FILE]

Of each run: the Fréchet distances of the reconstructions from training clips, over their floor, that of the same sounds
as they are (1 is nothing lost; so is a model of latents measured, which can be no better); the scale-invariant ratio of
signal to distortion; auraloss's multi-resolution STFT distance; of quantised ones the share of the codes that are used,
their perplexity and the bitrate. Compression is that of 16-bit samples to codes; of latents of any numbers, that of
samples to numbers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tables import markdown
from torch import Tensor

from diffwave_sde import audio, checkpoint, metrics
from diffwave_sde.atomic import atomic_write
from diffwave_sde.autoencoder import Reconstruction
from diffwave_sde.autoencoder_module import CodeUsage

HEAD = [
    "run", "steps", "weights, M", "learned FD / floor", "log-mel FD / floor", "SI-SDR, dB", "STFT distance",
    "codes used", "perplexity", "compression", "kbit/s", "ms a sound",
]  # fmt: skip


def si_sdr(y: Tensor, x: Tensor) -> Tensor:
    """Scale-invariant signal over distortion of y (n, T) against x, dB, (n,). Source: Le Roux et al. 2019, eq. 3."""
    power = x.square().sum(-1, keepdim=True).clamp_min(1e-12)
    target = (y * x).sum(-1, keepdim=True) / power * x
    return 10 * (target.square().sum(-1).clamp_min(1e-12) / (y - target).square().sum(-1).clamp_min(1e-12)).log10()


@torch.inference_mode()
def measured(path: str, count: int, batch: int) -> list[str]:
    """A row of the table."""
    loaded = checkpoint.load_autoencoder(path)
    one, data = loaded.module, checkpoint.data(path)
    held = torch.from_numpy(data.splits["validation"]).tolist() + torch.from_numpy(data.splits["test"]).tolist()
    rows = held[:count]
    x = audio.from_int16(data.store.read(rows))
    others = audio.from_int16(data.store.read(data.splits["train"][: len(rows)]))
    usage, made, began = CodeUsage(one.codes), [], time.perf_counter()
    for some in x.split(batch):
        y = audio.compress(some[:, None], loaded.mu)
        made.append(audio.expand(one.decode(one.encode(y), y.shape[-1]), loaded.mu)[:, 0])
    seconds = time.perf_counter() - began
    if one.codes:
        for some in x.split(batch):
            usage.update(one.codes_of(audio.compress(some[:, None], loaded.mu)))
    y = torch.cat(made)
    cells = []
    for name in ("learned", "log-mel"):
        embed = metrics.embedding(name)
        theirs, own, back = (embed(sounds) for sounds in (others, x, y))
        floor, value = metrics.frechet(theirs, own), metrics.frechet(theirs, back)
        cells.append(f"{value / floor:.2f} ({value:.3g} / {floor:.3g})")
    loss, pairs = Reconstruction(), zip(x.split(batch), y.split(batch), strict=True)
    stft = torch.stack([loss(b[:, None], a[:, None]).stft for a, b in pairs])
    found = usage.compute() if one.codes else None
    less = (
        16 * loaded.rate / one.bitrate(loaded.rate) if found else x.shape[-1] / (one.channels * one.frames(x.shape[-1]))
    )
    return [
        str(Path(path)),
        f"{loaded.step:,}",
        f"{sum(p.numel() for p in one.parameters()) / 1e6:.3g}",
        *cells,
        f"{si_sdr(y, x).median():.1f}",
        f"{stft.mean():.3f}",
        f"{100 * found['codebook_usage']:.0f} %" if found else "",
        f"{found['perplexity']:.0f} of {one.codes[0]}" if found else "",
        f"{less:.1f}",
        f"{one.bitrate(loaded.rate) / 1000:.1f}" if found else "",
        f"{1000 * seconds / len(x):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs, checkpoints or exported autoencoders")
    parser.add_argument("--n", type=int, default=192, help="held-out sounds at most (default 192)")
    parser.add_argument("--batch", type=int, default=16, help="sounds at a time (default 16)")
    parser.add_argument("--markdown", type=Path, help="file to write the table to (default: none)")
    options = parser.parse_args()
    rows = [measured(run, options.n, options.batch) for run in options.runs]
    table = Table(*HEAD, title=f"up to {options.n} held-out sounds; SI-SDR is the median")
    for row in rows:
        table.add_row(*row)
    Console(width=220).print(table)
    if options.markdown:
        with atomic_write(options.markdown) as temporary:
            temporary.write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    main()
