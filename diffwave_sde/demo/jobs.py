"""A call of the model as steps to iterate over, so that who waits sees it go on, and may stop it between two."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from diffwave_sde.samplers.base import Progress

T = TypeVar("T")


class Stopped(Exception):
    """Raised within a call of the model when nobody waits for it any more."""


@dataclass(frozen=True)
class Step:
    """So many steps are done, of so many in all."""

    done: int
    total: int


@dataclass(frozen=True)
class Result(Generic[T]):
    """What came of it."""

    value: T


class Worker:
    """One thread for all calls of the model, one after the other: threads of its own stay warm, and memory flat."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "model")

    def steps(self, work: Callable[[Progress], T]) -> Iterator[Step | Result[T]]:
        """The steps of `work`, then its result. An iterator that is closed stops the work at its next step.

        Args:
            work: takes what it is to call after every step, with (steps done, steps in all).

        Raises:
            whatever the work raises.
        """
        told: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        stopped = False

        def progress(done: int, total: int) -> None:
            if stopped:
                raise Stopped
            told.put(Step(done, total))

        def run() -> T:
            try:
                progress(0, 1)  # which tells, when the thread is free, whether anybody waits still
                return work(progress)
            finally:
                told.put(None)

        future = self._thread.submit(run)
        try:
            while (step := told.get()) is not None:
                yield step
            yield Result(future.result())
        finally:
            stopped = True

    def close(self) -> None:
        """End the thread when its work is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)
