"""From sounds to rows of a store: here, or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from diffwave_sde.data.shards import Shards, close
from diffwave_sde.names import escape

CHUNK = 32  # clips in one task of a worker, and between two entries of the journal


def convert_all(tasks: Iterable[list], workers: int, shards: Shards) -> Iterator[list[dict]]:
    """Converts chunk by chunk, here or in processes, and yields what became of the items of each."""
    if workers < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over several threads round otherwise than over one
        try:
            files = shards.open()
            for task in tasks:
                yield _convert(task, (shards, files))
            close(files)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (shards,))
    pending: set = set()
    try:
        for task in tasks:
            pending.add(pool.submit(_convert, task))
            if len(pending) > 3 * workers:  # no more in flight than keeps everyone busy
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise OSError("a worker process died (out of memory?); prepare again to go on, with fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_target: tuple[Shards, list[int]]


def _start(shards: Shards) -> None:
    global _target
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops the workers
    _target = shards, shards.open()

    def follow() -> None:
        # a parent that was killed leaves its workers waiting for ever
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _convert(task: list, target: tuple[Shards, list[int]] | None = None) -> list[dict]:
    """Loads each (i, item), writes its window to row i, and reports on it."""
    shards, files = target or _target
    results = []
    for i, item in task:
        try:
            clip = item.load(shards.length)
        except Exception as error:  # whatever one file brings, the build goes on, and the manifest says what it was
            results.append({"i": i, "reason": _reason(item, error)})
            continue
        number, start = shards.at(i)
        os.pwrite(files[number], clip.window.tobytes(), start)
        results.append({"i": i} | clip._asdict() | {"window": None})
    return results


def _reason(item, error: Exception) -> str:
    text = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
    return text.partition(f"{escape(item.file)}: ")[2] or text
