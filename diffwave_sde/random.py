"""Randomness that is passed in, and that can be found again.

Every draw of the project comes from a generator made by `stream(*key)`: a pure function of its key, such as
(seed, purpose, step, position in the global batch). There is no state to lose: a run that was stopped draws after the
stop what it would have drawn without it, and an example draws the same whatever shares its batch or its process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

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
        return function(tuple(shape), generator=generator, dtype=dtype, device=source).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: pass one, or one for each example")
    rows = [function(tuple(shape[1:]), generator=g, dtype=dtype, device=g.device) for g in generator]
    return torch.stack(rows).to(device)


def randn(shape, generator: Generator = None, dtype=torch.float32, device="cpu") -> Tensor:
    """Standard normal numbers of `shape`; with a sequence of generators, row i is drawn from the i-th alone."""
    return _draw(torch.randn, shape, generator, dtype, device)


def rand(shape, generator: Generator = None, dtype=torch.float32, device="cpu") -> Tensor:
    """Uniform numbers in [0, 1) of `shape`, drawn as in `randn`."""
    return _draw(torch.rand, shape, generator, dtype, device)
