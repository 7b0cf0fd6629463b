"""What the machine is good at."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4)
def _cpu_has_bfloat16() -> bool:
    ask = getattr(torch.cpu, "get_capabilities", None)  # not before torch 2.10
    able = {} if ask is None else ask()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def bfloat16_is_fast(device: torch.device | str) -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32.

    So they are on newer GPUs, and on CPUs with AMX or AVX512_BF16.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return kind == "cpu" and _cpu_has_bfloat16()


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`. A CUDA GPU is not waited for: the copy leaves from pinned memory, in the order of the stream."""
    if torch.device(device).type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
