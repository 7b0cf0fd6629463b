"""Everything that a GPU has to show, in one run of a few minutes: correct, how fast, and a better model out of it.

    python benchmarks/gpu.py --out DIR [--minutes 9] [--only same,network] [--store FOLDER] [--device cpu --quick]

Stages, in this order; each is a process of its own, and what it found is in DIR/gpu.json and DIR/gpu.md as it goes on:

    same      loss, gradient and sounds against the CPU, and that nothing waits for the GPU
    network   clips a second to train and to call, memory, share of the chip's peak, what a step spends its time on
    sampling  sounds a second, eager and captured as CUDA graphs, over the bare network
    ddp       several processes against one
    model     training for all the time that is left, exported again and again, and evaluated

A part that fails is told with its error, and the next one goes on; what no time was left for is named. The exit status
is 1 if anything failed. `--device cpu --quick` runs it all small, to see that it runs. What to bring to a machine that
can fetch nothing: docs/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_stages.report import Stage, read, write_summary

BENCHMARKS = Path(__file__).resolve().parent
SECONDS = {"same": 100, "network": 110, "sampling": 60, "ddp": 60, "model": 210}
"""What each stage is given of nine minutes; the last one takes what is left."""
QUICK = {"same": 30, "network": 25, "sampling": 25, "ddp": 40, "model": 60}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder for what is found, the logs and the model")
    p.add_argument("--minutes", type=float, help="minutes in all (default 9; 3 with --quick)")
    p.add_argument("--only", help=f"stages, a,b,... (default {','.join(SECONDS)})")
    p.add_argument("--parts", help="parts of the stages: those whose name this regular expression finds (default all)")
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="where (default cuda)")
    p.add_argument("--quick", action="store_true", help="everything small: whether it runs, not how fast")
    p.add_argument("--ckpt", default="drums", help="model to sample from (default: the model drums)")
    p.add_argument("--dataset", help="data to train on (default: drums-free where --store has it, else drums)")
    p.add_argument("--store", type=Path, help="folder of prepared stores, as `make data` leaves it (default OUT/data)")
    p.add_argument("--stage", choices=SECONDS, help=argparse.SUPPRESS)
    return p


def main() -> None:
    p = parser()
    options = p.parse_args()
    options.out, options.store = options.out.resolve(), (options.store or options.out / "data").resolve()
    if options.stage:
        run_stage(options)
        return
    chosen = options.only.split(",") if options.only else list(SECONDS)
    if unknown := [name for name in chosen if name not in SECONDS]:
        p.error(f"--only {unknown[0]}: choose from {', '.join(SECONDS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    minutes = options.minutes or (3 if options.quick else 9)
    sys.exit(run_all([name for name in SECONDS if name in chosen], minutes * 60, options))


def run_all(names: list[str], seconds: float, options: argparse.Namespace) -> int:
    """Run the stages one after another within so many seconds; the exit status."""
    began = time.monotonic()
    shares = QUICK if options.quick else SECONDS
    scale = seconds / sum(shares.values())
    for name in names:  # of an earlier run into this folder
        (options.out / f"{name}.json").unlink(missing_ok=True)
    waiting = Process(names[0], options)
    try:
        for name, later in zip(names, [*names[1:], None], strict=True):
            process, waiting = waiting, later and Process(later, options)  # which loads its libraries meanwhile
            left = max(seconds - (time.monotonic() - began), 10.0)
            budget = shares[name] * (scale if options.quick else min(1.0, scale)) if later else left
            print(f"== {name}: up to {budget:.0f} s", flush=True)
            start = time.monotonic()
            status, error = process.run(budget, 2 * budget if later else budget + 15)
            path = options.out / f"{name}.json"
            stage = read(path) or Stage(name, path)
            stage.finish(status, error, time.monotonic() - start)
            found = [read(options.out / f"{other}.json") for other in names]
            write_summary([one for one in found if one is not None], options.out, options.device, options.quick)
            print(stage.text(), flush=True)
    finally:
        if waiting is not None:
            waiting.end()
    return int(any(read(options.out / f"{name}.json").failed for name in names))


class Process:
    """A stage's process, which waits to be told how many seconds it has.

    A GPU that one stage has brought into disorder is in order again for the next, and none can outstay its time.
    """

    def __init__(self, name: str, options: argparse.Namespace):
        path = [str(BENCHMARKS.parent), os.environ.get("PYTHONPATH")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        if options.device == "cpu":  # two threads that wait for each other on a busy machine take ten times as long
            env.setdefault("OMP_NUM_THREADS", "1")
        self.log = options.out / f"{name}.log"
        with open(self.log, "w", encoding="utf-8") as file:
            self.child = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--stage", name],
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True,
            )  # fmt: skip

    def run(self, budget: float, limit: float) -> tuple[str, str | None]:
        """Let it run, for `limit` seconds at most: how it ended, and the error if it did not end well."""
        try:
            with contextlib.suppress(BrokenPipeError):
                self.child.communicate(f"{budget}\n".encode(), limit)
        except subprocess.TimeoutExpired:
            return "stopped", f"stopped after {limit:.0f} s; what it had found by then stands"
        finally:
            self.end()
        if self.child.returncode == 0:
            return "done", None
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "failed", (lines or [f"exit status {self.child.returncode}"])[-1][:300]

    def end(self) -> None:
        """End it, with all that it started."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()


def run_stage(options: argparse.Namespace) -> None:
    """Run one stage here, once it is told how many seconds it has."""
    from gpu_stages.work import Work

    stage = importlib.import_module(f"gpu_stages.{options.stage}")
    if told := sys.stdin.readline():
        stage.run(Work.begin(options, float(told)))


if __name__ == "__main__":
    main()
