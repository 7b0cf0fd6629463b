"""What autoencoders give back of held-out sounds.

    python benchmarks/autoencoders.py RUN ... [--n 192] [--batch 16] [--opus 0.93] [--markdown FILE]

The sounds are those of the first run's data. Of each run: the Fréchet distances of the reconstructions from training
clips, over their floor, that of the same sounds as they are (1 is nothing lost; so is a model of latents measured,
which can be no better); the scale-invariant ratio of signal to distortion; auraloss's multi-resolution STFT distance;
of quantised ones the share of the codes that are used, their perplexity and the bitrate. Compression is that of 16-bit
samples to codes; of latents of any numbers, that of samples to numbers.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from rich.console import Console
from rich.table import Table
from tables import markdown, write
from torch import Tensor

from diffwave_sde import audio, checkpoint, metrics
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


class Sounds(NamedTuple):
    """held: (n, T) that no run was trained on. others: as many that some were. rate: Hz."""

    held: Tensor
    others: Tensor
    rate: int


def sounds_of(path: str, count: int) -> Sounds:
    """Those of the data of a run, `count` at most."""
    data = checkpoint.data(path)
    held = torch.from_numpy(data.splits["validation"]).tolist() + torch.from_numpy(data.splits["test"]).tolist()
    read = data.store.read
    x = audio.from_int16(read(held[:count]))
    return Sounds(x, audio.from_int16(read(data.splits["train"][: len(x)])), data.rate)


def distances(y: Tensor, sounds: Sounds, batch: int) -> list[str]:
    """The cells of a row that tell how far y (n, T) is from the sounds."""
    x, cells = sounds.held, []
    for name in ("learned", "log-mel"):
        embed = metrics.embedding(name)
        theirs, own, back = (embed(some) for some in (sounds.others, x, y))
        floor, value = metrics.frechet(theirs, own), metrics.frechet(theirs, back)
        cells.append(f"{value / floor:.2f} ({value:.3g} / {floor:.3g})")
    loss, pairs = Reconstruction(), zip(x.split(batch), y.split(batch), strict=True)
    stft = torch.stack([loss(b[:, None], a[:, None]).stft for a, b in pairs])
    return [*cells, f"{si_sdr(y, x).median():.1f}", f"{stft.mean():.3f}"]


@torch.inference_mode()
def measured(path: str, sounds: Sounds, batch: int) -> list[str]:
    """The row of an autoencoder."""
    loaded = checkpoint.load_autoencoder(path)
    one, x = loaded.module, sounds.held
    usage, made, began = CodeUsage(one.codes), [], time.perf_counter()
    for some in x.split(batch):
        y = audio.compress(some[:, None], loaded.mu)
        made.append(audio.expand(one.decode(one.encode(y), y.shape[-1]), loaded.mu)[:, 0])
    seconds = time.perf_counter() - began
    if one.codes:
        for some in x.split(batch):
            usage.update(one.codes_of(audio.compress(some[:, None], loaded.mu)))
    found = usage.compute() if one.codes else None
    less = (
        16 * loaded.rate / one.bitrate(loaded.rate) if found else x.shape[-1] / (one.channels * one.frames(x.shape[-1]))
    )
    return [
        str(Path(path)),
        f"{loaded.step:,}",
        f"{sum(p.numel() for p in one.parameters()) / 1e6:.3g}",
        *distances(torch.cat(made), sounds, batch),
        f"{100 * found['codebook_usage']:.0f} %" if found else "",
        f"{found['perplexity']:.0f} of {one.codes[0]}" if found else "",
        f"{less:.1f}",
        f"{one.bitrate(loaded.rate) / 1000:.1f}" if found else "",
        f"{1000 * seconds / len(x):.1f}",
    ]


def opus(sounds: Sounds, compression: float, batch: int) -> list[str]:
    """The row of Opus, of all sounds in one stream, so that its head counts for little.

    Args:
        compression: 0 for 256 kbit/s to 1 for 6; the table tells what came out.
    """
    x, full = sounds.held, 48000  # the one rate of Opus
    stream = audio.resample(x.flatten()[None], sounds.rate, full)[0].numpy()
    file, began = io.BytesIO(), time.perf_counter()
    soundfile.write(file, stream, full, format="OGG", subtype="OPUS", compression_level=compression)
    bits = 8 * file.tell() / (x.numel() / sounds.rate)
    file.seek(0)
    back = torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None]
    seconds = time.perf_counter() - began
    y = audio.resample(back, full, sounds.rate)[0, : x.numel()].view_as(x)
    empty, less = "", 16 * sounds.rate / bits
    return [
        "Opus", empty, empty, *distances(y, sounds, batch), empty, empty, f"{less:.1f}", f"{bits / 1000:.1f}",
        f"{1000 * seconds / len(x):.1f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs, checkpoints or exported autoencoders")
    parser.add_argument("--n", type=int, default=192, help="held-out sounds at most (default 192)")
    parser.add_argument("--batch", type=int, default=16, help="sounds at a time (default 16)")
    parser.add_argument(
        "--opus",
        type=float,
        nargs="*",
        default=[],
        help="compressions at which Opus is measured too, 0 for 256 kbit/s to 1 for 6 (default: none); 0.93 is near "
        "the rate of configs/experiment/vq-vae.yaml",
    )
    parser.add_argument("--markdown", type=Path, help="file to write the table to (default: none)")
    options = parser.parse_args()
    sounds = sounds_of(options.runs[0], options.n)
    rows = [measured(run, sounds, options.batch) for run in options.runs]
    rows += [opus(sounds, compression, options.batch) for compression in options.opus]
    table = Table(*HEAD, title=f"up to {options.n} held-out sounds; SI-SDR is the median")
    for row in rows:
        table.add_row(*row)
    Console(width=220).print(table)
    write(options.markdown, markdown(table))


if __name__ == "__main__":
    main()
