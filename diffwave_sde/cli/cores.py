"""How many cores are free.

PyTorch's threads wait for one another at every operation, so one that has no core to itself holds up all: three sounds
took 62 s on two threads beside a busy core, and 2.4 s on one (docs/speed.md). What other programs take is measured
while this one loads its libraries.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import psutil

TRAINING = ("fit", "validate", "test")  # verbs that take all cores for long
LEAST = 0.5  # s: in less the counters of the system, in steps of 10 ms, tell too little


@dataclass(frozen=True)
class Reading:
    """Seconds on a clock, and of work done since the system began: by all programs, and by this one."""

    clock: float
    all: float
    own: float


_began: Reading | None = None


def read() -> Reading:
    """The counters now."""
    system, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
    # A guest's time is counted in the user's too.
    idle = {"idle", "iowait", "guest", "guest_nice"}
    work = sum(seconds for kind, seconds in system.items() if kind not in idle)
    return Reading(time.monotonic(), work, own.user + own.system)


def set_wait_policy(verb: str) -> None:
    """Let OpenMP's threads sleep while they wait, in a training: to be called before torch is loaded.

    Where another program takes a core, threads that spin hold up one another; where none does, sleeping ones lose a
    tenth of a training, and a third of a sampling, which takes only as many threads as cores are free and need not
    (benchmarks/threads.py, docs/notebook/busy-machine.md). OMP_WAIT_POLICY and GOMP_SPINCOUNT are obeyed where set.
    """
    if verb in TRAINING and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def start_monitor() -> None:
    """Begin to count: to be called when the program starts."""
    global _began
    _began = read()


def free(before: Reading, after: Reading, cores: int) -> int | None:
    """Cores that other programs left free between two readings, at least one; None if that was too short a time."""
    seconds = after.clock - before.clock
    if seconds < LEAST:
        return None
    others = (after.all - before.all) - (after.own - before.own)
    return max(cores - round(max(others, 0.0) / seconds), 1)


def limit_threads() -> None:
    """Take as many threads as cores are free, once, for what a CPU does in a short while; and say so if that is fewer.

    Nothing is changed where OMP_NUM_THREADS names a number, or if `start_monitor` was not called.
    """
    global _began
    import torch  # not above: `start_monitor` comes before all that is slow

    before, _began = _began, None
    if before is None or "OMP_NUM_THREADS" in os.environ:
        return
    cores = psutil.cpu_count() or 1
    found = free(before, read(), cores)
    if found is not None and found < torch.get_num_threads():
        torch.set_num_threads(found)
        print(
            f"other programs leave {found} of {cores} cores free; threads: {found} (OMP_NUM_THREADS=n for n)",
            file=sys.stderr,
        )
