"""What a build has finished, so that it goes on after a stop."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from diffwave_sde.data.shards import Shards, close


class Journal:
    """What is finished, a JSON line per item, appended once its samples are on the disk."""

    def __init__(self, path: Path, shards: Shards) -> None:
        self.path, self.shards = path, shards

    def __enter__(self) -> Journal:
        self.file, self.samples = open(self.path, "ab"), self.shards.open()
        self.waiting: list[dict] = []
        self.written = time.monotonic()
        return self

    def append(self, results: list[dict]) -> None:
        self.waiting += results
        if time.monotonic() - self.written > 1.0:  # a sync per chunk would be all there is to do
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            for samples in self.samples:
                os.fsync(samples)
            # Taken before they are written: Ctrl-C while the disk is waited for must not write them twice.
            finished, self.waiting = self.waiting, []
            self.file.write(b"".join(json.dumps(result).encode() + b"\n" for result in finished))
            self.file.flush()
            os.fsync(self.file.fileno())
        self.written = time.monotonic()

    def __exit__(self, *error) -> None:
        try:
            self.flush()
        finally:
            self.file.close()
            close(self.samples)

    @staticmethod
    def read(path: Path, items: int) -> np.ndarray:
        """(items,) where each item's line begins, or -1. A last line that was cut short is cut off."""
        at = np.full(items, -1, np.int64)
        if not path.exists():
            return at
        position = 0
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                at[json.loads(line)["i"]] = position
                position += len(line)
        os.truncate(path, position)
        return at
