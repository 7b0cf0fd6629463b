"""Randomness that is passed in, and that can be found again.

Every draw of the project comes from a generator made by `stream(*key)`: a pure function of its key, such as
(seed, purpose, step, position in the global batch). There is no state to lose: a run that was stopped draws after the
stop what it would have drawn without it, and an example draws the same whatever shares its batch or its process.

A generator draws where it lives, whatever device the numbers are for. Two kinds of device draw different numbers from
one key: so what a listener is to find again on any machine, sounds and validation losses, is drawn on the CPU and
copied. Training draws on its own device, where a large batch of noise costs the CPU longer than a GPU's whole step,
and there all examples at once (`CounterStreams`): a launch for each of them would cost as much.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from diffwave_sde.machine import sent


class CounterStreams:
    """A stream of numbers for each example of a batch, all drawn at once: what costs a launch each with generators.

    Philox4x32-10 in integers of 64 bits: a number is a pure function of the key, the example's row, how many draws
    came before, and its place in the draw; so it is the same on every device, but for the rounding of logarithms.

    Source: Salmon et al. 2011, section 4; Box and Muller 1958.

    Args:
        key: as of `stream`.
        rows: the number of each example's stream, (B,) long, on the device that is to draw.
    """

    def __init__(self, *key: int | str, rows: Tensor):
        self.key, self.rows, self.draws = _seed(key), rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def draw(self, normal: bool, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers, or uniform ones in [0, 1), of `shape` (B, ...): row i from the i-th stream."""
        count = math.prod(shape[1:])
        place = torch.arange(-(-count // 4), device=self.device)[None]
        counter = [place, torch.full_like(place, self.draws), self.rows[:, None] & MASK, self.rows[:, None] >> 32]
        self.draws += 1
        bits = philox(torch.broadcast_tensors(*counter), self.key)
        kind = torch.promote_types(dtype, torch.float32)
        if normal:
            pairs = [((a + 1).to(kind) * 2**-32, b.to(kind) * (math.tau * 2**-32)) for a, b in (bits[:2], bits[2:])]
            turned = [((-2 * u.log()).sqrt(), angle) for u, angle in pairs]
            found = [r * f for r, angle in turned for f in (angle.cos(), angle.sin())]
        else:
            # As many bits as a float32 holds: more could be rounded up to 1.
            found = [(a >> 8).to(kind) * 2**-24 for a in bits]
        return torch.stack(found, -1).flatten(1)[:, :count].reshape(tuple(shape)).to(dtype)


MASK = 2**32 - 1


def philox(counter: Sequence[Tensor], key: int) -> list[Tensor]:
    """Philox4x32-10: four tensors of 32 random bits each for four of a counter's, as integers of 64 bits.

    Source: Salmon et al. 2011, section 4 and table 2.
    """
    a, b, c, d = counter
    low, high = key & MASK, key >> 32 & MASK
    for _ in range(10):
        # Products wrap around at 64 bits; of the sign that the shift brings in nothing is left.
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32 & MASK) ^ b ^ low, second & MASK, (first >> 32 & MASK) ^ d ^ high, first & MASK
        low, high = low + 0x9E3779B9 & MASK, high + 0xBB67AE85 & MASK
    return [a, b, c, d]


Generator = torch.Generator | Sequence[torch.Generator] | CounterStreams | None
"""One generator for the whole batch, one for each example, or None for torch's global one."""


def stream(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on `key` alone, on `device`.

    torch seeds a CPU generator with 32 bits: of n streams about n² / 2³³ pairs are alike, which a mean never notices.
    """
    return torch.Generator(device).manual_seed(_seed(key) >> 1)


def streams(*key: int | str, rows: Sequence[int], device: torch.device | str = "cpu") -> Generator:
    """A stream for each of the rows, which depends on `key` and the row alone: in the way that is fast on `device`."""
    if torch.device(device).type == "cpu":
        return [stream(*key, row) for row in rows]
    return CounterStreams(*key, rows=sent(torch.tensor(rows), device))


def _seed(key: Sequence[int | str]) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def _draw(function, shape, generator: Generator, dtype, device) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return sent(function(tuple(shape), generator=generator, dtype=dtype, device=source), device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: pass one, or one for each example")
    if isinstance(generator, CounterStreams):
        return sent(generator.draw(function is torch.randn, shape, dtype), device)
    source = generator[0].device if len(generator) else torch.device("cpu")
    away = source.type == "cpu" and torch.device(device).type == "cuda"
    drawn = torch.empty(tuple(shape), dtype=dtype, device=source, pin_memory=away)
    # While a GPU is at work, so are the cores that have nothing else to do.
    fill(function, drawn, generator, threads() if away else 1)
    return drawn.to(device, non_blocking=away)


def fill(function, out: Tensor, generators: Sequence[torch.Generator], parts: int = 1) -> None:
    """Draw each row of `out` (n, ...) by `function` from the generator of its own, in so many threads."""
    inference = torch.is_inference_mode_enabled()

    def some(first: int) -> None:
        with torch.inference_mode(inference):  # which a thread does not take over
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
