"""How PyTorch's threads should wait for one another: training and sampling beside a busy core, and beside nothing.

OpenMP's threads spin while they wait. Where another program takes a core, the thread without one holds up all others.
Each setting of OpenMP is a process of its own, since it is read when the library is loaded. The settings take turns,
alone and beside a loop that keeps one core busy, so that a drift of the machine's speed falls on all of them alike.

    python benchmarks/threads.py --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

SETTINGS = {
    "as OpenMP has it": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


def work(kind: str, seconds: float, batch_size: int) -> float:
    """Steps a second of a bare training step, or of a network call of one sound; within this process."""
    import torch

    from diffwave_sde import checkpoint
    from diffwave_sde.denoiser import Condition
    from diffwave_sde.machine import bfloat16_is_fast

    denoiser = checkpoint.load("drums").module.denoiser
    training = kind == "train"
    denoiser.train(training).requires_grad_(training)
    n = batch_size if training else 1
    x, t, label = torch.randn(n, 1, 1, 21_000), torch.rand(n, dtype=torch.float64) * 0.9 + 0.05, torch.zeros(n).long()

    def step() -> None:
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast("cpu")):
            D = denoiser(x, t, Condition(label=label))
        if training:
            D.float().square().mean().backward()

    step()
    began, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        step()
        steps += 1
    return steps / passed


def measure(kind: str, setting: dict[str, str], busy: bool, options: argparse.Namespace) -> float:
    """`work` in a process of this setting, beside a busy core or not."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, __file__, "--work", kind, "--seconds", str(options.seconds)]
        command += ["--batch_size", str(options.batch_size)]
        done = subprocess.run(command, env=environment | setting, capture_output=True, text=True, check=True)
        return float(done.stdout)
    finally:
        if loop is not None:
            loop.kill()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting (default 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of work of a turn (default 8)")
    parser.add_argument("--batch_size", type=int, default=16, help="clips of a training step (default 16)")
    parser.add_argument("--work", choices=["train", "sample"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(work(options.work, options.seconds, options.batch_size))
        return
    rates: dict[tuple[str, str, bool], list[float]] = {}
    for _ in range(options.rounds):
        for name, setting in SETTINGS.items():
            for kind in ("train", "sample"):
                for busy in (False, True):
                    rates.setdefault((name, kind, busy), []).append(measure(kind, setting, busy, options))
    table = Table(title=f"training steps, and network calls of one sound, a second: median of {options.rounds}")
    for head in ("", "train", "beside a busy core", "call", "beside a busy core"):
        table.add_column(head, justify="right" if head else "left")
    for name in SETTINGS:
        cells = (statistics.median(rates[name, kind, busy]) for kind in ("train", "sample") for busy in (False, True))
        table.add_row(name, *(f"{cell:.2f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
