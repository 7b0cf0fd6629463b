"""What a network call costs, ours beside those of others, and how far that is from what the machine can do.

    python benchmarks/network.py [--batch 8] [--length 21000] [--threads 2] [--device cpu] [--markdown FILE]

A call is the denoiser's, preconditioning included; a step of training is its loss and gradient, without the optimizer.
All networks take turns, round by round, and a network's time is the least of its rounds: the machine is not ours alone.

FLOPs are those of products and convolutions, two for a multiplication and an addition. Bytes are what all operations
read and write, one by one, as they would if nothing were fused and nothing stayed in a cache: those of a call of
the whole batch. The limit is the longer of FLOPs over the rate of a large product of matrices and of bytes over that of
a large copy, both measured here in between; the share is that over the time taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from peers import SMALL
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffwave_sde import audio
from diffwave_sde.checkpoint import build
from diffwave_sde.cli.kinds import CONFIGS
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.model import Model

PEER = {"class_path": "peers.AudioDiffusion", "init_args": {"inputs": 1}}


def networks() -> dict[str, dict]:
    """What `model.net` says of each network."""
    found = {}
    for name in ("tiny", "base", "crash"):
        model = yaml.safe_load((CONFIGS / "network" / f"{name}.yaml").read_text())["model"]
        found[name] = {**model["net"], "init_args": {**model["net"].get("init_args", {}), "inputs": 1, "classes": 3}}
    if importlib.util.find_spec("audio_diffusion_pytorch"):
        found["audio-diffusion-pytorch, 7 levels"] = {**PEER, "init_args": {**PEER["init_args"], **SMALL}}
        found["audio-diffusion-pytorch, 9 levels"] = PEER
    return found


class Bytes(TorchDispatchMode):
    """Counts what operations read and write."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.total += sum(x.numel() * x.element_size() for x in tensors)
        return out


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Line:
    """A network, and what is asked of it.

    Args:
        net: what `model.net` says.
        batch: clips.
        half: whether it computes in bfloat16 where autocast does.
        device: where.
        length: samples of a clip.
    """

    def __init__(self, net: dict, batch: int, half: bool, device: torch.device, length: int):
        torch.manual_seed(0)
        self.denoiser: Denoiser = build({"net": net}, Model).denoiser.to(device)
        self.half, self.device = half, device
        self.u = torch.randn(batch, self.denoiser.sde.blocks, 1, length, device=device)
        self.t = torch.full((batch,), 0.5, dtype=torch.float64, device=device)
        self.label = torch.zeros(batch, dtype=torch.long, device=device)

    def call(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.denoiser(self.u, self.t, Condition(label=self.label))

    @torch.no_grad()
    def sample(self) -> None:
        self.call()

    def train(self) -> None:
        self.denoiser.zero_grad()
        self.call().square().mean().backward()


def rates(device: torch.device, half: bool) -> tuple[Callable[[], object], float, Callable[[], object], float]:
    """A product of matrices and its FLOPs, and a copy and its bytes."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if half else torch.float32)
    x = torch.randn(2**26, device=device)
    y = torch.empty_like(x)
    return lambda: a @ a, 2.0 * n**3, lambda: y.copy_(x), 2.0 * x.numel() * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips at a time (default 8)")
    parser.add_argument("--length", type=int, default=audio.LENGTH, help="samples of a clip (default 21000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all networks (default 5)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch (default: cores)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--only", help="names of networks, a;b;... (default: all that are installed)")
    parser.add_argument("--forward", action="store_true", help="no training (default: both)")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    nets = networks()
    chosen = options.only.split(";") if options.only else list(nets)
    if unknown := [name for name in chosen if name not in nets]:
        parser.error(f"--only {unknown[0]}: choose from {'; '.join(nets)}")
    precisions = [False, True] if bfloat16_is_fast(device) else [False]
    lines = {
        (name, half): Line(nets[name], options.batch, half, device, options.length)
        for name in chosen
        for half in precisions
    }
    counted = {}
    for key, line in lines.items():
        with FlopCounterMode(display=False) as flops, Bytes() as moved:
            line.sample()
        counted[key] = flops.get_total_flops(), moved.total
    limits = {half: rates(device, half) for half in precisions}
    best: dict[tuple, float] = {}

    def note(key: tuple, seconds: float) -> None:
        best[key] = min(best.get(key, float("inf")), seconds)

    for _ in track(range(options.rounds), "measuring", console=Console(stderr=True)):
        for half, (product, _, copy, _) in limits.items():
            note(("product", half), timed(product, device))
            note(("copy", half), timed(copy, device))
        for (name, half), line in lines.items():
            note((name, half, "call"), timed(line.sample, device))
            if not options.forward:
                note((name, half, "train"), timed(line.train, device))
                line.denoiser.zero_grad()
    table = Table(
        *("", "precision", "M weights", "GFLOP a clip", "MB a clip", "ms a clip and call", "over the first"),
        *("limit, ms", "share of the limit", *(() if options.forward else ("ms to train a clip",))),
        title=f"{options.length:,} samples, batches of {options.batch}, {device} ({options.threads} threads)",
    )
    first = best[(*next(iter(lines)), "call")]
    for (name, half), line in lines.items():
        flops, moved = counted[name, half]
        _, product_flops, _, copy_bytes = limits[half]
        limit = max(flops / (product_flops / best["product", half]), moved / (copy_bytes / best["copy", half]))
        seconds = best[name, half, "call"]
        cells = ["bfloat16" if half else "float32", f"{sum(p.numel() for p in line.denoiser.parameters()) / 1e6:.1f}"]
        cells += [f"{flops / options.batch / 1e9:.2f}", f"{moved / options.batch / 1e6:.0f}"]
        cells += [f"{1e3 * seconds / options.batch:.2f}", f"{seconds / first:.2f}"]
        cells += [f"{1e3 * limit / options.batch:.2f}", f"{limit / seconds:.0%}"]
        if not options.forward:
            cells.append(f"{1e3 * best[name, half, 'train'] / options.batch:.1f}")
        table.add_row(name, *cells)
    table.caption = "; ".join(
        f"{'bfloat16' if half else 'float32'}: {product_flops / best['product', half] / 1e9:,.0f} GFLOP/s, "
        f"{copy_bytes / best['copy', half] / 1e9:.1f} GB/s"
        for half, (_, product_flops, _, copy_bytes) in limits.items()
    )
    console = Console()
    console.print(table)
    write(options.markdown, markdown(table) + f"\n{table.caption}\n")


if __name__ == "__main__":
    main()
