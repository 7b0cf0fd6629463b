"""Randomness that is passed in, and that can be found again.

Every draw of the project comes from a generator made by `stream(*key)`: a pure function of its key, such as
(seed, purpose, step, position in the global batch). There is no state to lose: a run that was stopped draws after the
stop what it would have drawn without it, and an example draws the same whatever shares its batch or its process.

A generator draws where it lives, whatever device the numbers are for. Two kinds of device draw different numbers from
one key: so what a listener is to find again on any machine, sounds and validation losses, is drawn on the CPU and
copied. Training draws on its own device, where a large batch of noise costs the CPU longer than a GPU's whole step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from diffwave_sde.machine import sent

Generator = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch, one for each example, or None for torch's global one."""


def stream(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on `key` alone, on `device`.

    torch seeds a CPU generator with 32 bits: of n streams about n² / 2³³ pairs are alike, which a mean never notices.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def _draw(function, shape, generator: Generator, dtype, device) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return sent(function(tuple(shape), generator=generator, dtype=dtype, device=source), device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: pass one, or one for each example")
    source = generator[0].device if len(generator) else torch.device("cpu")
    away = source.type == "cpu" and torch.device(device).type == "cuda"
    drawn = torch.empty(tuple(shape), dtype=dtype, device=source, pin_memory=away)
    # While a GPU is at work, so are the cores that have nothing else to do.
    fill(function, drawn, generator, threads() if away else 1)
    return drawn.to(device, non_blocking=away)


def fill(function, out: Tensor, generators: Sequence[torch.Generator], parts: int = 1) -> None:
    """Draw each row of `out` (n, ...) by `function` from the generator of its own, in so many threads."""

    def some(first: int) -> None:
        for i in range(first, len(generators), parts):
            function(tuple(out.shape[1:]), generator=generators[i], dtype=out.dtype, out=out[i])

    if parts == 1 or len(generators) == 1:
        for first in range(parts):
            some(first)
    else:
        list(_pool(parts).map(some, range(parts)))


def threads() -> int:
    """How many threads draw what a GPU is to get."""
    return max(1, min(16, (os.cpu_count() or 1) - 1))


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="draw")


def randn(shape, generator: Generator = None, dtype=torch.float32, device="cpu") -> Tensor:
    """Standard normal numbers of `shape`; with a sequence of generators, row i is drawn from the i-th alone."""
    return _draw(torch.randn, shape, generator, dtype, device)


def rand(shape, generator: Generator = None, dtype=torch.float32, device="cpu") -> Tensor:
    """Uniform numbers in [0, 1) of `shape`, drawn as in `randn`."""
    return _draw(torch.rand, shape, generator, dtype, device)
